"""Running an experiment from the command line: flags -> plan -> sweep -> verdict -> report.

An experiment is a module with a docstring, ``TITLE``, ``CLAIMS``, ``FIGURES``, ``METRICS``, ``SEEDS`` (preset ->
number), ``spec(preset, data)``, ``hyper(preset, data)``, ``grid(preset, data)`` and ``verdict(rows)``. It may have
``measure(preset, data)``, which returns rows (``claims.measured``) of what needs no training: exact identities, or a
net at its initialisation. Then ``verdict`` takes these as its second argument. It may have ``source``: see
``cli.source``. It may have ``DATA``, the name of its dataset where that is not digits.

Exit codes: 0 done, 1 a run failed or results cannot be written any more, 2 bad input (nothing was written), 130
interrupted (the same command resumes), 141 nobody reads what is printed.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from cnnjax import claims, models
from cnnjax.cli.ending import ended
from cnnjax.cli.flags import Flags
from cnnjax.cli.presets import PRESETS, directory_of
from cnnjax.cli.progress import display
from cnnjax.cli.source import source_session, train, trained
from cnnjax.data.catalog import DataConfig
from cnnjax.interrupt import stoppable
from cnnjax.process import write_atomically
from cnnjax.report.figures import Drawing, FigureSpec
from cnnjax.strict_json import with_nan
from cnnjax.sweep import bundle as bundles
from cnnjax.sweep import joint, plan, points, rule
from cnnjax.sweep.bundle import dataset_of, threads_here
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.grid import Grid
from cnnjax.sweep.place import Unwritable
from cnnjax.sweep.plan import AUTO, Plan, assign
from cnnjax.sweep.session import Session
from cnnjax.sweep.store import Row, dumps
from cnnjax.sweep.supervise import pin
from cnnjax.text import printable, printable_lines
from cnnjax.train import peers
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted
from cnnjax.train.spec import Hyper, Spec, digest, to_json
from cnnjax.typing import UsageError


def main(experiment: ModuleType | str, argv: list[str] | None = None) -> int:
    """Runs an experiment with the command line's arguments and returns the exit code.

    Args:
      experiment: the module, or its name in ``sys.modules``.
      argv: arguments without the program's name; ``sys.argv`` by default.
    """
    module = sys.modules[experiment] if isinstance(experiment, str) else experiment
    argv = sys.argv[1:] if argv is None else argv
    name = Path(str(module.__file__)).stem
    return ended(name, lambda: _outcome(name, module, argv))


def _outcome(name: str, module: ModuleType, argv: list[str]) -> int:
    """The exit code of an experiment, for whatever it may raise that somebody can mend."""
    try:
        with stoppable():
            return _main(name, module, argv)
    except UsageError as error:
        print(f"{name}: {printable_lines(str(error))}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        state = "the state is saved" if stopped.saved else "it goes on from the last checkpoint"
        print(f"{name}: {printable_lines(str(stopped))}; {state}. The same command resumes.", file=sys.stderr)
        return 130
    except KeyboardInterrupt:  # before or after the runs
        print(f"{name}: stopped. The same command resumes.", file=sys.stderr)
        return 130
    except Unwritable as error:
        print(f"{name}: {printable_lines(str(error))}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(
            f"{name}: {printable_lines(str(error))}\nFinished runs are kept; the same command tries the others again.",
            file=sys.stderr,
        )
        return 1


def _main(name: str, module: ModuleType, argv: list[str]) -> int:
    flags = Flags(PRESETS, default_data(module))
    if any(argument in ("--help", "-h", "-help", "--h") for argument in argv):
        print(flags.help(module.__doc__ or ""))
        return 0
    flags.parse([name, *argv])
    if flags.coordinator is None:
        return _start(name, module, flags)
    peers.join(None if flags.coordinator == "auto" else flags.coordinator, flags.processes, flags.process)
    try:
        return _start(name, module, flags)
    finally:
        peers.leave()


def _start(name: str, module: ModuleType, flags: Flags) -> int:
    execution = _execution(flags)
    if flags.calibrate:
        pin(0, flags.threads)  # as a worker would be; before JAX looks at the cores
    session = _session(name, module, flags, execution)
    if flags.coordinator is None:
        return _lead(name, module, flags, execution, session)
    if not peers.leads():
        joint.follow()
        return 0
    with joint.leading():
        return _lead(name, module, flags, execution, session)


def _lead(name: str, module: ModuleType, flags: Flags, execution: Execution, session: Session) -> int:
    if hasattr(module, "source"):
        root = directory_of(Path(flags.workdir), name, flags.preset)
        data, given = flags.data(), flags.overrides()
        source = source_session(name, module, flags.preset, data, given, execution, root)
        weights = trained(source) if flags.plan or flags.calibrate else train(source)
        session = _session(name, module, flags, execution, weights)
    session.check()
    planned, platform = session.plan, jax.default_backend()
    if flags.plan:
        _print_plan(planned, session, platform, execution)
        return 0
    if flags.calibrate:
        _calibrate(planned, Path(flags.workdir) / f"{name}.calibration.json")
        return 0
    _check_claims(module, planned)
    return _run(name, module, session)


def default_data(module: ModuleType) -> str:
    """The dataset of an experiment that is not given another."""
    return getattr(module, "DATA", "digits")


def _session(name: str, module: ModuleType, flags: Flags, execution: Execution, weights: str = "") -> Session:
    """The experiment's sweep, planned and validated; from ``weights`` where it has a source."""
    spec, hyper, grid = _resolve(module, flags, weights)
    seeds = range(flags.first_seed, flags.first_seed + (flags.seeds or module.SEEDS[flags.preset]))
    planned = plan(points(spec, hyper, grid, seeds), jax.default_backend(), execution.driver)
    resolved = {"spec": to_json(spec), "hyper": to_json(hyper), "grid": list(grid), "seeds": list(seeds)}
    description = {"experiment": name, "preset": flags.preset, "configuration": {"preset": flags.preset, **resolved}}
    return Session(planned, execution, directory_of(Path(flags.workdir), name, flags.preset), description)


