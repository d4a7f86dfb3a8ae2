"""What the README shows works: its Python runs, its commands are understood, its files exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from cnnjax import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
]
EXPERIMENTS = [command for command in COMMANDS if "-m experiments." in command]


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_python_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert len(printed.strip("[]\n").split(",")) == 3  # a paired difference for each of three seeds


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_commands_are_understood(command, tmp_path, capsys):
    words = shlex.split(command.split("&&")[-1])
    name = words[words.index("-m") + 1]
    arguments = [w for w in words[words.index("-m") + 2 :] if not w.startswith("--data=")]  # no data, no network here
    module = importlib.import_module(name)
    assert cli.main(module, [*arguments, "--plan", f"--workdir={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir())


def test_there_are_blocks_of_both_kinds():
    assert PYTHON
    assert len(EXPERIMENTS) >= 4


@pytest.mark.parametrize("path", re.findall(r"!\[.*?\]\((.*?)\)", README))
def test_pictures_exist(path):
    assert (ROOT / path).stat().st_size > 1000


@pytest.mark.parametrize("path", re.findall(r"`((?:cnnjax|experiments|benchmarks|tests)/[\w/.]+)`", README))
def test_places_exist(path):
    assert (ROOT / path).exists()
