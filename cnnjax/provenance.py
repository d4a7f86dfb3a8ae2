"""Which code this is: a digest of the sources that decide a run's numbers, and the commit that they are from."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cnnjax import __version__

# What decides the numbers of a row: all that a run passes through, from the draw of its parameters to its metrics. How
# runs are planned, executed, judged and shown changes none.
DECISIVE = (
    *("rng", "tree", "image", "ops", "nn", "augment", "losses", "metrics", "data", "models", "weights", "tasks"),
    "train",
)
CODE = {  # the parts of an execution signature that say which code it is, in words
    **{"cnnjax": "cnnjax's version", "source": "cnnjax's sources", "jax_settings": "settings of JAX"},
    "program": "the network's own code",
}
GIT_SECONDS = 2.0  # that asking git may take in all

_STRINGS_AND_COMMENTS = re.compile(
    r""""{3}(?:[^"\\]|\\.|"(?!""))*"{3}|'{3}(?:[^'\\]|\\.|'(?!''))*'{3}"""
    r"""|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\#[^\n]*""",
    re.DOTALL,
)
_EMPTY_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def source_digest() -> str:
    """16 hexadecimal digits of cnnjax's sources that decide a row's numbers, as they were when it was first called.

    The order of examples, for one, is made on the host, and no compiled program shows it. Comments, docstrings and
    empty lines do not count, so that who mends a sentence makes no evidence old.
    """
    return digest_of(Path(__file__).parent)


@cache
def digest_of(package: Path) -> str:
    """``source_digest`` of the cnnjax in another place."""
    files = [path for name in DECISIVE for path in (package / f"{name}.py", *sorted((package / name).rglob("*.py")))]
    found = hashlib.sha256()
    for path in files:
        if path.exists():
            code = bare_text(path)
            found.update(f"{path.relative_to(package).as_posix()} {len(code)}\n{code}".encode())
    return found.hexdigest()[:16]


def code_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In words, how the code of two execution signatures differs; nothing where it is the same.

    Args:
      old, new: signatures; one that was made before signatures said which code it was has no ``source``.
    """
    if "source" not in old and "source" not in new:
        return []
    if "source" not in old or "source" not in new:
        return ["one was made by an older cnnjax, which did not record its code"]
    told = []
    for key, name in CODE.items():
        there, here = old.get(key), new.get(key)
        if there != here and key == "program":
            parts = dict.fromkeys([*(there or {}), *(here or {})])
            changed = [part.replace("_", " ") for part in parts if (there or {}).get(part) != (here or {}).get(part)]
            told.append(f"{name} makes another {', '.join(changed)}")
        elif there != here:
            told.append(f"{name}: {there} and {here}")
    return told


def code_since(recorded: Mapping[str, Any]) -> str:
    """In words, how cnnjax differs here from the one that a manifest's ``code`` records; empty where it does not."""
    there, here = recorded.get("source"), source_digest()
    if there is None:
        return "made by an older cnnjax, which did not record its code"
    return "" if there == here else f"cnnjax's sources were {there} and are {here} here"


def bare_text(path: Path | str) -> str:
    """The program in a file without comments and empty lines, and with empty docstrings."""
    return _bare(Path(path).read_text(encoding="utf-8"))


def code() -> dict[str, Any]:
    """What runs here, for a manifest: cnnjax's version and ``source_digest``, and the git commits, where there are any.

    Returns:
      ``version``, ``source`` and ``commits``: for ``cnnjax`` and the ``program`` that was started, as ``commit_of``.
    """
    program = getattr(sys.modules["__main__"], "__file__", None)
    files = {"cnnjax": Path(__file__), **({"program": Path(program).absolute()} if program else {})}
    commits = {name: found for name, path in files.items() if (found := commit_of(path))}
    return {"version": __version__, "source": source_digest(), "commits": commits}


def _bare(source: str) -> str:
    """A program without comments and empty lines, and with empty docstrings."""
    parts: list[str] = []
    code, at = "", 0  # code: since the last string
    for found in _STRINGS_AND_COMMENTS.finditer(source):
        code, at = code + source[at : found.start()], found.end()
        if source[found.start()] == "#":
            code = code.rstrip(" \t")
            continue
        before = code.rstrip()
        opens = (before[-1:] == ":" and "\n" in code[len(before) :]) or not (parts or before)  # a block, or the file
        is_docstring = opens and source[at : at + 1] in ("\n", "")
        parts += [_EMPTY_LINES.sub("\n", code), '""' if is_docstring else found[0]]
        code = ""
    return "".join([*parts, _EMPTY_LINES.sub("\n", code + source[at:])])


def commit_of(path: Path) -> dict[str, Any] | None:
    """The git commit that a file is from, and whether the tracked files beside it are as committed.

    None where there is no git, the file is in no repository or not tracked (one may lie in another project's folder),
    or git takes longer than ``GIT_SECONDS``. Git is told nothing by the environment, runs no hook and writes nothing.

    Returns:
      ``commit`` (hexadecimal) and ``clean``.
    """
    git = shutil.which("git")
    if git is None:
        return None
    quiet = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def ask(*arguments: str) -> str:
        return subprocess.run(
            [git, *quiet, "-C", str(path.parent), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=GIT_SECONDS / 3,
            encoding="utf-8",
            errors="replace",
        ).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", "--", path.name)
        commit = ask("rev-parse", "--verify", "HEAD")
        changed = ask("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "clean": not changed}