def _resolve(module: ModuleType, flags: Flags, weights: str) -> tuple[Spec, Hyper, Grid]:
    """The preset's spec, numbers and grid, as changed by the flags."""
    data: DataConfig = flags.data()
    given = flags.overrides()
    spec: Spec = module.spec(flags.preset, data)
    if (chosen := given.get("model")) in models.MODELS:  # keep of the preset's fields what the other network has
        kept = tuple(entry for entry in spec.model_fields if entry[0] in models.fields(chosen))
        spec = dataclasses.replace(spec, model_fields=kept)
    asked = {f"data.{k}": v for k, v in flags.given("data.").items()}
    spec, hyper = assign(spec, module.hyper(flags.preset, data), {**asked, **given})
    return spec, hyper, flags.grid(module.grid(flags.preset, data, *([weights] if weights else [])))


def _execution(flags: Flags) -> Execution:
    if flags.lanes is not None and flags.driver == "auto":
        raise UsageError(f"--lanes={flags.lanes} needs --driver=loop or --driver=scan: the rule chooses both or none.")
    driver = _driver(flags)
    available = threads_here()
    if flags.threads > available:
        raise UsageError(f"--threads={flags.threads} is more than the {available} cores here. Use at most {available}.")
    workers = max(1, available // flags.threads) if flags.workers is None else flags.workers
    if driver is not None and (driver.devices > 1 or flags.coordinator):
        if flags.workers:
            raise UsageError(f"--workers={flags.workers} have one device each. Use --workers=0, or one device.")
        workers = 0
    return Execution(
        workers=workers,
        threads=flags.threads,
        driver=driver,
        feed=flags.feed,
        checkpoint_seconds=flags.checkpoint_seconds,
        keep_checkpoints=flags.keep_checkpoints,
        mix_signatures=flags.mix_signatures,
        lease_seconds=flags.lease_seconds,
        time_limit=flags.time_limit,
        memory_limit=flags.memory_limit,
        log=tuple(flags.log),
    )


def _driver(flags: Flags) -> Driver | None:
    """The driver asked for, its form "auto" where the rule says form and lanes; None where it says all."""
    data = flags.data_devices or (peers.count() if flags.coordinator else 1)
    driver = Driver(flags.driver, flags.lanes or 1, flags.run_devices, data, flags.batch_norm)
    return None if driver.form == AUTO and driver.devices == 1 else driver


def _check_claims(module: ModuleType, planned: Plan) -> None:
    """Says beforehand if the swept axes leave a claim without the one run per condition that it compares."""
    skeleton: list[Row] = [
        {"assignment": dict(p.assignment), "seed": p.seed, "status": "failed", "metrics": {}} for p in planned.points
    ]
    try:
        module.verdict(skeleton, *([[]] if hasattr(module, "measure") else []))
    except (UsageError, KeyError) as error:
        reason = f"the conditions lack {error}" if isinstance(error, KeyError) else error
        print(f"The claims will not be judged: {printable_lines(str(reason))}", file=sys.stderr)


def _run(name: str, module: ModuleType, session: Session) -> int:
    from cnnjax.console import Console
    from cnnjax.report import page, table

    console = Console()
    session.start()
    pending, done, total = session.pending(), len(session.done()), len(session.plan.points)
    state = f"{total - done} of {total} runs to do" if done < total else f"all {total} runs are done"
    console.print(f"[bold]{module.TITLE}[/bold]\n{state}; {session.plan.programs} training programs")
    with display(pending, done, total, console) as listen:
        session.execute(listen)
    if session.execution.member is not None:
        left = total - len(session.done())
        console.print(f"Nothing is left to take; others have {left} of {total} runs" if left else "All is done")
        return 0
    rows = session.rows()
    assert session.store is not None
    directory = session.store.directory
    with console.status("measuring what needs no training"):  # shown on a terminal only
        measured = _measured(module, session, directory / "measured.json")
    verdicts = _verdicts(module, rows, measured)
    manifest = session.store.manifest or {}
    write_atomically(directory / "verdict.json", dumps(claims.to_json(name, session.description["preset"], verdicts)))
    drawn = [figure for figure in module.FIGURES if _suits(figure, rows, judged=bool(verdicts))]
    report = page.write(
        directory,
        experiment=name,
        title=module.TITLE,
        introduction=module.__doc__ or "",
        rows=rows,
        verdicts=verdicts,
        figures=drawn,
        manifest={**manifest, "data": _data_text(session, manifest)},
        metrics=module.METRICS,
        measured=measured or (),
    )
    console.print(table.render(rows, module.METRICS))
    console.print(table.render_verdicts(verdicts))
    console.print(f"Report: {printable(str(report))}", soft_wrap=True, markup=False)
    return 0


def _measured(module: ModuleType, session: Session, path: Path) -> list[Row] | None:
    """What needs no training; kept, for it takes seconds, as long as the question and the versions stay the same."""
    if not hasattr(module, "measure"):
        return None
    preset, data = session.description["preset"], session.plan.points[0].spec.data
    source = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    question = digest({"preset": preset, "data": data, "source": source, "versions": bundles.environment()})
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged: measure anew
        kept = json.loads(path.read_text())
        if kept["question"] == question:
            return _with_nan(kept["rows"])
    rows = json.loads(dumps(module.measure(preset, data)))
    write_atomically(path, dumps({"question": question, "rows": rows}))
    return _with_nan(rows)


def _with_nan(rows: list[Row]) -> list[Row]:
    return [{**row, "metrics": with_nan(row["metrics"])} for row in rows]


def _verdicts(module: ModuleType, rows: list[Row], measured: list[Row] | None) -> list[claims.Verdict]:
    try:
        return module.verdict(rows) if measured is None else module.verdict(rows, measured)
    except (UsageError, KeyError):  # said before the runs, by _check_claims
        return []


def _suits(figure: FigureSpec, rows: list[Row], judged: bool) -> bool:
    """Whether the runs' conditions have what the figure sorts them by; a ``Drawing`` wants those of the claims."""
    if isinstance(figure, Drawing):
        return judged
    facets = [getattr(figure, name, None) for name in ("x", "panels", "hue")]
    keys = [facet if callable(facet) else itemgetter(facet) for facet in facets if facet is not None]
    only = getattr(figure, "only", None) or (lambda assignment: True)
    try:
        drawn = [row for row in rows if only(row["assignment"])]
        if not drawn:
            return False
        for row in drawn:
            for key in keys:
                key(row["assignment"])
    except KeyError:
        return False
    return True


def _data_text(session: Session, manifest: dict[str, Any]) -> str:
    return "; ".join(f"{name} {fingerprint}" for name, fingerprint in manifest.get("data", {}).items())


def _print_plan(planned: Plan, session: Session, platform: str, execution: Execution) -> None:
    from rich.table import Table

    from cnnjax.console import Console

    groups: dict[Any, list[Any]] = {}
    for bundle in planned.bundles:
        groups.setdefault((bundle.spec, bundle.driver), []).append(bundle)
    found = Table("program", "driver", "lanes", "runs", "multiply-adds per image", "seconds per run, about")
    total = 0.0
    for (spec, driver), members in groups.items():
        seconds = rule.forecast_seconds(platform, spec, members[0].image_cost)
        runs = sum(len(bundle.points) for bundle in members)
        total += seconds * len(members) * driver.members
        label = spec.model if isinstance(spec.model, str) else type(spec.model).__name__
        found.add_row(
            str(label), driver.form, str(driver.lanes), str(runs), f"{members[0].image_cost:,}", f"{seconds:.1f}"
        )
    workers = max(1, execution.workers) if platform == "cpu" else jax.device_count()
    firsts = [members[0] for members in groups.values()]
    bytes_each = max(rule.forecast_bytes(first.spec, first.info, first.driver) for first in firsts)
    console = Console()
    console.print(found)
    console.print(
        f"{len(planned.points)} runs ({len(planned.points) - len(session.done())} to do), {planned.programs} "
        f"training programs, {workers} at a time on {platform}; about {total / workers / 60:.1f} minutes "
        f"and compiling (a forecast, within a factor of three); about {bytes_each / 2**20:.0f} MiB for each process."
    )


def _calibrate(planned: Plan, record: Path) -> None:
    """Times the drivers for every program, prints the table and keeps it in ``record``."""
    from rich.table import Table

    from cnnjax.console import Console

    console = Console()
    records = []
    for spec, bundle in {bundle.spec: bundle for bundle in reversed(planned.bundles)}.items():
        rates = rule.calibrate(spec, bundle.points[0].hyper, dataset_of(spec.data))
        best = max(rates, key=lambda driver: rates[driver])
        found = Table("driver", "lanes", "steps per second, all lanes", title=str(spec.model))
        for driver, rate in rates.items():
            mark = " (the rule)" if driver == bundle.driver else ""
            found.add_row(driver.form + mark, str(driver.lanes), f"{rate:.1f}")
        console.print(found)
        console.print(f"Fastest here: --driver={best.form} --lanes={best.lanes}; other bits than the rule's driver.")
        rated = [{**driver._asdict(), "steps_per_second": rate} for driver, rate in rates.items()]
        records.append(
            {"spec": to_json(spec), "rule": bundle.driver._asdict(), "best": best._asdict(), "measured": rated}
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(record, dumps(records))
    console.print(f"Recorded in {printable(str(record))}", soft_wrap=True, markup=False)
