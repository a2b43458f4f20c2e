"""launch/kubernetes.sh: the JobSet that kubectl is given, read as YAML."""

import pytest
import yaml

KUBECTL = """
keep("given", sys.stdin.read())
"""
GIVEN = ["--name=l14", "--image=registry/clipjax:1", "--hosts=4", "--devices=nvidia.com/gpu:8", "--node=a.b/c:d"]
TRAIN = ["train", "--config=configs/vit_l14.py", "--config.model.preset='\"{HOSTS}\\ :"]


@pytest.fixture
def kubernetes(cluster):
    cluster.stand_in("kubectl", KUBECTL)
    return cluster


@pytest.fixture
def jobset(kubernetes):
    done = kubernetes.run("kubernetes.sh", *GIVEN, "--dry-run", *TRAIN)
    assert done.returncode == 0 and not kubernetes.calls("kubectl"), done.stderr
    return yaml.safe_load(done.stdout)


def test_every_host_is_a_pod_that_knows_its_number_and_its_coordinator(jobset):
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "l14")
    (hosts,) = jobset["spec"]["replicatedJobs"]
    job = hosts["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["nodeSelector"] == {"a.b/c": "d"} and container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container["command"] + container["args"] == ["python", "-m", "clipjax", *TRAIN]
    variables = {row["name"]: row.get("value") or row["valueFrom"]["fieldRef"]["fieldPath"] for row in container["env"]}
    assert variables["CLIPJAX_COORDINATOR"] == "l14-hosts-0-0.l14:8476"
    assert variables["CLIPJAX_PROCESSES"] == "4"
    assert variables["CLIPJAX_PROCESS_ID"] == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    mounted = {row["name"] for row in container["volumeMounts"]}
    assert mounted == {row["name"] for row in pod["volumes"]}


def test_exit_code_75_starts_again_and_2_does_not(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy needs
    rules = job["podFailurePolicy"]["rules"]
    actions = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert actions == {75: "Ignore", 2: "FailJob"}
    assert all(rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"] for rule in rules[1:])
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget"}]
    # any other fault of one host fails the job, and the set starts all of them again
    assert job["backoffLimit"] == 0 and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert jobset["spec"]["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    assert pod["terminationGracePeriodSeconds"] >= 120  # long enough to save


def test_without_devices_and_labels_there_are_none(kubernetes):
    done = kubernetes.run("kubernetes.sh", "--name=a", "--image=b", "--hosts=1", "--dry-run", "train")
    pod = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {} and pod["containers"][0]["resources"]["limits"] == {}


def test_kubectl_is_given_what_the_dry_run_prints(kubernetes):
    printed = kubernetes.run("kubernetes.sh", *GIVEN, "--dry-run", *TRAIN).stdout
    assert kubernetes.run("kubernetes.sh", *GIVEN, *TRAIN).returncode == 0
    assert kubernetes.calls("kubectl") == [["apply", "-f", "-"]]
    assert yaml.safe_load(yaml.safe_load((kubernetes.folder / "given").read_text())) == yaml.safe_load(printed)


def test_stop_deletes_the_set(kubernetes):
    done = kubernetes.run("kubernetes.sh", "--name=l14", "--stop", "--dry-run")
    assert done.stdout == "kubectl delete jobset l14\n" and not kubernetes.calls("kubectl")
    assert kubernetes.run("kubernetes.sh", "--name=l14", "--stop", stdin=-3).returncode == 0
    assert kubernetes.calls("kubectl") == [["delete", "jobset", "l14"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--name=L_14", "train"], "--name='L_14' should be at most 40 small letters"),
        (["--name=a", "--hosts=1", "train"], "--image names no image"),
        (["--name=a", "--image=b", "train"], "--hosts='' should be a whole number"),
        (["--name=a", "--image=b", "--hosts=2", "--devices=gpu", "train"], "'gpu' should read KEY:VALUE"),
        (["--name=a", "--image=b", "--hosts=2"], "no command given"),
    ],
)
def test_what_is_wrong_is_named(kubernetes, given, said):
    done = kubernetes.run("kubernetes.sh", *given)
    assert done.returncode == 2 and said in done.stderr and not kubernetes.calls("kubectl")
