"""Flags made from the dataclasses: a new field of ``Spec``, ``Hyper`` or a model is a flag without further code."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from absl import flags

from cnnjax import models
from cnnjax.cli.arguments import DEFINE, as_static, help_lines, parsed
from cnnjax.data.catalog import DataConfig
from cnnjax.nn.norm import BATCH_NORMS
from cnnjax.sweep.execution import LOWEST
from cnnjax.sweep.grid import Grid, axis, product
from cnnjax.train.spec import Hyper, Spec
from cnnjax.train.values import check_finite
from cnnjax.typing import UsageError, unknown

EXECUTION = "how it is executed (does not change results, but for driver, lanes, threads, data_devices and batch_norm)"
SWEEP = "what varies"
NUMBERS = "numbers of a run (traced: another value is the same program)"
STATIC = "what a run is (static: another value is another program)"


class Flags:
    """The flags of one experiment.

    Args:
      presets: names of the presets; the first is not the default, "quick" is.
      data: the dataset by default.
    """

    def __init__(self, presets: Iterable[str], data: str = "digits"):
        self.values = flags.FlagValues()
        self.groups: dict[str, str] = {}
        self.types: dict[str, Any] = {}  # swept name -> type of its values
        self._define(SWEEP, flags.DEFINE_enum, "preset", "quick", list(presets), "which recipe")
        self._define(
            SWEEP, flags.DEFINE_integer, "seeds", None, "number of seeds; by default the preset's", lower_bound=1
        )
        self._define(
            SWEEP,
            flags.DEFINE_integer,
            "first_seed",
            0,
            "the seeds count from here; fresh ones confirm what a recipe was tuned on",
            lower_bound=0,
        )
        self._define(
            SWEEP, flags.DEFINE_multi_string, "sweep", [], "an axis, such as weight_decay=0,1e-4,5e-4; may be repeated"
        )
        self._define_execution()
        self._define(STATIC, flags.DEFINE_string, "data", data, "digits, shapes, folder:DIR or tfds:NAME")
        for field in dataclasses.fields(DataConfig):
            if field.name != "name":
                self._from_field(STATIC, DataConfig, field, f"data.{field.name}")
        for config, group in ((Spec, STATIC), (Hyper, NUMBERS)):
            for field in dataclasses.fields(config):
                if field.metadata:
                    self._from_field(group, config, field, field.name)
        for name, (kind, owners) in _model_fields().items():
            self._define_typed(STATIC, f"model.{name}", kind, f"field of {', '.join(owners)}")

    def _define_execution(self) -> None:
        define = self._define
        define(EXECUTION, flags.DEFINE_string, "workdir", "runs", "results go to WORKDIR/EXPERIMENT")
        define(EXECUTION, flags.DEFINE_boolean, "plan", False, "print what would run, and stop")
        define(EXECUTION, flags.DEFINE_boolean, "calibrate", False, "time the drivers on this machine, print, and stop")
        define(
            EXECUTION,
            flags.DEFINE_integer,
            "workers",
            None,
            "processes on a CPU; by default one per core; 0 is none",
            lower_bound=LOWEST["workers"],
        )
        define(EXECUTION, flags.DEFINE_integer, "threads", 1, "cores of each process", lower_bound=LOWEST["threads"])
        define(
            EXECUTION,
            flags.DEFINE_enum,
            "driver",
            "auto",
            ["auto", "loop", "scan"],
            "steps from Python, or a chunk in one program",
        )
        define(
            EXECUTION,
            flags.DEFINE_integer,
            "lanes",
            None,
            "runs side by side in one program; needs --driver",
            lower_bound=1,
        )
        for name, default, what in (
            ("run_devices", 1, "devices of one process that share the runs of a bundle; changes no result"),
            ("data_devices", None, "devices that share each batch; by default one of each process"),
        ):
            define(EXECUTION, flags.DEFINE_integer, name, default, what, lower_bound=1)
        define(
            EXECUTION,
            flags.DEFINE_enum,
            "batch_norm",
            BATCH_NORMS[0],
            list(BATCH_NORMS),
            "data_devices: normalise by the whole batch, or each device by its part",
        )
        define(
            EXECUTION,
            flags.DEFINE_string,
            "coordinator",
            None,
            "HOST:PORT of the first of several processes that share each batch; auto under SLURM, on Cloud TPU",
        )
        define(EXECUTION, flags.DEFINE_integer, "processes", None, "how many these are", lower_bound=1)
        define(EXECUTION, flags.DEFINE_integer, "process", None, "which one this is; 0 leads", lower_bound=0)
        define(EXECUTION, flags.DEFINE_enum, "feed", "auto", ["auto", "resident", "stream"], "where the examples lie")
        define(
            EXECUTION,
            DEFINE[float],
            "checkpoint_seconds",
            60.0,
            "least time between checkpoints",
            lower_bound=LOWEST["checkpoint_seconds"],
        )
        define(
            EXECUTION, flags.DEFINE_boolean, "keep_checkpoints", False, "keep the last state of every finished bundle"
        )
        define(
            EXECUTION,
            flags.DEFINE_boolean,
            "mix_signatures",
            False,
            "go on with rows and checkpoints of another execution signature",
        )
        define(
            EXECUTION,
            DEFINE[float],
            "lease_seconds",
            60.0,
            "silence after which others take a worker's runs",
            lower_bound=LOWEST["lease_seconds"],
        )
        define(
            EXECUTION,
            DEFINE[float],
            "time_limit",
            0.0,
            "seconds that a worker process may spend on a bundle; 0 is no limit",
            lower_bound=LOWEST["time_limit"],
        )
        define(
            EXECUTION,
            flags.DEFINE_integer,
            "memory_limit",
            0,
            "MiB that a worker process may use; 0 is no limit",
            lower_bound=LOWEST["memory_limit"],
        )
        define(EXECUTION, flags.DEFINE_list, "log", [], "beside JSON lines: tensorboard, wandb")

    def parse(self, argv: list[str]) -> list[str]:
        """Reads ``argv``; raises UsageError for whatever does not fit."""
        left = parsed(self.values, argv[1:], self.groups)
        if left:
            raise UsageError(f"Unexpected argument {left[0]!r}: every setting is a flag, --name=value.")
        return left

    def __getattr__(self, name: str) -> Any:
        return self.values[name].value

    def data(self) -> DataConfig:
        """The dataset asked for."""
        given = self.given("data.")
        return DataConfig(name=str(self.values["data"].value), **given)

    def overrides(self) -> dict[str, Any]:
        """Name -> value of every flag given that a grid could assign too."""
        return {
            name: as_static(self.values[name].value)
            for name in self.types
            if self.values[name].present and not name.startswith("data.")
        }

    def grid(self, base: Grid) -> Grid:
        """The experiment's grid, with the names that flags fix or sweep taken out and the swept ones put back.

        Raises:
          UsageError: a malformed or unknown axis.
        """
        axes: dict[str, Grid] = {}
        for text in self.values["sweep"].value or ():
            name, equals, values = text.partition("=")
            if not equals or not values:
                raise UsageError(f"--sweep={text!r} must be NAME=VALUE,VALUE,..., such as --sweep weight_decay=0,1e-4.")
            if name not in self.types:
                raise unknown("swept name", name, self.types)
            if name in axes or name in self.overrides():
                raise UsageError(f"{name} is given twice. Use one --sweep or one --{name}.")
            axes[name] = axis(name, [self._parse_value(name, value) for value in values.split(",")])
        taken = {*axes, *self.overrides()}
        kept: Grid = tuple({name: v for name, v in point.items() if name not in taken} for point in base)
        distinct = tuple(point for index, point in enumerate(kept) if point not in kept[:index])
        return product(distinct, *axes.values())

    def help(self, docstring: str) -> str:
        """The experiment's docstring and its flags, grouped."""
        lines = [
            docstring.strip(),
            "",
            "Flags; what stands in [brackets] holds where the preset says nothing else.",
            "",
        ]
        for group in (SWEEP, STATIC, NUMBERS, EXECUTION):
            lines += [f"{group[0].upper()}{group[1:]}:"]
            lines += help_lines(self.values, [name for name, own in self.groups.items() if own == group])
            lines.append("")
        return "\n".join(lines)

    def given(self, prefix: str) -> dict[str, Any]:
        """Name, without the prefix, -> value of every flag given whose name begins with the prefix."""
        return {
            name.removeprefix(prefix): as_static(self.values[name].value)
            for name in self.groups
            if name.startswith(prefix) and self.values[name].present
        }

    def _define(self, group: str, define: Any, name: str, *args: Any, **kwargs: Any) -> None:
        define(name, *args, flag_values=self.values, **kwargs)
        self.groups[name] = group

    def _from_field(self, group: str, config: type, field: Any, name: str) -> None:
        hint = get_type_hints(config)[field.name]
        low = field.metadata.get("low")
        default = field.default if field.default is not dataclasses.MISSING else None
        if config is Hyper:  # typed Any, for it holds arrays while a program is traced
            hint = type(default)
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        help_text = field.metadata["help"] + (f" [{shown}]" if shown not in (None, "") else "")
        self._define_typed(group, name, hint, help_text, low)

    def _define_typed(self, group: str, name: str, hint: Any, help_text: str, low: float | None = None) -> None:
        args = [a for a in get_args(hint) if a is not type(None)]
        if get_origin(hint) is Literal:
            self._define(group, flags.DEFINE_enum, name, None, list(get_args(hint)), help_text)
            self.types[name] = str
            return
        kind = (
            tuple
            if get_origin(hint) is tuple or hint is tuple
            else next((t for t in (bool, int, float, str) if t in (hint, *args)), str)
        )
        bounds = {"lower_bound": low} if low is not None and kind in (int, float) else {}
        self._define(group, DEFINE[kind], name, None, help_text, **bounds)
        self.types[name] = kind

    def _parse_value(self, name: str, text: str) -> Any:
        kind = self.types[name]
        if kind is tuple:
            raise UsageError(f"{name} cannot be swept: its values are lists.")
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            if kind in (int, float, str):
                value = kind(text)
                check_finite({f"--sweep {name}": value})
                return value
        except UsageError:
            raise
        except ValueError:
            pass
        raise UsageError(f"--sweep {name}: {text!r} is not of type {kind.__name__}.")


def _model_fields() -> dict[str, tuple[type, list[str]]]:
    """Field -> its type and the kinds of networks that have it."""
    found: dict[str, tuple[type, list[str]]] = {}
    for name in models.MODELS:
        kind = type(models.create(name)).__name__
        for field, value in models.fields(name).items():
            nested = isinstance(value, tuple) and any(isinstance(item, tuple) for item in value)
            if isinstance(value, bool | int | float | str | tuple) and not nested:
                owners = found.setdefault(field, (type(value), []))[1]
                owners += [kind] if kind not in owners else []
    return found
