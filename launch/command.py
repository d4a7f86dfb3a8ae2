"""Runs one command as a fleet: several tasks that share its work through the results directory.

  python -m launch --cluster=local|slurm|ray --tasks=N [flags] -- COMMAND...

examples:
  python -m launch --cluster=local --tasks=2 -- python -m experiments.degradation --preset=quick
  python -m launch --cluster=slurm --tasks=16 --partition=main --time=2:00:00 --cpus=4 --memory=8 \\
      -- python -m experiments.degradation --preset=paper --workdir=/shared/runs
  python -m launch --cluster=slurm --tasks=16 --dry-run -- python -m experiments.degradation --preset=paper
  python -m launch --cluster=ray --address=auto --tasks=8 -- python -m experiments.degradation --preset=paper

Each task runs COMMAND with CNNJAX_SHARD=i/N in its environment. COMMAND's directory and its results must be at the same
place on every machine. An experiment is checked with --plan before anything starts. A task that meets an accident of
its machine (no memory, no time, no node) is started again; what is finished stays finished. When all tasks are done,
COMMAND runs once more here, without CNNJAX_SHARD: it finds all results and reports. Had something been left, it would
run it here; --no_report leaves this out.

Ctrl-C: jobs of SLURM go on (--cancel_on_interrupt cancels them), and the same launch continues a sweep. Tasks on this
machine or of Ray are told to stop, and save their states.

exit codes: 0 done, 1 tasks failed, 2 bad input (nothing was started), 130 interrupted, 141 nobody reads; else that of
the last COMMAND
"""

import dataclasses
import datetime
import itertools
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from cnnjax.cli.arguments import HELP, Arguments, help_lines
from cnnjax.cli.ending import ended
from cnnjax.interrupt import Stopped, stoppable
from cnnjax.process import ending_with_this_one
from cnnjax.text import printable
from cnnjax.typing import UsageError, unknown
from launch import ray_cluster, request, slurm, submit, watch
from launch.request import Request
from launch.states import Cluster

CLUSTERS = ("local", "ray", "slurm")
ONLY_SLURM = ("partition", "account", "qos", "constraint", "slurm", "cancel_on_interrupt", "detach")
CHECK_SECONDS = 600  # after which a plan hangs; it may have to read a large folder of pictures


def main(argv: list[str] | None = None) -> int:
    """Launches a fleet and returns the exit code: see the top of this file.

    Args:
      argv: arguments without the program's name; ``sys.argv`` by default.
    """
    argv = sys.argv[1:] if argv is None else argv
    return ended("launch", lambda: _outcome(argv))


def _outcome(argv: list[str]) -> int:
    arguments = _arguments()
    own = argv[: argv.index("--")] if "--" in argv else argv
    if not argv or any(argument in HELP for argument in own):
        lines = help_lines(arguments.values, arguments.names)
        print("\n".join([(__doc__ or "").strip(), "", "flags, with their defaults in [brackets]:", *lines]))
        return 0
    try:
        return _main(arguments, own, tuple(argv[len(own) + 1 :]))
    except UsageError as error:
        say(" ".join(str(error).splitlines()))
        return 2
    except KeyboardInterrupt:  # before anything was started
        say("stopped; nothing was started.")
        return 130


def say(text: str) -> None:
    """A line from the launcher, apart from what the command prints."""
    print(f"launch: {printable(text)}", file=sys.stderr, flush=True)


def _arguments() -> Arguments:
    found = Arguments()
    found.add("cluster", str, None, "local, slurm or ray")
    found.add("tasks", int, None, "members of the fleet")
    found.add("dry_run", bool, False, "print what would be submitted, and submit nothing")
    found.add("detach", bool, False, "submit and return; SLURM only")
    found.add("cancel_on_interrupt", bool, False, "Ctrl-C cancels the jobs; SLURM only")
    found.add("retries", int, 2, "how often a task that met an accident is started again", lower_bound=0)
    found.add("no_check", bool, False, "do not try an experiment's command with --plan first")
    found.add("no_report", bool, False, "do not run the command here at the end")
    found.add("logs", str, None, "directory of logs; by default launch_logs, in the command's --workdir if it has one")
    found.add("name", str, None, "of the jobs; by default the experiment's, or the program's")
    told = "by default 60 minutes on SLURM, no limit on this machine; not for Ray"
    found.add("time", str, None, f"of a task, then it saves its state and is queued again: minutes or HH:MM:SS; {told}")
    found.add("requeues", int, 20, "how often a task may reach its time limit", lower_bound=0)
    found.add("cpus", int, None, "cores of a task; by default 1, here an equal share", lower_bound=1)
    found.add("gpus", int, 0, "GPUs of a task", lower_bound=0)
    found.add("memory", float, None, "GB of a task; not enforced here", lower_bound=0.0)
    found.add("max_parallel", int, 0, "tasks at the same time; 0: all", lower_bound=0)
    flags.DEFINE_multi_string(
        "setup", [], "a line of shell before every task; may be repeated", flag_values=found.values
    )
    for name, text in (("partition", "where"), ("account", "who pays"), ("qos", "quality of service")):
        found.add(name, str, None, f"{text}; SLURM only")
    found.add("constraint", str, None, "features of a node; SLURM only")
    flags.DEFINE_multi_string(
        "slurm", [], "another parameter of sbatch, name=value; may be repeated", flag_values=found.values
    )
    found.names += ["setup", "slurm"]
    found.add("address", str, None, "of a Ray cluster, such as auto or HOST:6379; by default one is started here")
    return found


