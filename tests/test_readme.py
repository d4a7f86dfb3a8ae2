"""What the README shows works: its Python runs, its commands are understood, its files exist."""

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest

from cnnjax import cli
from experiments.worked_numbers.command import main as worked_numbers
from launch.command import _arguments as command_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
NEED_FILES = [code for code in PYTHON if ".pth" in code]  # weights that people download
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
LAUNCHED = [command for command in COMMANDS if "-m launch " in command]
NUMBERS = [command for command in COMMANDS if "-m experiments.worked_numbers" in command]
# No data, no network and no second device here; the test gives a workdir and asks for a plan.
LEFT_OUT = ("--data=", "--data_devices=", "--workdir=", "--plan")


def experiment_of(command):
    """The module of the experiment that a command runs, and the arguments that are tested."""
    words = shlex.split(command.split("&&")[-1].strip("'"))
    name, *arguments = words[len(words) - words[::-1].index("-m") :]
    return name, *(word for word in arguments if not word.startswith(LEFT_OUT))


# One command for each set of arguments: several show the same experiment on another machine or cluster.
EXPERIMENTS = {
    experiment_of(command): command for command in COMMANDS if "-m experiments." in command and command not in NUMBERS
}


@pytest.mark.parametrize(
    "code", [code for code in PYTHON if code not in NEED_FILES], ids=lambda code: code.split("\n")[0]
)
@pytest.mark.slow
def test_python_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if "claims.paired" in code:
        assert len(printed.strip("[]\n").split(",")) == 3  # a difference for each of three seeds
    assert printed.strip()


@pytest.mark.parametrize("code", NEED_FILES, ids=lambda code: code.split("\n")[0])
def test_python_that_needs_files_names_what_there_is(code):
    """Its imports run, and the functions of modules that it calls take its arguments."""
    tree, names = ast.parse(code), {}
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "README.md", "exec"), names)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).count(".") <= 1]
    checked = 0
    for call in calls:
        head, _, attribute = ast.unparse(call.func).partition(".")
        if head in names:
            function = getattr(names[head], attribute) if attribute else names[head]
            inspect.signature(function).bind(*call.args, **{word.arg: word.value for word in call.keywords})
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("words", EXPERIMENTS, ids=EXPERIMENTS.values())
@pytest.mark.slow
def test_commands_are_understood(words, tmp_path, capsys):
    name, *arguments = words
    module = importlib.import_module(name)
    assert cli.main(module, [*arguments, "--plan", f"--workdir={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", LAUNCHED)
def test_launched_commands_are_understood(command):
    words = shlex.split(command)
    arguments = command_line()
    arguments.parse(
        [word.replace("dry-run", "dry_run") for word in words[words.index("launch") + 1 : words.index("--")]]
    )
    assert arguments.tasks >= 1
    assert words[words.index("--") + 1 :][:2] == ["python", "-m"]


@pytest.mark.parametrize("command", NUMBERS)
def test_worked_numbers_are_found(command, capsys):
    words = shlex.split(command)
    assert worked_numbers([*words[words.index("-m") + 2 :], "--list"], "") == 0
    assert len(capsys.readouterr().out.splitlines()) > 10


def test_there_are_blocks_of_every_kind():
    assert NUMBERS
    assert LAUNCHED
    assert 0 < len(NEED_FILES) < len(PYTHON)
    assert len(EXPERIMENTS) >= 4


@pytest.mark.parametrize("path", re.findall(r"!\[.*?\]\((.*?)\)", README))
def test_pictures_exist(path):
    assert (ROOT / path).stat().st_size > 1000


@pytest.mark.parametrize("path", re.findall(r"`((?:cnnjax|experiments|benchmarks|launch|tests)/[\w/.]+)`", README))
def test_places_exist(path):
    assert (ROOT / path).exists()
