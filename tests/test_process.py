import pytest

from cnnjax.process import oom_kills


@pytest.mark.parametrize(
    ("own", "counter", "text"),
    [
        ("0::/job/step\n", "job/step/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("5:cpu:/x\n4:memory:/job/step\n0::/\n", "memory/job/step/memory.oom_control", "under_oom 0\noom_kill 2\n"),
    ],
    ids=["v2", "v1"],
)
def test_kills_for_memory_are_counted(tmp_path, own, counter, text):
    (tmp_path / "own").write_text(own)
    assert oom_kills(tmp_path, tmp_path / "own") == 0
    path = tmp_path / counter
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert oom_kills(tmp_path, tmp_path / "own") == 2


def test_in_a_container_its_own_group_is_the_root(tmp_path):
    (tmp_path / "own").write_text("0::/docker/5f3a\n")
    (tmp_path / "memory.events").write_text("oom_kill 3\n")
    assert oom_kills(tmp_path, tmp_path / "own") == 3


def test_a_system_without_control_groups_counts_nothing(tmp_path):
    assert oom_kills(tmp_path, tmp_path / "own") == 0
