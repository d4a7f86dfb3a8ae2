import dataclasses

import pytest

from cnnjax import models
from cnnjax.cli.flags import EXECUTION, NUMBERS, STATIC, SWEEP, Flags
from cnnjax.data.catalog import DataConfig
from cnnjax.sweep.grid import product
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import UsageError


def parsed(*argv):
    flags = Flags(("smoke", "quick", "paper"))
    flags.parse(["experiment", *argv])
    return flags


@pytest.fixture(scope="module")
def flags():
    return parsed()


# There is a flag for everything


@pytest.mark.parametrize(
    ("config", "group", "prefix"), [(Spec, STATIC, ""), (Hyper, NUMBERS, ""), (DataConfig, STATIC, "data.")]
)
def test_every_field_is_a_flag(flags, config, group, prefix):
    without = {Spec: {"model_fields", "data"}, Hyper: set(), DataConfig: {"name"}}[config]
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        assert flags.groups[f"{prefix}{field.name}"] == group
        assert field.metadata["help"] in flags.values[f"{prefix}{field.name}"].help
    assert flags.groups["data"] == STATIC


def test_every_field_of_every_network_is_a_flag(flags):
    for name in models.MODELS:
        for field, value in models.fields(name).items():
            if isinstance(value, bool | int | float | str):
                assert flags.types[f"model.{field}"] is type(value)
    assert flags.types["model.hidden"] is tuple
    assert "model.dtype" not in flags.types


def test_nothing_given_changes_nothing(flags):
    assert flags.overrides() == {}
    assert flags.data() == DataConfig()
    assert (flags.preset, flags.seeds, flags.workdir, flags.plan, flags.workers) == ("quick", None, "runs", False, None)
    base = product(l2=[0.0, 0.1], dropout=[0.0, 0.5])
    assert flags.grid(base) == base


def test_values_have_the_type_of_their_field():
    given = parsed(
        "--learning_rate=1e-3", "--steps=7", "--nesterov", "--model=mlp", "--optimizer=adam", "--train_size=100",
        "--milestones=0.25,.5", "--augment=flip,crop", "--model.hidden=8,4", "--model.width=3", "--decayed=all",
    ).overrides()  # fmt: skip
    assert given == {
        "learning_rate": 1e-3, "steps": 7, "nesterov": True, "model": "mlp", "optimizer": "adam", "train_size": 100,
        "milestones": (0.25, 0.5), "augment": ("flip", "crop"), "model.hidden": (8, 4), "model.width": 3,
        "decayed": "all",
    }  # fmt: skip
    assert type(given["train_size"]) is int
    assert parsed("--augment=").overrides() == {"augment": ()}
    assert parsed("--milestones=5e-1").overrides() == {"milestones": (0.5,)}
    assert parsed("--nonesterov").overrides() == {"nesterov": False}
    transfer = parsed("--frozen=stem,stage1", "--weights=net.safetensors", "--keep_weights", "--nocache_features")
    assert transfer.overrides() == {
        "frozen": ("stem", "stage1"), "weights": "net.safetensors", "keep_weights": True, "cache_features": False
    }  # fmt: skip


def test_data_flags_make_the_configuration():
    given = parsed("--data=shapes", "--data.image_size=16", "--data.difficulty=0.25", "--data.channels=1")
    assert given.data() == DataConfig("shapes", image_size=16, difficulty=0.25, channels=1)
    assert given.overrides() == {}


# Axes


def test_a_swept_name_replaces_its_axis_and_leaves_the_others():
    base = product(l2=[0.0, 0.1], dropout=[0.0, 0.5])
    swept = parsed("--sweep", "l2=0.2,0.3,0.4").grid(base)
    assert swept == product(dropout=[0.0, 0.5], l2=[0.2, 0.3, 0.4])
    assert parsed("--l2=0.7").grid(base) == product(dropout=[0.0, 0.5])
    assert parsed("--l2=0.7", "--sweep=dropout=0.1").grid(base) == ({"dropout": 0.1},)
    both = parsed("--sweep=l2=0.2,0.3", "--sweep=steps=5,6").grid(base)
    assert both == product(dropout=[0.0, 0.5], l2=[0.2, 0.3], steps=[5, 6])


