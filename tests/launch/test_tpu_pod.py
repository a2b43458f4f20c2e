"""launch/tpu_pod.sh against a gcloud that keeps a slice of two workers, each a folder, and runs what it is sent."""

import json
import tarfile
import time

import pytest

GCLOUD = """
assert words[:3] == ["compute", "tpus", "tpu-vm"], words
verb, rest = words[3], words[4:]
assert "--zone=z" in rest and "--project=p" in rest, words
flags = dict(word[2:].split("=", 1) for word in rest if word.startswith("--") and "=" in word)
slice_state = state("slice", "")
workers = [cluster / f"worker-{number}" for number in range(2)]
chosen = workers if flags.get("worker") == "all" else workers[: 1]
if verb == "describe":
    assert flags["format"] == "value(state)"
    print(slice_state)
    sys.exit(0 if slice_state else 1)
if verb == "create":
    assert flags["accelerator-type"] == "v5litepod-8" and flags["version"] == "v2", words
    refusals = state("refusals", 0)
    keep("refusals", max(refusals - 1, 0))
    if refusals:
        sys.exit("no capacity")
    for worker in workers:
        (worker / "clipjax/.venv/bin").mkdir(parents=True)
        (worker / "clipjax/.venv/bin/python").symlink_to(cluster / "bin/python")
    keep("slice", "READY")
elif verb == "delete":
    import shutil
    assert "--quiet" in rest
    [shutil.rmtree(worker) for worker in workers if worker.exists()]
    keep("slice", "")
elif slice_state != "READY":
    sys.exit("cannot reach it")
elif verb == "scp":
    import shutil
    assert rest[1] == "NAME:clipjax.tar.gz" and chosen == workers
    [shutil.copy(rest[0], worker / "clipjax.tar.gz") for worker in chosen]
elif verb == "ssh":
    running = []
    for worker in chosen:
        running.append(subprocess.Popen(["bash", "-c", flags["command"]], cwd=worker, stdin=subprocess.DEVNULL))
    codes = [process.wait() for process in running]
    if (cluster / "preempt").exists():
        (cluster / "preempt").unlink()
        keep("slice", "PREEMPTED")
        sys.exit(255)
    sys.exit(max(codes))
else:
    sys.exit(f"gcloud: {words}")
"""
PYTHON = """
if words[:2] == ["-m", "pip"]:
    sys.exit(0)
assert words[:2] == ["-m", "clipjax"] and os.environ["CLIPJAX_COORDINATOR"] == "auto", words
worker = pathlib.Path.cwd().parent.name
print(f"this is {worker}", flush=True)
codes = state(f"codes-{worker}", state("codes", [])) or [0]
keep(f"codes-{worker}", codes[1:])
if codes[0] == "preempted":
    (cluster / "preempt").touch()
    sys.exit(143)
if codes[0] == "wait":
    import signal, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (cluster / f"waiting-{worker}").touch()
    time.sleep(600)
sys.exit(codes[0])
"""
PLACE = ["--name=NAME", "--zone=z", "--project=p"]
SLICE = [*PLACE, "--type=v5litepod-8", "--version=v2"]
TRAIN = ["train", "--config=a b", "--workdir=gs://b/run"]


@pytest.fixture
def pod(cluster):
    cluster.stand_in("gcloud", GCLOUD)
    cluster.stand_in("python", PYTHON)
    cluster.stand_in("python3.11", "")
    return cluster


def verbs(pod):
    return [words[3] for words in pod.calls("gcloud")]


def trained(pod):
    return [words for words in pod.calls("python") if words[:2] == ["-m", "clipjax"]]


def codes(pod, *values):
    (pod.folder / "codes").write_text(json.dumps(values))


