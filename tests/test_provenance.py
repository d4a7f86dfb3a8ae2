import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cnnjax import __version__, provenance
from cnnjax.provenance import commit_of, digest_of, source_digest

PACKAGE = Path(provenance.__file__).parent
PROGRAM = '''"""What it is for."""

# fmt: off
def f(x):  # a remark
    """Doubles."""
    text = """a # no remark

    b"""
    return 2 * x, text, '#', "it's"
'''


@pytest.fixture
def package(tmp_path):
    """A cnnjax of one file that decides numbers, and one that does not."""
    for name in ("ops/conv.py", "report/page.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(PROGRAM)
    yield tmp_path
    digest_of.cache_clear()


def changed(package, old, new, file="ops/conv.py"):
    """Whether the digest changes with the text of a file."""
    before = digest_of(package)
    digest_of.cache_clear()
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new, 1))
    return digest_of(package) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it is for", "What it was for\n\nAnd more"),
        ('"""Doubles."""', '"""It\'s "twice" # it."""'),
        ("  # a remark", ""),
        ("# fmt: off\n", "\n\n# it's an \"apostrophe\n"),
        ("    return", "\n\n    # then\n    return"),
        ("\n", "\r\n"),
    ],
)
def test_what_no_program_reads_does_not_count(package, old, new):
    assert not changed(package, old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * x", "3 * x"),
        ("2 * x", "2 *  x"),
        ("a # no remark", "a # a remark"),
        ("a # no remark\n\n", "a # no remark\n"),
        ("'#'", "'##'"),
        ("    return", "  return"),
        ("2 * x", "2 #* x"),
    ],
)
def test_what_a_program_reads_counts(package, old, new):
    assert changed(package, old, new)


def test_what_decides_no_number_does_not_count(package):
    assert not changed(package, "2 * x", "3 * x", "report/page.py")


def test_names_and_places_of_files_count(package):
    before = digest_of(package)
    digest_of.cache_clear()
    (package / "ops" / "conv.py").rename(package / "ops" / "pool.py")
    assert digest_of(package) != before


def test_the_digest_is_of_every_decisive_place_and_the_same_in_a_copy(tmp_path):
    assert all((PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists() for name in provenance.DECISIVE)
    copy = shutil.copytree(PACKAGE, tmp_path / "cnnjax", ignore=shutil.ignore_patterns("__pycache__"))
    assert digest_of(copy) == source_digest()
    assert provenance.code().items() >= {"version": __version__, "source": source_digest()}.items()


# Commits


def git(*arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one committed file."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "repository"
    git("init", "-q", str(root))
    (root / "net.py").write_text("width = 8\n")
    git("-C", str(root), "add", ".")
    git("-C", str(root), "commit", "-qm", "first")
    return root


def test_the_commit_of_a_file_and_whether_all_is_as_committed(repository):
    commit = git("-C", str(repository), "rev-parse", "HEAD")
    assert commit_of(repository / "net.py") == {"commit": commit, "clean": True}
    (repository / "notes.txt").write_text("not tracked")
    assert commit_of(repository / "net.py") == {"commit": commit, "clean": True}
    (repository / "net.py").write_text("width = 9\n")
    assert commit_of(repository / "net.py") == {"commit": commit, "clean": False}


def test_a_file_that_is_not_of_the_repository_has_no_commit(repository, tmp_path, monkeypatch):
    (repository / "venv").mkdir()
    (repository / "venv" / "net.py").write_text("")
    (tmp_path / "net.py").write_text("")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    for path in (repository / "venv" / "net.py", tmp_path / "net.py", tmp_path / "none" / "net.py"):
        assert commit_of(path) is None
    assert commit_of(repository / "net.py")["clean"]  # whatever the environment says


def test_git_runs_nothing_of_the_repository_and_has_no_time_without_end(repository, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    hook = repository / ".git" / "hooks" / "post-index-change"
    for path in (hook, tmp_path / "monitor"):
        path.write_text(f"#!/bin/sh\ntouch {ran}\n")
        path.chmod(0o755)
    git("-C", str(repository), "config", "core.fsmonitor", str(tmp_path / "monitor"))
    os.utime(repository / "net.py", (1, 1))
    assert commit_of(repository / "net.py")["clean"]
    assert not ran.exists()
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(slow.parent), prepend=":")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.3)
    assert commit_of(repository / "net.py") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(repository / "net.py") is None
