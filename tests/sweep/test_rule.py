from cnnjax.data.catalog import DataConfig, load
from cnnjax.sweep import rule
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper


def test_calibration_takes_turns_and_the_median(spec, monkeypatch):
    turns = []

    def timer(spec, hyper, dataset, driver, steps):
        seconds = iter([9.0, 0.5 * driver.lanes, 1e-3] if driver.form == "scan" else [1.0, 1.0, 1.0])
        return lambda: turns.append(driver) or next(seconds)

    monkeypatch.setattr(rule, "_timer", timer)
    rates = rule.calibrate(spec, Hyper(), load(DataConfig()), steps=10, rounds=3)
    assert rates == {
        Driver("loop", 1): 10, Driver("loop", 4): 40, Driver("loop", 8): 80,
        Driver("scan", 1): 20, Driver("scan", 4): 20, Driver("scan", 8): 20,
    }  # fmt: skip
    assert turns == list(rates) * 3


def test_a_candidate_is_timed_step_after_step(spec):
    advance = rule._timer(spec, Hyper(), load(DataConfig()), Driver("scan", 2), 50)
    assert all(0 < advance() < 60 for _ in range(3))
