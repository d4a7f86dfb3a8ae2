"""From a grid to work: points -> groups of equal Spec -> bundles of a fixed width.

Runs of one group differ in traced numbers and seed only, so they share one compiled program. A
program of K lanes gives bits that depend on K but not on a run's lane or its partners, so K is
fixed for a group, and the last bundle is padded: a run's numbers never depend on what else was swept.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cnnjax.data.catalog import DataConfig, Info, describe
from cnnjax.sweep import rule
from cnnjax.sweep.grid import Assignment, Grid
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec, digest, validate
from cnnjax.typing import UsageError, unknown


@dataclasses.dataclass(frozen=True)
class Point:
    """One run: what it is, and the assignment of the grid that it came from."""

    spec: Spec
    hyper: Hyper
    seed: int
    assignment: tuple[tuple[str, Any], ...]

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits that depend on the spec, the numbers and the seed, and on nothing else."""
        return digest({"spec": self.spec, "hyper": self.hyper, "seed": self.seed})


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Runs of one group that are trained side by side; ``points`` may be fewer than the lanes.

    ``image_cost`` is the multiply-adds of one image in one forward pass.
    """

    spec: Spec
    info: Info
    driver: Driver
    image_cost: int
    points: tuple[Point, ...]

    @property
    def cost(self) -> int:
        """Multiply-adds of one forward pass over all examples that all lanes see; a unit of work."""
        return self.image_cost * self.spec.batch_size * self.spec.steps * self.driver.lanes

    @property
    def bundle_id(self) -> str:
        """Names the bundle's checkpoints: the same for the same runs under the same driver."""
        return digest({"runs": [point.run_id for point in self.points], "driver": list(self.driver)})

    def padded(self) -> list[Point]:
        """One point for each lane: the last one is repeated to fill the bundle, its copies dropped later."""
        return list(self.points) + [self.points[-1]] * (self.driver.lanes - len(self.points))


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
      UsageError: an unknown name or model field, no seeds, one that is none, or the same run twice.
    """
    if not len(seeds) or not grid:
        raise UsageError("The sweep is empty: give at least one point and one seed.")
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise UsageError(f"The seed {seed!r} must be a whole number from 0 to 2**32 - 1.")
    made = tuple(
        Point(*assign(spec, hyper, assignment), seed, tuple(assignment.items()))
        for assignment in grid
        for seed in seeds
    )
    seen: dict[str, Point] = {}
    for point in made:
        if (twin := seen.setdefault(point.run_id, point)) is not point:
            raise UsageError(
                f"The grid holds one run twice: {dict(twin.assignment)} and {dict(point.assignment)} with seed "
                f"{point.seed} are the same. Remove one."
            )
    return made


def assign(spec: Spec, hyper: Hyper, assignment: Assignment) -> tuple[Spec, Hyper]:
    """The Spec and the Hyper with the assignment's values in place.

    Raises:
      UsageError: a name that is a field of neither, nor of the model or the data, or a value that
        cannot be hashed.
    """
    for name, value in sorted(assignment.items(), key=lambda item: item[0] != "model"):
        _check_hashable(name, value)
        if name.startswith("model."):
            fields = {**dict(spec.model_fields), name.removeprefix("model."): value}
            spec = dataclasses.replace(spec, model_fields=tuple(sorted(fields.items())))
        elif name.startswith("data."):
            field = name.removeprefix("data.")
            if field not in _names(DataConfig):
                raise unknown("field of data", field, _names(DataConfig))
            spec = dataclasses.replace(spec, data=dataclasses.replace(spec.data, **{field: value}))
        elif name in _names(Hyper):
            hyper = dataclasses.replace(hyper, **{name: value})
        elif name in _names(Spec) - {"data", "model_fields"}:
            spec = dataclasses.replace(spec, **{name: value})
        else:
            raise unknown("swept name", name, _names(Hyper) | _names(Spec) - {"data", "model_fields"})
    return spec, _as_floats(hyper)


def plan(all_points: Sequence[Point], platform: str, driver: Driver | None = None) -> Plan:
    """Validates every point and arranges them in bundles, before any data is loaded.

    Args:
      all_points: the runs.
      platform: "cpu", "gpu" or "tpu": the default driver is a fixed rule of it and the Spec.
      driver: used for every group in place of the rule.

    Raises:
      UsageError: from the first point that cannot work, naming it.
    """
    infos: dict[DataConfig, Info] = {}
    groups: dict[Spec, list[Point]] = {}
    for point in all_points:
        groups.setdefault(point.spec, []).append(point)
    arranged: list[Bundle] = []
    for spec, members in groups.items():
        if spec.data not in infos:
            infos[spec.data] = describe(spec.data)
        info = infos[spec.data]
        validate(spec, [point.hyper for point in members], info)
        image_cost = rule.cost(spec, info)
        chosen = driver or rule.default_driver(platform, image_cost)
        arranged += [
            Bundle(spec, info, chosen, image_cost, tuple(members[at : at + chosen.lanes]))
            for at in range(0, len(members), chosen.lanes)
        ]
    arranged.sort(key=lambda bundle: -bundle.cost)  # stable: bundles of a group stay together
    return Plan(tuple(all_points), tuple(arranged))


def _as_floats(hyper: Hyper) -> Hyper:
    """0 and 0.0 are one number, so they make one run: fields of type float hold floats."""
    values = {field.name: getattr(hyper, field.name) for field in dataclasses.fields(Hyper)}
    whole = {name for name, value in values.items() if type(value) is int}
    floats = {field.name for field in dataclasses.fields(Hyper) if isinstance(field.default, float)}
    return dataclasses.replace(hyper, **{name: float(values[name]) for name in whole & floats})


def _check_hashable(name: str, value: Any) -> None:
    try:
        hash(value)
    except TypeError as error:
        raise UsageError(f"{name}={value!r} cannot be swept: it can change. Use a tuple.") from error


def _names(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}
