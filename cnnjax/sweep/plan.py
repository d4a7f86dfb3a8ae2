"""From a grid to work: points -> groups of equal Spec -> bundles of a fixed width.

Runs of one group differ in traced numbers and seed only, so they share one compiled program. A
program of K lanes gives bits that depend on K but not on a run's lane or its partners, so K is
fixed for a group, and the last bundle is padded: a run's numbers never depend on what else was swept.
"""

import dataclasses
import sys
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

from cnnjax.data.catalog import DataConfig, Info, describe
from cnnjax.sweep import rule
from cnnjax.sweep.grid import Assignment, Grid
from cnnjax.train import shard
from cnnjax.train.effect import check_effects, check_settings
from cnnjax.train.program import Driver
from cnnjax.train.spec import (
    PLAIN,
    Hyper,
    Spec,
    check_reads_images,
    check_values,
    digest,
    digest_of_text,
    json_text,
    validate,
)
from cnnjax.typing import UsageError, unknown

AUTO = "auto"  # a driver's form that stands for the rule's
MOST_RUNS = 200_000  # of one sweep: planning them takes some ten seconds


@dataclasses.dataclass(frozen=True)
class Point:
    """One run: what it is, and the assignment of the grid that it came from."""

    spec: Spec
    hyper: Hyper
    seed: int
    assignment: tuple[tuple[str, Any], ...]

    @cached_property
    def run_id(self) -> str:
        """16 hexadecimal digits that depend on the spec, the numbers and the seed, and on nothing else."""
        hyper, spec = json_text(self.hyper), json_text(self.spec)
        return digest_of_text(f'{{"hyper": {hyper}, "seed": {self.seed}, "spec": {spec}}}')  # as ``digest`` of them


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Runs of one group that are trained side by side; ``points`` may be fewer than the driver's members.

    ``image_cost`` is the multiply-adds of one image in one forward pass.
    """

    spec: Spec
    info: Info
    driver: Driver
    image_cost: int
    points: tuple[Point, ...]

    @property
    def cost(self) -> int:
        """Multiply-adds of one forward pass over all examples that all members see; a unit of work."""
        return self.image_cost * self.spec.batch_size * self.spec.steps * self.driver.members

    @cached_property
    def runs(self) -> tuple[str, ...]:
        """The ids of its runs."""
        return tuple(point.run_id for point in self.points)

    @cached_property
    def bundle_id(self) -> str:
        """Names the bundle: the same for the same runs under the same driver."""
        return digest({"runs": list(self.runs), "driver": list(self.driver.of_state().values())})

    @cached_property
    def program_id(self) -> str:
        """Names its training program: the same where nothing has to be compiled anew."""
        return digest({"spec": self.spec, "driver": list(self.driver)})

    def padded(self) -> list[Point]:
        """One point for each member: the last one is repeated to fill the bundle, its copies dropped later."""
        return list(self.points) + [self.points[-1]] * (self.driver.members - len(self.points))


@dataclasses.dataclass(frozen=True)
class Plan:
    """All bundles of a sweep, the costliest groups first, and what they cost."""

    points: tuple[Point, ...]
    bundles: tuple[Bundle, ...]

    @property
    def programs(self) -> int:
        """How many different training programs the sweep needs."""
        return len({(bundle.spec, bundle.driver) for bundle in self.bundles})


def points(spec: Spec, hyper: Hyper, grid: Grid, seeds: Sequence[int]) -> tuple[Point, ...]:
    """Every assignment of the grid with every seed; seeds vary fastest.

    Raises:
      UsageError: an unknown name or model field, no seeds, one that is none, more runs than ``MOST_RUNS``, or the same
        run twice.
    """
    _check_runs(len(grid), seeds)
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise UsageError(f"The seed {seed!r} must be a whole number from 0 to 2**32 - 1.")
    specs: dict[Any, Spec] = {}
    made: list[Point] = []
    hyper = _with_floats(hyper)
    for assignment in grid:
        if (static := _static(assignment)) not in specs:  # one object for each: its JSON is made once
            specs[static] = _assign_static(spec, assignment)
        numbers, items = _assign_numbers(hyper, assignment), tuple(assignment.items())
        made += [Point(specs[static], numbers, seed, items) for seed in seeds]
    seen: dict[str, Point] = {}
    for point in made:
        if (twin := seen.setdefault(point.run_id, point)) is not point:
            raise UsageError(
                f"The grid holds one run twice: {dict(twin.assignment)} and {dict(point.assignment)} with seed "
                f"{point.seed} are the same. Remove one."
            )
    return tuple(made)


def _check_runs(conditions: int, seeds: Sequence[int]) -> None:
    """Refuses a sweep of no run, and of more than can be planned in seconds."""
    try:
        count = len(seeds)
    except OverflowError:  # a range may be longer than Python can count
        count = seeds[-1] - seeds[0] + 1
    if not count or not conditions:
        raise UsageError("The sweep is empty: give at least one point and one seed.")
    if count * conditions > MOST_RUNS:
        raise UsageError(
            f"{count * conditions:,} runs ({conditions:,} conditions with {count:,} seeds each) are more than the "
            f"{MOST_RUNS:,} that one sweep may have. Use fewer seeds, or several sweeps with other --first_seed and "
            "--workdir."
        )


def assign(spec: Spec, hyper: Hyper, assignment: Assignment) -> tuple[Spec, Hyper]:
    """The Spec and the Hyper with the assignment's values in place.

    Raises:
      UsageError: a name that is a field of neither, nor of the model or the data, or a value that
        cannot be hashed.
    """
    return _assign_static(spec, assignment), _assign_numbers(_with_floats(hyper), assignment)


def plan(all_points: Sequence[Point], platform: str, driver: Driver | None = None) -> Plan:
    """Validates every point and arranges them in bundles, before any data is loaded.

    Args:
      all_points: the runs.
      platform: "cpu", "gpu" or "tpu": the default driver is a fixed rule of it and the Spec.
      driver: used for every group in place of the rule; with form "auto" the rule says form and lanes, it the devices.

    Raises:
      UsageError: from the first point that cannot work, naming it.
    """
    infos: dict[DataConfig, Info] = {}
    groups: dict[Spec, list[Point]] = {}
    for point in all_points:
        groups.setdefault(point.spec, []).append(point)
    for spec, members in groups.items():  # before any network is traced, which takes half a second
        if spec.data not in infos:
            infos[spec.data] = describe(spec.data)
        check_values(spec, [point.hyper for point in members], infos[spec.data])
    arranged: list[Bundle] = []
    for spec, members in groups.items():
        info = infos[spec.data]
        validate(spec, [point.hyper for point in members], info)
        check_effects(spec, [point.hyper for point in members], info)
        image_cost = rule.cost(spec, info)
        chosen = driver or Driver(AUTO)
        if chosen.form == AUTO:
            form, lanes, *_ = rule.default_driver(platform, image_cost)
            chosen = chosen._replace(form=form, lanes=lanes)
        shard.check(chosen.runs, chosen.data, chosen.batch_norm, spec.batch_size)
        if chosen.data > 1:
            shard.check_network(spec, info)
            if chosen.batch_norm == "local":
                check_reads_images(spec, info, spec.batch_size // chosen.data)
        arranged += [
            Bundle(spec, info, chosen, image_cost, tuple(members[at : at + chosen.members]))
            for at in range(0, len(members), chosen.members)
        ]
    check_settings({spec: [point.hyper for point in members] for spec, members in groups.items()}, infos)
    arranged.sort(key=lambda bundle: -bundle.cost)  # stable: bundles of a group stay together
    return Plan(tuple(all_points), tuple(arranged))


def _static(assignment: Assignment) -> tuple[Any, ...]:
    """The assigned values that make another program, as a key that tells 1 from 1.0 and from True."""
    return tuple(
        (name, repr(value) if type(value) in (*PLAIN, tuple) else id(value))
        for name, value in assignment.items()
        if name not in _names(Hyper)
    )


def _assign_static(spec: Spec, assignment: Assignment) -> Spec:
    """The Spec with those values in place that make another program, the model first: others are fields of it."""
    for name, value in sorted(assignment.items(), key=lambda item: item[0] != "model"):
        if name in _names(Hyper):
            continue
        _check_hashable(name, value)
        if name.startswith("model."):
            fields = {**dict(spec.model_fields), name.removeprefix("model."): value}
            spec = dataclasses.replace(spec, model_fields=tuple(sorted(fields.items())))
        elif name.startswith("data."):
            field = name.removeprefix("data.")
            if field not in _names(DataConfig):
                raise unknown("field of data", field, _names(DataConfig))
            spec = dataclasses.replace(spec, data=dataclasses.replace(spec.data, **{field: value}))
        elif name in _names(Spec) - {"data", "model_fields"}:
            spec = dataclasses.replace(spec, **{name: value})
        else:
            raise unknown("swept name", name, _names(Hyper) | _names(Spec) - {"data", "model_fields"})
    return spec


def _assign_numbers(hyper: Hyper, assignment: Assignment) -> Hyper:
    """The Hyper, which holds floats where they belong, with the assignment's numbers in place."""
    numbers = {name: _as_float(name, value) for name, value in assignment.items() if name in _names(Hyper)}
    for name, value in numbers.items():
        _check_hashable(name, value)
    return Hyper(**{**vars(hyper), **numbers})


def _with_floats(hyper: Hyper) -> Hyper:
    return Hyper(**{name: _as_float(name, value) for name, value in vars(hyper).items()})


def _as_float(name: str, value: Any) -> Any:
    """A number for a field of Hyper. 0 and 0.0 are one number, so they make one run: float fields hold floats."""
    fits = type(value) is int and name in _float_names() and abs(value) <= sys.float_info.max
    return float(value) if fits else value


@cache
def _float_names() -> frozenset[str]:
    """The fields of Hyper that hold floats."""
    return frozenset(field.name for field in dataclasses.fields(Hyper) if isinstance(field.default, float))


def _check_hashable(name: str, value: Any) -> None:
    try:
        hash(value)
    except TypeError as error:
        raise UsageError(f"{name}={value!r} cannot be swept: it can change. Use a tuple.") from error


@cache
def _names(config: type) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(config))
