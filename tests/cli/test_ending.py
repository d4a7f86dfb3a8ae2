"""Commands whose output nobody reads, on terminals that have few letters, in directories of strange names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.cli.ending import NOBODY_READS, ended

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "help": "-m cnnjax --help",
    "subcommand": "-m cnnjax summary lenet5 --json",
    "numbers": "-m experiments.worked_numbers --list",
    "ledger": "-m experiments --help",
    "launch": "-m launch --help",
    "experiment": "-m experiments.lrn --help",
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_where_nobody_reads_the_exit_code_is_that_of_a_broken_pipe(name):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        found = subprocess.run(
            [sys.executable, *COMMANDS[name].split()],
            cwd=ROOT,
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (found.returncode, found.stderr) == (NOBODY_READS, "")


def test_rich_and_argparse_end_as_others_do(capsys):
    def broken():
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904 (as rich does)

    def finished():
        raise SystemExit(2)  # as argparse does

    assert ended("name", broken) == NOBODY_READS
    assert ended("name", finished) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "reason"), [("x" * 300, "File name too long"), ("file/x", "Not a directory"), ("no/such", "No such file")]
)
def test_a_path_that_cannot_be_used_is_told_in_a_line(path, reason, tmp_path, capsys):
    (tmp_path / "file").touch()

    def look():
        return len(os.listdir(tmp_path / path))

    assert ended("name", look) == 2
    said = capsys.readouterr().err
    assert said.startswith("name: /")
    assert reason in said
    assert said.count("\n") == 1


def test_another_error_is_no_matter_of_the_user():
    def wrong():
        raise OSError("nothing of a path")

    with pytest.raises(OSError, match="nothing of a path"):
        ended("name", wrong)


STRANGE = ["[/b] [red]x", "with spaces", "line\nend", "n\xe4me \u2603", os.fsdecode(b"byte \xff"), "x" * 255]


@pytest.mark.parametrize("name", STRANGE, ids=["brackets", "spaces", "newline", "letters", "bytes", "long"])
@pytest.mark.slow
def test_a_directory_of_any_name_is_read_and_told_on_a_terminal_of_ascii(name, tmp_path):
    """Of the commands that read; a sweep in such directories: ``benchmarks.faults --only=names``."""
    (tmp_path / name / "rows").mkdir(parents=True)
    program = (
        "from cnnjax.cli.command import main\nimport sys\n"
        "commands = (['status'], ['status', '--json'], ['compare', sys.argv[1]])\n"
        "print([main([*words, sys.argv[1]]) for words in commands])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, tmp_path / name],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert found.stderr == b""
    assert found.stdout.endswith(b"[0, 0, 1]\n")  # no run is in both
    assert (str(tmp_path).encode() + b"/" + (name[:3].encode() if name.isascii() else b"")) in found.stdout
