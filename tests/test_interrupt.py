"""Ctrl-C and SIGTERM as one exception."""

import signal
import subprocess
import sys
import threading

import pytest

from cnnjax.interrupt import SIGNALS, Stopped, stoppable

PROGRAM = """
import signal
from cnnjax.interrupt import stoppable
try:
    with stoppable():
        exec("signal.raise_signal({number})")  # as an import of dataclasses does
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize("which", SIGNALS)
def test_either_signal_raises_and_the_handlers_come_back(which):
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped), stoppable():
        signal.raise_signal(which)
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("which", SIGNALS)
def test_the_exit_code_is_the_program_s_also_where_the_signal_came_within_exec(which, tmp_path):
    (tmp_path / "stopped.py").write_text(PROGRAM.format(number=int(which)))
    assert subprocess.run([sys.executable, "-m", "stopped"], cwd=tmp_path, timeout=60).returncode == 130


def test_a_thread_may_enter_it():
    entered = []

    def enter():
        with stoppable():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]
