"""The files that the manual gives for clusters, as far as they can be read here."""

import re
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml

from eqcifar_cli import app

FOLDER = Path(__file__).parents[1] / "docs" / "howto" / "cluster"

# Fields and which of them are required, by hand from JobSet's CustomResourceDefinition
# of v1alpha2 and from Kubernetes' batch/v1 and core/v1.
JOBSET = {
    "spec": (
        {"coordinator", "failurePolicy", "managedBy", "network", "replicatedJobs"}
        | {"startupPolicy", "successPolicy", "suspend", "ttlSecondsAfterFinished"}
        | {"volumeClaimPolicies"},
        set(),
    ),
    "failurePolicy": ({"maxRestarts", "restartStrategy", "rules"}, set()),
    "replicatedJob": (
        {"dependsOn", "groupName", "name", "replicas", "template"},
        {"name", "template"},
    ),
    "job": (
        {"activeDeadlineSeconds", "backoffLimit", "backoffLimitPerIndex", "template"}
        | {"completionMode", "completions", "maxFailedIndexes", "parallelism"}
        | {"podFailurePolicy", "podReplacementPolicy", "suspend", "successPolicy"},
        {"template"},
    ),
}


def check(value, kind):
    known, required = JOBSET[kind]
    assert required <= set(value) <= known, kind


def test_the_jobset_has_the_fields_of_its_schema():
    manifest = yaml.safe_load((FOLDER / "jobset.yaml").read_text())
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    check(manifest["spec"], "spec")
    check(manifest["spec"]["failurePolicy"], "failurePolicy")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    check(replicated, "replicatedJob")
    job = replicated["template"]["spec"]
    check(job, "job")
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    (container,) = pod["containers"]
    assert {"name", "image"} <= set(container)
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}

    # JobSet names the first pod so, and its service like the set.
    words = dict(word.partition("=")[::2] for word in container["command"][2:])
    name, train = manifest["metadata"]["name"], replicated["name"]
    host, _, port = words["--coordinator"].partition(":")
    assert host == f"{name}-{train}-0-0.{name}"
    assert int(port) == container["ports"][0]["containerPort"]
    assert int(words["--processes"]) == job["completions"] == job["parallelism"]
    (variable,) = container["env"]
    assert words["--process-id"] == f"$({variable['name']})"


@pytest.mark.parametrize("name", ["slurm.sh", "jobset.yaml", "tpu.sh", "ssh.sh"])
def test_their_commands_have_the_options_of_train(name):
    train = typer.main.get_command(app).commands["train"]  # pyright: ignore
    known = {flag for option in train.params for flag in option.opts}
    text = (FOLDER / name).read_text()
    command = text[re.search(r"eqcifar[\s-]+train", text).start() :]  # pyright: ignore
    command = re.split(r"env:|\|\||&$", command, flags=re.MULTILINE)[0]
    used = set(re.findall(r"(--[a-z-]+)", command))
    assert used
    assert used <= known
    if name.endswith(".sh"):
        subprocess.run(["bash", "-n", FOLDER / name], check=True)
    assert f"cluster/{name}" in (FOLDER.parent / "cluster.md").read_text()
