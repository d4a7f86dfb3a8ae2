"""What the launcher refuses before anything starts, and what it says that it would submit."""

import shutil
import sys

import pytest

from launch import command, request, slurm, watch
from launch.states import State, of_error, of_outcome
from launch.task import Outcome
from tests.launch.conftest import ROOT

TINY = ("python", "-m", "tests.fixtures.tiny")


@pytest.fixture
def launched(capsys, tmp_path, monkeypatch):
    """Runs the launcher here; what it must not do is leave a file."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        code = command.main(list(argv))
        said = capsys.readouterr()
        assert list(tmp_path.iterdir()) == []
        return code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cluster=local", "--tasks=2"), "There is no command"),
        (("--cluster=local", "--tasks=2", "--"), "There is no command"),
        (("--tasks=2", "--", "ls"), "--cluster is missing. Choices: local, ray, slurm"),
        (("--cluster=slrum", "--tasks=2", "--", "ls"), "Unknown cluster 'slrum'. Did you mean 'slurm'?"),
        (("--cluster=local", "--", "ls"), "--tasks is missing"),
        (("--cluster=local", "--tasks=0", "--", "ls"), "--tasks is 0"),
        (("--cluster=local", "--tasks=x", "--", "ls"), "--tasks=x"),
        (("--cluster=local", "--taks=2", "--", "ls"), "Did you mean '--tasks'?"),
        (("--cluster=local", "--tasks=2", "ls", "--", "ls"), "Unexpected argument 'ls'"),
        (("--cluster=local", "--tasks=2", "--cpus=0", "--", "ls"), "--cpus=0"),
        (("--cluster=local", "--tasks=2", "--time=soon", "--", "ls"), "--time=soon is no duration"),
        (("--cluster=local", "--tasks=2", "--time=0", "--", "ls"), "--time=0 is no time at all"),
        (
            ("--cluster=local", "--tasks=2", "--partition=a", "--", "ls"),
            "--partition has no meaning for --cluster=local",
        ),
        (("--cluster=ray", "--tasks=2", "--time=5", "--", "ls"), "--time has no meaning for --cluster=ray"),
        (("--cluster=slurm", "--tasks=2", "--slurm=gres", "--", "ls"), "--slurm=gres is not of the form name=value"),
        (("--cluster=slurm", "--tasks=2", "--slurm=array=1-9", "--", "ls"), "the launcher sets array itself"),
    ],
)
def test_bad_input_is_refused(launched, flags, message):
    code, out, err = launched(*flags)
    assert code == 2
    assert message in err.replace('"', "'")
    assert len(err.splitlines()) == 1
    assert not out


@pytest.mark.parametrize(("cluster", "library"), [("local", "submitit"), ("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_library_is_named_with_its_extra(launched, monkeypatch, cluster, library):
    monkeypatch.setitem(sys.modules, library, None)
    code, _, err = launched(f"--cluster={cluster}", "--tasks=2", "--", "ls")
    assert code == 2
    assert f"pip install -e '.[{'ray' if cluster == 'ray' else 'slurm'}]'" in err


def test_a_machine_without_slurm(launched, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = launched("--cluster=slurm", "--tasks=2", "--", "ls")
    assert code == 2
    assert "there is no sbatch here" in err
    assert "--cluster=local" in err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="no SLURM is installed here")
def test_a_controller_that_is_down(launched, monkeypatch, tmp_path_factory):
    config = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    config.write_text("ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nNodeName=localhost\n")
    monkeypatch.setenv("SLURM_CONF", str(config))
    code, _, err = launched("--cluster=slurm", "--tasks=2", "--", "ls")
    assert code == 2
    assert "its controller" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_an_experiment_is_checked_before_anything_is_submitted(launched, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    python = (sys.executable, *TINY[1:])
    code, _, err = launched("--cluster=local", "--tasks=2", "--", *python, "--preset=smoke", "--learning_rat=1")
    assert code == 2
    assert "exit code 2" in err
    assert "--learning_rate" in err
    assert len(err.splitlines()) == 1


def test_dry_run_shows_the_job_as_sbatch_would_get_it(launched, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM is needed
    code, out, _ = launched(
        *("--cluster=slurm", "--tasks=5", "--dry-run", "--partition=gpu", "--account=lab", "--qos=high"),
        *("--time=1:30:00", "--cpus=4", "--gpus=1", "--memory=7.5", "--constraint=a100", "--max-parallel=2"),
        *("--setup=module load cuda", "--setup=ulimit -c 0", "--slurm=reservation=friday", "--name=deep", "--no_check"),
        *("--", "python", "-m", "experiments.degradation", "--sweep=lr=1 2"),
    )
    assert code == 0
    lines = out.splitlines()
    for wanted in (
        *("array=0-4%2", "partition=gpu", "account=lab", "qos=high", "time=90", "cpus-per-task=4", "gpus-per-node=1"),
        *("mem=7680M", "constraint=a100", "reservation=friday", "job-name=deep", "requeue", "signal=USR2@90"),
    ):
        assert f"#SBATCH --{wanted}" in lines
    assert lines.index("module load cuda") + 1 == lines.index("ulimit -c 0")
    assert lines.index("ulimit -c 0") < next(i for i, line in enumerate(lines) if line.startswith("srun "))
    assert "CNNJAX_SHARD=0/5 python -m experiments.degradation '--sweep=lr=1 2'" in lines


def test_dry_run_elsewhere_and_one_task(launched):
    code, out, _ = launched("--cluster=local", "--tasks=3", "--dry_run", "--setup=export A=1", "--", "ls", "-l")
    assert code == 0
    assert "CNNJAX_SHARD=0/3 ls -l" in out
    assert "export A=1" in out
    code, out, _ = launched("--cluster=slurm", "--tasks=1", "--dry_run", "--", "ls")
    assert "#SBATCH --array" not in out


def test_help(launched):
    code, out, _ = launched("--help")
    assert code == 0
    assert "--cancel_on_interrupt" in out


@pytest.mark.parametrize(("text", "minutes"), [("90", 90), ("1:30:00", 90), ("0:00:01", 1), ("2-01:00:00", 2940)])
def test_durations(text, minutes):
    assert request.minutes(text) == minutes


def test_what_is_an_experiment_and_where_its_results_are():
    assert request.experiment(TINY) == "tests.fixtures.tiny"
    for other in (("ls", "-l"), ("python", "-m", "json.tool"), ("python", "-m", "no.such"), ("python", "a.py")):
        assert request.experiment(other) is None
    assert str(request.results((*TINY, "--workdir=/a"))) == "/a/tiny"
    assert str(request.results((*TINY, "--workdir", "/a"))) == "/a/tiny"
    assert str(request.results(TINY)) == "runs/tiny"
    assert request.results(("ls", "--workdir=/a")) is None


@pytest.mark.parametrize(
    ("outcome", "name"),
    [((0, False), "COMPLETED"), ((1, False), "FAILED"), ((1, True), "OUT_OF_MEMORY"), ((-9, True), "OUT_OF_MEMORY"),
     ((-9, False), "KILLED"), ((130, False), "KILLED"), ((2, False), "FAILED")],
)  # fmt: skip
def test_a_task_is_named_by_how_it_ended(outcome, name):
    assert of_outcome(Outcome(*outcome), None).name == name


def test_what_submitit_says_is_understood():
    start = "Traceback ...\nsubmitit.core.utils.UncompletedJobError: "
    assert of_error(f"{start}Job not requeued because: timed-out too many times.", None).name == "TIMEOUT"
    assert (
        of_error("subprocess.CalledProcessError: Command '['scontrol', 'requeue', '3']' returned 1", None).name
        == "LOST"
    )
    assert of_error("KeyError: 3", None) == State("FAILED", "KeyError: 3")


def test_progress_in_a_line():
    states = {0: State("PENDING", "Resources"), 1: State("RUNNING"), 2: State("COMPLETED"), 3: State("TIMEOUT")}
    assert watch.summary(states, 6) == "3 waiting (Resources), 1 running, 1 done, 1 failed"


def test_slurm_speaks_in_one_line():
    text = "sbatch: error: invalid partition specified: a\nallocation failure: Invalid partition name specified\n"
    assert slurm._line(text) == "invalid partition specified: a; Invalid partition name specified"
