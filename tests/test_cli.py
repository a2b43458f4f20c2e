"""The command line: exit codes, one line for a mistake, help that fits a screen."""

import json
import subprocess
import sys

import pytest

from clipjax import cli

CONFIG = """
from clipjax.config import default_config

def get_config():
    config = default_config()
    config.model.preset = "tiny"
    config.total_steps = 2
    config.optimizer.warmup_steps = 1
    config.batch_size = 8
    return config
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "required: --config, --workdir"),
        (["train", "--config=CONFIG", "--workdir=W", "--confg.x=1"], "--confg.x=1: not an option of this command"),
        (["train", "--config=none.py", "--workdir=W"], "none.py: no such file"),
        (["train", "--config=CONFIG", "--workdir=W", "--config.batchsize=4"], "config.batchsize: no such key"),
        (
            ["train", "--config=CONFIG", "--workdir=W", "--config.mesh.fsdp=3"],
            "mesh: fsdp=3 x tensor=1 does not divide",
        ),
        (["train", "--config=CONFIG", "--workdir=W", "--config.mesh.data=4"], "needs 4 devices, but 8 are here"),
        (["train", "--config=CONFIG", "--workdir=W", "--config.mesh.data=0"], "mesh.data: 0 should be at least 1"),
        (
            ["train", "--config=CONFIG", "--workdir=W", "--config.mesh.tensor=4"],
            "model.image.heads: 1 does not divide by mesh.tensor=4",
        ),
        (
            ["train", "--config=CONFIG", "--workdir=W", "--config.model.preset=tiny-resnet", "--config.mesh.tensor=8"],
            "model.image.heads: 4 does not divide by mesh.tensor=8",
        ),
        (
            ["train", "--config=CONFIG", "--workdir=W", "--config.mesh.num_slices=2"],
            "devices here (cpu) lie in no slice",
        ),
        (["train", "--config=CONFIG", "--workdir=W", "--config.remat=offload"], "remat: 'offload' moves"),
        (["train", "--config=CONFIG", "--workdir=W", "--config.remat=all"], "remat: 'all' should be 'none' or 'block'"),
        (["train", "--config=CONFIG", "--workdir=W", "--config.data.train=none/*.tar"], "data.train: no file matches"),
        (["train", "--config=CONFIG", "--workdir=W"], "data.train"),
        (["evaluate", "--checkpoint=none", "--data=D", "--out=O"], "D"),
        (["evaluate", "--checkpoint=none", "--data=", "--out=O"], "data: no folder was given"),
        (["train", "--config=CONFIG", "--workdir="], "an empty name says where results go"),
        (["embed", "--checkpoint=C", "--data=D", "--out=F.csv"], "'F.csv' should end with .npz or .parquet"),
        (["search", "--embeddings=F.npz", "--checkpoint=C", "--text=a", "--out=P"], "no file F.npz. Make it with"),
        (["search", "--embeddings=F.npz", "--checkpoint=C", "--out=P"], "nothing is asked"),
        (["interpolate", "A", "B"], "give --data and --out to score, or --save"),
        (["interpolate", "A", "B", "--data=D", "--out=O", "--alphas=0,2"], "alphas: [0.0, 2.0] should be numbers"),
        (["plan", "--config=CONFIG"], "required: --topology"),
        (["plan", "--config=CONFIG", "--topology=v9:4x4"], "topology: 'v9:4x4' is not known. There are: v5e, v6e as"),
        (["plan", "--config=CONFIG", "--topology=cpu:4", "--config.mesh.fsdp=3"], "mesh: fsdp=3 x tensor=1 does not"),
        (["plan", "--config=CONFIG", "--topology=cpu:3"], "batch_size: 8 does not divide by mesh.data=3"),
        (["plan", "--config=CONFIG", "--topology=cpu:2", "--config.mesh.tensor=2"], "heads: 1 does not divide by mesh"),
        (["plan", "--config=CONFIG", "--topology=cpu:2", "--config.micro_batch_size=3"], "micro_batch_size: 3"),
        (["prepare", "imagenet", "--out=O"], "invalid choice: 'imagenet'"),
        (["train", "--config=CONFIG", "--workdir=W", "--config.batch_size", "8"], "equals sign: --config.batch_size=8"),
        (
            ["train", "--config=CONFIG", "--workdir=W", "--seed=1"],
            "--seed=1: not an option of this command. See clipjax train --help",
        ),
        (["prepare", "demo", "--out=O", "--seed=-1"], "--seed: '-1' should be a whole number of at least 0"),
        (["prepare", "demo", "--out=gs://B/O"], "gs://B/O: an address, but results are written to local folders"),
        (["evaluate", "--config.seed=1", "--checkpoint=C", "--data=D", "--out=O"], "--config.seed=1: not an option"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(config, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    arguments = [item.replace("CONFIG", str(config)) for item in arguments]
    assert cli.main(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("clipjax: ") and said in last


def test_help_fits_a_screen_and_every_command_shows_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24
    for command in ("train", "evaluate", "interpolate", "embed", "search", "prepare", "inspect", "models"):
        assert command in shown
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert f"example:\n  clipjax {command}" in capsys.readouterr().out


def test_help_loads_no_jax():
    code = (
        "import sys\n"
        "from clipjax import cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_train_and_evaluate_from_the_shell(config, shards, colour_folders, tmp_path):
    def run(*command):
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)

    trained = run("-m", "clipjax", "train", f"--config={config}", "--workdir=W", f"--config.data.train={shards}")
    assert trained.returncode == 0, trained.stderr
    # The separate evaluation program must work where the training code cannot even be imported.
    program = (
        "import sys; sys.modules['clipjax.training'] = None\n"
        "from clipjax.cli import evaluate_main\n"
        f"sys.exit(evaluate_main(['--checkpoint=W', '--data={colour_folders}', '--out=O']))"
    )
    scored = run("-c", program)
    assert scored.returncode == 0, scored.stderr
    assert scored.stdout.splitlines()[-1] == "report: O/report.html"
    report = json.loads((tmp_path / "O/report.json").read_text())
    assert {row["metric"] for row in report["results"]} == {"accuracy", "accuracy_top5", "mean_per_class"}
    mixed = run("-m", "clipjax", "interpolate", "W", "W", f"--data={colour_folders}", "--out=I", "--save=M")
    assert mixed.returncode == 0, mixed.stderr
    assert len(mixed.stdout.splitlines()) == 11 * 3 + 2 and mixed.stdout.endswith("alpha 0.5: M\n")
    embedded = run("-m", "clipjax", "embed", "--checkpoint=W", f"--data={colour_folders}", "--out=E.npz")
    assert embedded.stdout == "E.npz: 12 pictures, 32 numbers each\n", embedded.stderr
    query = ["--text=a red picture", f"--image={colour_folders}/blue/1.png", "--count=3", "--out=page.html"]
    found = run("-m", "clipjax", "search", "--embeddings=E.npz", "--checkpoint=W", *query)
    assert found.returncode == 0, found.stderr
    assert "  1.0000  blue/1.png" in found.stdout.splitlines() and found.stdout.endswith("page: page.html\n")
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 7


@pytest.mark.slow
def test_inspect_and_prepare_print_what_they_found(config, shards, tmp_path, capsys):
    assert cli.main(["inspect", f"--config={config}", f"--config.data.train={shards}"]) == 0
    assert "40" in capsys.readouterr().out
    assert cli.main(["prepare", "demo", f"--out={tmp_path}/demo"]) == 0
    assert (tmp_path / "demo/zeroshot/classnames.txt").is_file()


@pytest.mark.slow
def test_a_plan_prints_one_json_object_and_nothing_else(config, capfd):
    assert cli.main(["plan", f"--config={config}", "--topology=cpu:2", "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert made["fits"] and made["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