def _main(arguments: Arguments, own: list[str], command: tuple[str, ...]) -> int:
    arguments.parse([_underscored(argument) for argument in own])
    arguments.at_most(0)
    asked = _request(arguments, command)
    cluster = arguments.cluster
    if cluster == "ray":
        ray_cluster.check_installed()
    else:
        submit.check_installed(cluster)
    if cluster == "slurm" and not arguments.dry_run:
        slurm.check_reachable()
    if not arguments.no_check and request.experiment(command):
        _check(command)
    if arguments.dry_run:
        _show(cluster, asked)
        return 0
    if cluster == "slurm":
        slurm.check_accepted(submit.Slurm.script(asked))
    return _launch(arguments, asked)


def _underscored(argument: str) -> str:
    """``--dry-run=...`` as ``--dry_run=...``."""
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def _request(arguments: Arguments, command: tuple[str, ...]) -> Request:
    """What is asked for, checked."""
    if not command:
        raise UsageError(
            "There is no command. Write it after --, as in: python -m launch --cluster=local --tasks=2 -- ls"
        )
    if arguments.cluster is None:
        raise UsageError(f"--cluster is missing. Choices: {', '.join(CLUSTERS)}.")
    if arguments.cluster not in CLUSTERS:
        raise unknown("cluster", arguments.cluster, CLUSTERS)
    if arguments.tasks is None or arguments.tasks < 1:
        given = "is missing" if arguments.tasks is None else f"is {arguments.tasks}"
        raise UsageError(f"--tasks {given}. Give the number of tasks, at least 1.")
    _check_flags(arguments)
    module = request.experiment(command)
    workdir = request.option(command, "workdir")
    return Request(
        command=command,
        tasks=arguments.tasks,
        name=arguments.name or (module or Path(command[0]).name).rpartition(".")[2],
        logs=Path(arguments.logs or Path(workdir or ".") / "launch_logs").absolute(),
        minutes=request.minutes(arguments.time) if arguments.time else None,
        cpus=arguments.cpus,
        gpus=arguments.gpus,
        memory=arguments.memory or None,
        max_parallel=arguments.max_parallel,
        requeues=arguments.requeues,
        setup=tuple(arguments.setup),
        partition=arguments.partition,
        account=arguments.account,
        qos=arguments.qos,
        constraint=arguments.constraint,
        slurm=request.parameters(arguments.slurm),
        address=arguments.address or "",
    )


def _check_flags(arguments: Arguments) -> None:
    """Refuses flags that the cluster would not heed."""
    others = {"slurm": ("address",), "local": (*ONLY_SLURM, "address"), "ray": (*ONLY_SLURM, "time", "requeues")}
    for name in others[arguments.cluster]:
        if arguments.values[name].present:
            raise UsageError(f"--{name} has no meaning for --cluster={arguments.cluster}. Leave it out.")


