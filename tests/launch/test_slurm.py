"""launch/slurm.sh against stand-ins that do what SLURM would do with the job: run it, and again when it is requeued."""

import json
import signal
import subprocess
import time

import pytest

SBATCH = """
script = sys.stdin.read()
nodes = int(next(word for word in words if word.startswith("--nodes=")).split("=")[1])
tasks = int(next(word for word in words if word.startswith("--ntasks-per-node=")).split("=")[1])
keep("shape", [nodes, tasks])
keep("job", "RUNNING")
while True:
    keep("requeued", False)
    environment = os.environ | {"SLURM_JOB_ID": "20007", "SLURM_JOB_NODELIST": "node[07-08]"}
    process = subprocess.Popen(["bash", "-c", script], env=environment)
    keep("script", process.pid)
    code = process.wait()
    if not state("requeued", False):
        sys.exit(code)
"""
SRUN = """
nodes, tasks = state("shape", None)
command = words[next(place for place, word in enumerate(words) if not word.startswith("-")) :]
running = []
for task in range(nodes * tasks):
    who = {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task % tasks), "SLURM_NTASKS": str(nodes * tasks)}
    running.append(subprocess.Popen(command, env=os.environ | who))
keep("tasks", [process.pid for process in running])
sys.exit(max(process.wait() for process in running))
"""
SCONTROL = """
if words[:2] == ["show", "hostnames"]:
    assert words[2] == "node[07-08]"
    print("node07\\nnode08")
elif words == ["requeue", "20007"]:
    keep("requeued", True)
else:
    sys.exit("scontrol: " + " ".join(words))
"""
SQUEUE = "assert '--jobs=20007' in words; print(state('job', ''))"
PYTHON = """
names = ["CLIPJAX_COORDINATOR", "CLIPJAX_PROCESSES", "CLIPJAX_PROCESS_ID", "CUDA_VISIBLE_DEVICES"]
with (cluster / "seen.jsonl").open("a") as file:
    file.write(json.dumps([os.environ.get(name) for name in names]) + "\\n")
codes = state(f"codes-{os.environ['CLIPJAX_PROCESS_ID']}", state("codes", [])) or [0]
keep(f"codes-{os.environ['CLIPJAX_PROCESS_ID']}", codes[1:])
if codes[0] == "wait":
    import signal, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (cluster / f"waiting-{os.environ['CLIPJAX_PROCESS_ID']}").touch()
    time.sleep(600)
sys.exit(codes[0])
"""


@pytest.fixture
def slurm(cluster):
    for name, body in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL), ("squeue", SQUEUE)):
        cluster.stand_in(name, body)
    cluster.environment["PYTHON"] = str(cluster.stand_in("python", PYTHON))
    return cluster


def seen(cluster):
    return sorted(json.loads(line) for line in (cluster.folder / "seen.jsonl").read_text().splitlines())


def codes(cluster, *values):
    (cluster.folder / "codes").write_text(json.dumps(values))


def test_a_process_a_gpu_knows_its_number_its_coordinator_and_its_gpu(slurm):
    done = slurm.run(
        "slurm.sh", "--nodes=2", "--gpus-per-node=3", "--sbatch=--partition=big gpu", "train", "--config=a b"
    )
    assert done.returncode == 0, done.stderr
    (options,) = slurm.calls("sbatch")
    assert {"--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=3", "--requeue", "--signal=TERM@180"} <= set(options)
    assert "--partition=big gpu" in options
    coordinator = "node07:20007"  # 20000 + 20007 % 20000
    assert seen(slurm) == [[coordinator, "6", str(task), str(task % 3)] for task in range(6)]
    assert slurm.calls("python") == [["-m", "clipjax", "train", "--config=a b"]] * 6


@pytest.mark.parametrize("gpus", [["--gpus-per-node=8", "--per=node"], []])
def test_a_process_a_node_keeps_all_the_gpus_it_sees(slurm, gpus):
    assert slurm.run("slurm.sh", "--nodes=2", *gpus, "train").returncode == 0
    assert seen(slurm) == [["node07:20007", "2", str(task), None] for task in range(2)]
    assert ("--gpus-per-node=8" in slurm.calls("sbatch")[0]) == bool(gpus)


def test_exit_code_75_goes_back_into_the_queue_and_on(slurm):
    codes(slurm, 75, 75, 0)
    done = slurm.run("slurm.sh", "--nodes=2", "train")
    assert done.returncode == 0
    assert len(slurm.calls("srun")) == 3 and len(seen(slurm)) == 6
    assert done.stderr.count("saved; job 20007 goes back into the queue") == 2


@pytest.mark.parametrize("code", [1, 2, 137])
def test_any_other_exit_code_ends_the_job(slurm, code):
    codes(slurm, code)
    assert slurm.run("slurm.sh", "--nodes=1", "train").returncode == code
    assert len(slurm.calls("srun")) == 1


def test_a_cancelled_job_is_not_requeued(slurm):
    codes(slurm, 75)
    slurm.stand_in("squeue", "print('CANCELLED')")
    assert slurm.run("slurm.sh", "--nodes=1", "train").returncode == 75
    assert len(slurm.calls("srun")) == 1 and not any(call[0] == "requeue" for call in slurm.calls("scontrol"))


def test_a_signal_to_the_script_too_leaves_it_waiting_for_its_tasks(slurm):
    codes(slurm, "wait", 0)
    process = slurm.start("slurm.sh", "--nodes=2", "train")
    while not all((slurm.folder / f"waiting-{task}").exists() for task in range(2)):
        time.sleep(0.02)
    script, tasks = (json.loads((slurm.folder / name).read_text()) for name in ("script", "tasks"))
    for pid in (script, *tasks):
        subprocess.run(["kill", f"-{signal.SIGTERM:d}", str(pid)], check=True)
    assert process.wait() == 0  # requeued, and then done
    assert len(slurm.calls("srun")) == 2


def test_a_dry_run_prints_the_job_and_submits_nothing(slurm):
    done = slurm.run("slurm.sh", "--nodes=2", "--gpus-per-node=8", "--dry-run", "train", "--config=a b")
    assert done.returncode == 0 and not slurm.calls("sbatch")
    assert done.stdout.startswith("sbatch --job-name=clipjax --nodes=2 --ntasks-per-node=8 ")
    script = done.stdout.split("<<JOB\n")[1].removesuffix("JOB\n")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "srun " in script and r"--config=a\ b" in script and "scontrol requeue" in script


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--nodes=two", "train"], "--nodes='two' should be a whole number"),
        (["--nodes=2"], "no command given"),
        (["--nodes=2", "--per=gpu", "train"], "--per=gpu needs --gpus-per-node"),
        (["--nodes=2", "--per=rack", "train"], "--per='rack' should be node or gpu"),
        (["--nodes=2", "--signal=soon", "train"], "--signal='soon' should be whole seconds"),
    ],
)
def test_what_is_wrong_is_named(slurm, given, said):
    done = slurm.run("slurm.sh", *given)
    assert done.returncode == 2 and said in done.stderr and not slurm.calls("sbatch")
