"""The files for machines that are not here: what can be said of them without one."""

import subprocess

import pytest
import yaml

from tests.launch.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.sh")), ids=lambda path: path.name)
def test_shell_is_well_formed_and_says_how_it_is_used(path):
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, timeout=20, check=False).returncode == 0
    told = subprocess.run(["bash", str(path)], capture_output=True, text=True, timeout=20, check=False)
    assert told.returncode == 2
    assert len(told.stderr.splitlines()) == 1


def test_the_jobset_numbers_its_members_and_gives_them_one_directory():
    claim, jobset = yaml.safe_load_all((ROOT / "launch" / "kubernetes_jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (member,) = pod["containers"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == int(member["env"][0]["value"])
    assert 'CNNJAX_SHARD="$JOB_COMPLETION_INDEX/$MEMBERS"' in member["command"][-1]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert f"--workdir={member['volumeMounts'][0]['mountPath']}" in member["command"][-1]
