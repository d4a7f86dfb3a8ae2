"""Directories that are spoilt before a sweep, or moved while it runs; more: ``benchmarks.faults --only=places``."""

import shutil

import pytest

from cnnjax.sweep import place
from cnnjax.sweep.execute import in_process
from cnnjax.sweep.grid import product
from cnnjax.sweep.place import FILES, FOLDERS, Place, Unwritable
from cnnjax.sweep.store import Store
from cnnjax.typing import UsageError


def move(directory, elsewhere):
    directory.rename(elsewhere)


def exchange(directory, elsewhere):
    directory.rename(elsewhere)
    directory.mkdir()
    (directory / "theirs").touch()


def remove(directory, elsewhere):
    shutil.rmtree(directory)


@pytest.mark.parametrize("spoil", [move, exchange, remove])
@pytest.mark.parametrize("when", ["in training", "between bundles"])
@pytest.mark.slow
def test_a_directory_that_is_gone_stops_the_sweep_and_is_not_made_again(
    spoil, when, jobs, settings, rows_of, timeless, tmp_path
):
    every, directory, elsewhere = jobs(product(l2=[0.0, 0.01]), range(3)), tmp_path / "runs", tmp_path / "elsewhere"
    in_process(every, settings(tmp_path / "peace"), lambda news: None)
    news = []

    def listen(each):
        if each.finished == (when == "between bundles") and not news:
            news.append(each)
            spoil(directory, elsewhere)

    with pytest.raises(Unwritable, match=rf"^{directory} was moved or removed while the sweep ran"):
        in_process(every, settings(directory, checkpoint_seconds=0.0, lease_seconds=0.5), listen)
    assert ([path.name for path in directory.iterdir()] if directory.exists() else []) in ([], ["theirs"])
    assert directory.exists() == (spoil is exchange)
    in_process(
        every, settings(elsewhere, lease_seconds=0.5), lambda news: None
    )  # this process lives: its lease runs out
    assert timeless(rows_of(elsewhere, every)) == timeless(rows_of(tmp_path / "peace", every))


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_what_stands_in_the_way_is_refused_by_name_before_anything(name, tmp_path):
    right = "file" if name in FILES else "directory"
    (tmp_path / name).mkdir() if name in FILES else (tmp_path / name).touch()
    with pytest.raises(UsageError, match=rf"{name} is in the way: it must be a {right}\. Remove it, or use another"):
        Store(tmp_path).check({"runs": {}})
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_tried(folder, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir()
    tried = []
    monkeypatch.setattr(place, "_try_all", tried.append)
    place.probe(tmp_path)
    assert tried == [tmp_path, tmp_path / folder]


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30), "y" * 4000], ids=["part", "whole", "both"])
def test_a_name_that_is_too_long_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match=r"(too long).* Use another --workdir") as refusal:
        Store(tmp_path / name).check({"runs": {}})
    assert len(str(refusal.value)) < 400
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_known_by_its_number_also_in_another_process(tmp_path):
    (tmp_path / "runs").mkdir()
    held = Place(tmp_path / "runs")
    Place(tmp_path / "runs", held.identity).check()
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    for look in (held.check, lambda: Place(tmp_path / "runs", held.identity)):
        with pytest.raises(Unwritable, match="was moved or removed"):
            look()
