"""How long large sweeps take to plan, to look at and to report, without training anything.

    python -m benchmarks.scale

Planning is from the grid to the bundles that are left to run, in an empty directory: 100,000 points of two programs.
A report is of 10,000 finished runs, made up, with ten evaluations each: in 2,000 conditions of five seeds. Each part is
done in a process of its own, whose greatest memory is measured.
"""

import argparse
import math
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, record
from cnnjax.cli.commands import status as status_command
from cnnjax.cli.sweep_status import Observer
from cnnjax.report import page, table
from cnnjax.report.figures import Curves, FigureSpec, Finals, Response
from cnnjax.strict_json import encode
from cnnjax.sweep import plan, points, product
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.session import Session
from cnnjax.sweep.store import Row, Store
from cnnjax.train.spec import Hyper, Spec, to_json

METRICS = ("train_error", "test_error", "test_loss")
FIGURES: tuple[FigureSpec, ...] = (
    Curves("train_error"), Curves("valid_error", hue="l2", panels="steps"), Finals(("test_error", "gap_error")),
    Response("l2", ("train_error", "test_error")),
)  # fmt: skip


class Clock:
    """Seconds of the parts of a piece of work, by name: of the processor, which other work here does not lengthen."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] = round(time.process_time() - started, 2)


def planning(count: int) -> dict[str, Any]:
    """Seconds of planning ``count`` points of one seed each, by part."""
    clock = Clock()
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=12, batch_size=16)
    side = math.isqrt(count // 2)
    grid = product(
        l2=[n * 1e-6 for n in range(count // 2 // side)], warmup=[n / side for n in range(side)], steps=[12, 24]
    )
    with tempfile.TemporaryDirectory() as directory:
        with clock.part("points"):
            made = points(spec, Hyper(), grid, [0])
        with clock.part("plan"):
            planned = plan(made, "cpu")
        with clock.part("session and its check"):
            configuration = {"spec": to_json(spec), "hyper": to_json(Hyper()), "grid": grid, "seeds": [0]}
            session = Session(planned, Execution(), Path(directory) / "sweep", {"configuration": configuration})
            session.check()
        with clock.part("start: data, manifest"):
            session.start()
        with clock.part("what is left"):
            assert len(session.pending()) == len(planned.bundles)
        with clock.part("ids of the bundles"):
            assert len({bundle.bundle_id for bundle in planned.bundles}) == len(planned.bundles)
    return {"points": len(made), "seconds": clock.seconds, "sum": round(sum(clock.seconds.values()), 2)}


def rows(conditions: int, seeds: int) -> list[Row]:
    """Finished runs as the store returns them, made up."""
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=100, batch_size=16, evaluate_every=10)
    half = math.isqrt(conditions // 2)
    grid = product(
        l2=[n * 1e-6 for n in range(conditions // 2 // half)], warmup=[n / half for n in range(half)], steps=[100, 200]
    )
    return [_row(spec, point, number) for number, point in enumerate(points(spec, Hyper(), grid, range(seeds)))]


def _row(spec: Spec, point: Any, number: int) -> Row:
    def metrics(step: int) -> dict[str, float]:
        error = 0.9 * math.exp(-step / 40) + 0.01 * math.sin(number)
        return {f"{split}_{name}": error * factor for split, factor in (("train", 1), ("valid", 1.1), ("test", 1.2))
                for name in ("error", "loss")}  # fmt: skip

    history = [{"step": step, "images": 16 * step, "batch_loss": 1.0, **metrics(step)} for step in range(10, 101, 10)]
    return {
        "run_id": point.run_id, "assignment": dict(point.assignment), "seed": point.seed, "spec": to_json(point.spec),
        "hyper": to_json(point.hyper), "metrics": {**metrics(100), "gap_error": 0.1, "parameters": 618.0},
        "history": history, "diverged_step": None, "parameters_digest": f"{number:064x}", "seconds": 2.0,
        "compile_seconds": 0.5, "images_per_second": 3000.0, "accesses": {"train": 10, "valid": 10, "test": 1},
        "outputs": None, "arrays": {}, "classes": 10, "status": "done", "error": None,
        "signature": {"driver": "scan", "lanes": 8, "platform": "cpu", "threads": 1}, "signature_digest": "s" * 16,
        "program": f"program {point.spec.steps}", "data": "d" * 64, "worker": number % 8,
    }  # fmt: skip


def reporting(conditions: int, seeds: int) -> dict[str, Any]:
    """Seconds of reporting runs that are in memory, by part, and how large the report is."""
    clock, found = Clock(), rows(conditions, seeds)
    manifest = {"command": "made up", "runs": {row["run_id"]: row["signature_digest"] for row in found}, "data": "none"}
    with tempfile.TemporaryDirectory() as directory:
        with clock.part("page, figures, results.csv"):
            path = page.write(
                directory, experiment="scale", title="Made up", introduction="", rows=found, verdicts=(),
                figures=FIGURES, manifest=manifest, metrics=METRICS,
            )  # fmt: skip
        with clock.part("table of the terminal"):
            table.render(found, METRICS)
        assert len((Path(directory) / "results.csv").read_text().splitlines()) == 1 + len(found)
        size = path.stat().st_size
    return {
        "runs": len(found),
        "seconds": clock.seconds,
        "sum": round(sum(clock.seconds.values()), 2),
        "page_bytes": size,
    }


def directories(conditions: int, seeds: int) -> dict[str, Any]:
    """Seconds of writing rows, of reading them, and of ``cnnjax status``, the first time and again."""
    clock, found = Clock(), rows(conditions, seeds)
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        store.open({"configuration": {}, "data": {}, "created": "", "runs": {row["run_id"]: "" for row in found}})
        with clock.part("write rows"):
            for row in found:
                store.write(row)
        with clock.part("read rows"):
            for row in found:
                store.read(row["run_id"])
        observer = Observer(Path(directory))
        for name in ("status", "status, again"):
            with clock.part(name):
                status_command.parts([observer.look()])
    return {"runs": len(found), "seconds": clock.seconds}


def _apart(pipe: Any, work: Callable[..., dict[str, Any]], arguments: tuple[int, ...]) -> None:
    pipe.send({**work(*arguments), "greatest_memory_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024})


def apart(work: Callable[..., dict[str, Any]], *arguments: int) -> dict[str, Any]:
    """What ``work`` returns in a fresh process, and that process's greatest memory."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_apart, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    found = mine.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", type=int, default=1, help="divide all sizes by this, and only print")
    shrink = parser.parse_args().shrink
    results = {
        "plan": apart(planning, 100_000 // shrink),
        "report, 2,000 conditions of 5 seeds": apart(reporting, 2_000 // shrink, 5),
        "report, 10,000 conditions of 1 seed": apart(reporting, 10_000 // shrink, 1),
        "directory": apart(directories, 2_000 // shrink, 5),
    }
    if shrink > 1:
        print(encode(results, indent=1))
    else:
        question = "Seconds of the processor and memory: planning 100,000 runs, reporting and looking at 10,000"
        record("scale", question, "python -m benchmarks.scale", machine(), results)


if __name__ == "__main__":
    main()
