"""Several devices, and accelerators."""

import json
import os
import shutil
import signal
import sys

from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.killed import finished, in_peace, newest_checkpoint
from benchmarks.faults.processes import Process, Sweep, ended_afterwards, wait_for


def devices(place: Place) -> Finding:
    """Stops on some host devices and resumes on others: along ``run`` and along ``data``."""
    numbers = (1, 2) if place.quick else (1, 2, 4)
    flags: tuple[str, ...] = ("--preset=smoke", "--steps=800", "--seeds=1", "--driver=scan", "--lanes=1")
    flags += ("--workers=0", "--checkpoint_seconds=0", "--evaluate_every=200")
    problems: list[str] = []
    refused = accepted = marked = resumed = 0
    for count in numbers:
        own = (*flags, *_on(count))
        expected, _ = in_peace(place, f"peace-{count}", *own, **_host(count))
        stopped = Sweep(place, place.fresh(f"stopped-{count}"), *own, environment=_host(count))
        process = stopped.start()
        with ended_afterwards(process):
            wait_for(lambda: newest_checkpoint(stopped) or not process.runs)  # noqa: B023 (called at once)
            process.signal(signal.SIGTERM)
            process.wait(60)
        if not newest_checkpoint(stopped):
            problems.append(f"{count} devices: no state was saved")
            continue
        for other in numbers:
            label = f"from {count} devices to {other}"
            sweep = Sweep(place, place.fresh(f"resumed-{count}-{other}"), *flags, *_on(other), environment=_host(other))
            shutil.copytree(stopped.workdir, sweep.workdir)
            if other == count:
                wrong = finished(sweep, expected, label)
                resumed += not wrong
                problems += wrong
                continue
            ended = sweep.run()
            named = "signature" in ended.err and str(count) in ended.err and str(other) in ended.err
            if ended.code == 2 and named and "--mix_signatures" in ended.err:
                refused += 1
            else:
                problems.append(f"{label}: exit code {ended.code}, not refused by name: {ended.err[-300:]}")
            ended = sweep.run("--mix_signatures")
            accepted += ended.code == 0
            if ended.code:
                problems.append(f"{label}, asked for: exit code {ended.code}: {ended.err[-300:]}")
            rows = sweep.rows().values()
            mixed = [row for row in rows if row.get("earlier_signatures")]
            marked += bool(mixed)
            if not mixed:
                problems.append(f"{label}: no row says that its run passed through two signatures")
    return Finding.of(
        problems,
        devices=numbers,
        refused=refused,
        accepted_when_asked=accepted,
        marked=marked,
        same_number_resumed=resumed,
    )


def _on(count: int) -> tuple[str, ...]:
    """The flag that shares each batch between devices: another program for each number of them."""
    return (f"--data_devices={count}",)


def _host(count: int) -> dict[str, str]:
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


# Accelerators

TWICE = """
import json, os, sys
import jax
from benchmarks.faults import storm
from cnnjax.data import DataConfig
from cnnjax.sweep import run
if jax.default_backend() == "cpu":
    print(json.dumps(["cpu"]))
    sys.exit()
data = DataConfig()
rows = run(storm.spec("smoke", data), storm.grid("smoke", data), range(2), storm.hyper("smoke", data))
print(json.dumps([jax.default_backend(), jax.devices()[0].device_kind,
                  {row["run_id"]: row["parameters_digest"] for row in rows}, rows[0]["signature"]]))
"""


def accelerator(place: Place) -> Finding:
    """The same configuration on an accelerator: twice with nothing compiled, then with everything compiled."""
    found = {}
    for deterministic in (True, False):
        flag = "--xla_gpu_deterministic_ops=true" if deterministic else ""
        caches = [place.fresh(f"cache-{deterministic}-{number}") for number in (0, 1)]
        ends = []
        for number, cache in enumerate((caches[0], caches[1], caches[0])):  # cold, cold, warm
            environment = {
                "XLA_FLAGS": flag,
                "CNNJAX_CACHE": str(cache),
                "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),
            }
            ended = Process(
                place.fresh("log") / f"{deterministic}-{number}", [sys.executable, "-c", TWICE], environment
            ).wait()
            if ended.code:
                return Finding.of([f"exit code {ended.code}: {ended.err[-500:]}"])
            ends.append(json.loads(ended.out.splitlines()[-1]))
            if ends[0][0] == "cpu":
                return Finding.impossible("there is no accelerator here")
        found[deterministic] = ends
    same = {key: ends[0][2] == ends[1][2] == ends[2][2] for key, ends in found.items()}
    marks = {key: ends[0][3].get("deterministic") for key, ends in found.items()}
    problems = [] if same[True] else ["with deterministic operations the bits differ"]
    if not same[False] and marks[False] is not False:
        problems.append("the bits differ, and the row does not say that it is nondeterministic")
    if marks[True] == marks[False]:
        problems.append(f"rows with and without deterministic operations say the same: {marks[True]}")
    return Finding.of(
        problems,
        device=found[True][0][1],
        identical_if_asked=same[True],
        identical_by_default=same[False],
        rows_say=str(marks),
    )