def _check(command: tuple[str, ...]) -> None:
    """Runs an experiment's command with --plan: it refuses bad input, and does nothing.

    Raises:
      UsageError: the command would not run.
    """
    try:
        tried = subprocess.run(
            [*command, "--plan"],
            env=_without_shard(),
            preexec_fn=ending_with_this_one(),
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except OSError as error:
        raise UsageError(f"The command cannot be started: {command[0]}: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"The command's --plan took more than {CHECK_SECONDS} s. Skip it with --no_check.") from error
    if tried.returncode:
        said = tried.stderr.strip().splitlines() or tried.stdout.strip().splitlines() or ["it says nothing"]
        raise UsageError(f"The command's --plan ended with exit code {tried.returncode}: {said[-1]}")
    print(tried.stdout, end="", flush=True)


def _without_shard() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "CNNJAX_SHARD"}


def _show(cluster: str, asked: Request) -> None:
    """What would be submitted."""
    if cluster == "slurm":
        print(submit.Slurm.script(asked))
    print(f"# task i of 0 to {asked.tasks - 1}, in {Path.cwd()}:")
    for line in asked.setup if cluster != "slurm" else ():
        print(line)
    print(request.shown(asked, 0))
    limit = f"{asked.minutes or submit.DEFAULT_MINUTES} minutes" if cluster == "slurm" or asked.minutes else "no limit"
    needs = f"{asked.cpus or 'default'} cores, {asked.gpus} GPUs, {asked.memory or 'default'} GB, {limit}"
    print(f"# on {cluster}: {asked.tasks} tasks, {asked.max_parallel or 'all'} at a time; each {needs}")
    print(f"# logs in a fresh directory of {asked.logs}. Nothing was submitted.")


def _launch(arguments: Arguments, asked: Request) -> int:
    """Submits, waits, and reports."""
    placed = _placed(asked)
    cluster = _cluster(arguments.cluster, placed)
    try:
        with stoppable():
            cluster.submit(list(range(placed.tasks)))
            jobs = f": {', '.join(cluster.ids())}" if cluster.ids() else ""
            say(f"{placed.tasks} tasks on {cluster.label}{jobs}; logs in {placed.logs}")
            if arguments.detach:
                _say_how_to_go_on(cluster, placed)
                return 0
            states = watch.wait(cluster, placed.tasks, arguments.retries, say)
    except Stopped:
        return _stop(arguments, cluster, placed)
    except RuntimeError as error:  # of submitit: sbatch, which took the job on trial, refuses it
        say(f"{cluster.label} refused: {' '.join(str(error).splitlines())}")
        return 1
    finally:
        cluster.close()
    if missing := watch.failed(states):
        say(f"{len(missing)} of {placed.tasks} tasks did not end well ({', '.join(map(str, missing))}). "
            "Finished runs are kept; the same launch tries the others again.")  # fmt: skip
        return 1
    if arguments.no_report:
        say("all tasks are done.")
        return 0
    say(f"all tasks are done; now here: {shlex.join(placed.command)}")
    return _here(placed.command)


def _here(command: tuple[str, ...]) -> int:
    """Runs the command on this terminal and returns its exit code."""
    child = subprocess.Popen(command, env=_without_shard(), preexec_fn=ending_with_this_one())
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:  # it got the signal as well, and saves its state
            continue


def _placed(asked: Request) -> Request:
    """The request with a fresh directory for its logs: numbers of jobs and processes come again one day."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f".{count}" for count in itertools.islice(itertools.count(2), 1000))):
        directory = asked.logs / f"{now}{suffix}"
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{directory} cannot be made ({error.strerror}). Use another --logs.") from error
        return dataclasses.replace(asked, logs=directory)
    raise UsageError(f"{asked.logs} is crowded. Use another --logs.")


def _cluster(name: str, placed: Request) -> Any:
    kinds: dict[str, type[Cluster]] = {"local": submit.Local, "slurm": submit.Slurm, "ray": ray_cluster.Ray}
    return kinds[name](placed)  # type: ignore[call-arg]


def _stop(arguments: Arguments, cluster: Any, placed: Request) -> int:
    """After Ctrl-C."""
    if arguments.cluster != "slurm":
        say("stopping the tasks; they save their states.")
        _end(cluster)
        say("stopped. The same launch continues.")
    elif arguments.cancel_on_interrupt:
        cluster.cancel()
        say("the jobs are cancelled, and save their states. The same launch continues.")
    else:
        say("stopped waiting; the jobs go on.")
        _say_how_to_go_on(cluster, placed)
    return 130


def _end(cluster: Any) -> None:
    """Cancels and waits; a second Ctrl-C leaves at once."""
    cluster.cancel()
    while not all(state.ended for state in cluster.states().values()):
        time.sleep(0.2)


def _say_how_to_go_on(cluster: Any, placed: Request) -> None:
    ids = cluster.ids()
    where = request.results(placed.command)
    say(f"how they are: squeue --jobs={','.join(ids)}{f', or cnnjax status {where}' if where else ''}")
    say(f"to cancel them: scancel {' '.join(ids)}")
    say(f"the report, when they are done: {shlex.join(placed.command)}")