def test_axes_have_the_type_of_their_field():
    swept = parsed("--sweep=train_size=10,20", "--sweep=l2=0,1e-4", "--sweep=nesterov=true,False",
                   "--sweep=optimizer=sgd,adam", "--sweep=data.image_size=8,16", "--sweep=model.norm=batch,none",
                   "--sweep=model=mlp,lenet5")  # fmt: skip
    (first, *_, last) = swept.grid(({},))
    assert first == {"train_size": 10, "l2": 0.0, "nesterov": True, "optimizer": "sgd", "data.image_size": 8,
                     "model.norm": "batch", "model": "mlp"}  # fmt: skip
    assert last == {"train_size": 20, "l2": 1e-4, "nesterov": False, "optimizer": "adam", "data.image_size": 16,
                    "model.norm": "none", "model": "lenet5"}  # fmt: skip
    assert {name: type(value) for name, value in first.items()} == {name: type(value) for name, value in last.items()}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sweep=l2"], "--sweep='l2' must be NAME=VALUE,VALUE,..., such as --sweep weight_decay=0,1e-4"),
        (["--sweep=l2="], "--sweep='l2=' must be NAME=VALUE"),
        (["--sweep=weight_deacy=0,1"], "Unknown swept name 'weight_deacy'. Did you mean 'weight_decay'"),
        (["--sweep=model.widht=4,8"], "Unknown swept name 'model.widht'. Did you mean 'model.width'"),
        (["--sweep=data=digits,shapes"], "Unknown swept name 'data'"),
        (["--sweep=seeds=1,2"], "Unknown swept name 'seeds'"),
        (["--sweep=l2=0,much"], "--sweep l2: 'much' is not of type float"),
        (["--sweep=steps=10,1e2"], "--sweep steps: '1e2' is not of type int"),
        (["--sweep=l2=0,,1"], "--sweep l2: '' is not of type float"),
        (["--sweep=nesterov=yes"], "--sweep nesterov: 'yes' is not of type bool"),
        (["--sweep=milestones=0.5,0.75"], "milestones cannot be swept: its values are lists"),
        (["--sweep=l2=0,0.0"], "The axis 'l2' holds 0.0 twice"),
        (["--sweep=l2=0", "--sweep=l2=1"], "l2 is given twice. Use one --sweep or one --l2"),
        (["--sweep=l2=0,1", "--l2=3"], "l2 is given twice"),
    ],
)
def test_a_bad_axis_is_refused(argv, message):
    flags = parsed(*argv)
    with pytest.raises(UsageError) as error:
        flags.grid(({},))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--lerning_rate=1", ["Unknown flag '--lerning_rate'", "Did you mean '--learning_rate'"]),
        ("--model.widht=1", ["Did you mean '--model.width'"]),
        ("--data.imagesize=1", ["Did you mean '--data.image_size'"]),
        ("--preset=fast", ["--preset=fast", "smoke|quick|paper"]),
        ("--optimizer=sdg", ["--optimizer=sdg", "sgd|adam"]),
        ("--steps=many", ["--steps=many"]),
        ("--steps=0", ["--steps=0", "positive"]),
        ("--l2=-1", ["--l2=-1", "non-negative"]),
        ("--seeds=0", ["--seeds=0", "positive"]),
        ("--nesterov=perhaps", ["--nesterov=perhaps"]),
        ("quick", ["Unexpected argument 'quick'", "--name=value"]),
        ("--steps", ["steps"]),
    ],
)
def test_a_bad_flag_is_refused(argument, parts):
    with pytest.raises(UsageError) as error:
        parsed(argument)
    for part in parts:
        assert part in str(error.value)


# Help


def test_help_shows_the_docstring_and_every_flag_in_its_group(flags):
    text = flags.help("What the experiment asks.\n\nAnd more.")
    assert text.startswith("What the experiment asks.\n\nAnd more.")
    headings = [f"{group[0].upper()}{group[1:]}:" for group in (SWEEP, STATIC, NUMBERS, EXECUTION)]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)
    lines = text.splitlines()
    for name, group in flags.groups.items():
        (line,) = (number for number, line in enumerate(lines) if line.startswith(f"  --{name} "))
        above = [other for other in headings if lines.index(other) < line]
        assert above[-1] == f"{group[0].upper()}{group[1:]}:"
    assert "peak learning rate [0.1]" in text
    assert all(len(line) <= 120 for line in lines)