def test_a_slice_is_created_installed_and_run_on_every_worker(pod):
    done = pod.run("tpu_pod.sh", *SLICE, "--spot", *TRAIN)
    assert done.returncode == 0, done.stderr
    create = next(words for words in pod.calls("gcloud") if words[3] == "create")
    assert "--spot" in create
    assert trained(pod) == [["-m", "clipjax", *TRAIN]] * 2
    assert [words[2:] for words in pod.calls("python") if "pip" in words] == [["install", "-q", ".[tpu,gcs]"]] * 2
    assert sorted(line for line in done.stdout.splitlines() if "this is" in line) == [
        "this is worker-0",
        "this is worker-1",
    ]
    with tarfile.open(pod.folder / "worker-1/clipjax.tar.gz") as packed:
        names = packed.getnames()
    assert "./clipjax/bundle.py" in names and not any(name.startswith(("./.git/", "./.venv")) for name in names)
    assert (pod.folder / "worker-1/clipjax/clipjax/bundle.py").is_file()


def test_a_slice_that_is_there_is_used_again(pod):
    pod.run("tpu_pod.sh", *SLICE, *TRAIN)
    assert pod.run("tpu_pod.sh", *SLICE, *TRAIN).returncode == 0
    assert verbs(pod).count("create") == 1


def test_where_there_is_no_room_it_asks_again(pod):
    (pod.folder / "refusals").write_text("2")
    assert pod.run("tpu_pod.sh", *SLICE, *TRAIN).returncode == 0
    assert verbs(pod).count("create") == 3


def test_a_run_that_saved_and_stopped_goes_on(pod):
    codes(pod, 75, 75, 0)
    done = pod.run("tpu_pod.sh", *SLICE, *TRAIN)
    assert done.returncode == 0 and len(trained(pod)) == 6
    assert done.stderr.count("the run saved and stopped; it goes on") == 2


def test_a_preempted_slice_is_replaced_and_the_run_goes_on(pod):
    codes(pod, "preempted", 0)
    done = pod.run("tpu_pod.sh", *SLICE, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert len(trained(pod)) == 4
    assert [verb for verb in verbs(pod) if verb in ("create", "delete")] == ["create", "delete", "create"]


@pytest.mark.parametrize("code", [1, 2])
def test_any_other_exit_code_is_handed_on(pod, code):
    codes(pod, code)
    assert pod.run("tpu_pod.sh", *SLICE, *TRAIN).returncode == code
    assert len(trained(pod)) == 2


def test_stop_saves_on_all_workers_and_ends_the_one_that_watches(pod):
    codes(pod, "wait", 0)
    watching = pod.start("tpu_pod.sh", *SLICE, *TRAIN)
    while not all((pod.folder / f"waiting-worker-{number}").exists() for number in range(2)):
        time.sleep(0.02)
    # a second watcher joins the run and starts no other
    second = pod.start("tpu_pod.sh", *SLICE, *TRAIN)
    while verbs(pod).count("ssh") < 4:  # each installs and then watches
        time.sleep(0.02)
    time.sleep(0.5)
    assert pod.run("tpu_pod.sh", *PLACE, "--stop").returncode == 0
    assert watching.wait() == 75 and second.wait() == 75
    assert len(trained(pod)) == 2
    assert pod.run("tpu_pod.sh", *PLACE, "--delete").returncode == 0
    assert (pod.folder / "slice").read_text() == '""'


def test_a_dry_run_prints_what_it_would_do_and_does_nothing(pod):
    done = pod.run("tpu_pod.sh", *SLICE, "--dry-run", *TRAIN)
    assert done.returncode == 0 and not pod.calls("gcloud")
    lines = [line for line in done.stdout.splitlines() if line.startswith("gcloud ")]
    assert [line.split()[4] for line in lines] == ["describe", "create", "scp", "ssh", "ssh"]
    for option in ("--stop", "--delete"):
        done = pod.run("tpu_pod.sh", *PLACE, option, "--dry-run")
        assert done.returncode == 0 and done.stdout.startswith("gcloud compute tpus tpu-vm ")
    assert not pod.calls("gcloud")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--zone=z", "train"], "--name and --zone say which slice"),
        ([*PLACE, "train"], "--type and --version say what slice to create"),
        (SLICE, "no command given"),
    ],
)
def test_what_is_wrong_is_named(pod, given, said):
    done = pod.run("tpu_pod.sh", *given)
    assert done.returncode == 2 and said in done.stderr and not pod.calls("gcloud")
