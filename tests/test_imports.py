"""The floors of the house: imports go only downward, and slow libraries are imported where they are used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOUNDATION = (
    "rng",
    "tree",
    "typing",
    "image",
    "tables",
    "process",
    "interrupt",
    "provenance",
    "strict_json",
    "memory",
    "text",
    "console",
    "__version__",
)
LAYERS = ("ops", "nn", "augment", "losses", "metrics", "stats", "data")
MODELS = (*FOUNDATION, *LAYERS, "models", "analysis", "weights")

# What each place may import of cnnjax, beside itself. A name stands for all beneath it.
MAY_IMPORT = {
    "": (),  # cnnjax/__init__.py
    "rng": FOUNDATION,
    "tree": FOUNDATION,
    "typing": FOUNDATION,
    "image": FOUNDATION,
    "tables": FOUNDATION,
    "memory": FOUNDATION,
    "console": FOUNDATION,
    "process": FOUNDATION,
    "interrupt": FOUNDATION,
    "text": FOUNDATION,
    "strict_json": FOUNDATION,
    "provenance": FOUNDATION,
    "ops": FOUNDATION,
    "nn": (*FOUNDATION, "ops"),
    "augment": (*FOUNDATION, "ops"),
    "losses": (*FOUNDATION, "ops"),
    "metrics": (*FOUNDATION, "ops"),
    "stats": (*FOUNDATION, "ops"),
    "data": FOUNDATION,
    "models": (*FOUNDATION, *LAYERS),
    "analysis": (*FOUNDATION, *LAYERS, "models"),
    "weights": (*FOUNDATION, "models"),
    "tasks": MODELS,
    "train": (*MODELS, "tasks"),
    "sweep": (*MODELS, "tasks", "train"),
    "samples": (*FOUNDATION, "stats"),
    "claims": (*FOUNDATION, "stats", "samples", "sweep.store"),
    "report": (*FOUNDATION, "stats", "sweep.store"),
    "cli": (*MODELS, "tasks", "train", "sweep", "claims", "report"),
    "__main__": ("cli",),
}

# The same for what lies beside cnnjax and may not import all of it.
BESIDE = {
    "launch": (
        *(
            "cnnjax.cli",
            "cnnjax.console",
            "cnnjax.interrupt",
            "cnnjax.process",
            "cnnjax.sweep",
            "cnnjax.text",
            "cnnjax.typing",
        ),
        "launch",
    )
}

# Together they take seconds to import, and most commands need none of them.
SLOW = {
    *("scipy", "sklearn", "matplotlib", "rich", "orbax", "tensorflow_datasets", "grain", "PIL"),
    *("tensorboardX", "wandb", "safetensors", "huggingface_hub", "submitit", "ray"),
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "trainer"}


def files(*folders: str) -> list[Path]:
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [path.relative_to(ROOT) for path in found]


def imports(path: Path, source: str | None = None) -> Iterator[str]:
    """The dotted names that a file imports, also inside functions: ``from a.b import c`` is a.b.c."""
    for node in ast.walk(ast.parse(source if source is not None else (ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level] if node.level else ()
            base = [*package, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def violations(path: Path, source: str | None = None) -> list[str]:
    """The imports of a file that the table forbids."""
    place = path.parts[0]
    projects = [name for name in imports(path, source) if (ROOT / name.split(".")[0]).is_dir()]
    if place in BESIDE:
        return [name for name in projects if not any(f"{name}.".startswith(f"{a}.") for a in BESIDE[place])]
    if place != "cnnjax":
        return [name for name in projects if name.split(".")[0] not in ("cnnjax", place)]
    own = path.with_suffix("").parts[1].replace("__init__", "")
    allowed = (*MAY_IMPORT[own], own) if own else ()
    names = [name.removeprefix("cnnjax").removeprefix(".") for name in projects]
    return [name for name in names if not any(f"{name}.".startswith(f"{a}.") for a in allowed)]


@pytest.mark.parametrize("path", files("cnnjax", "experiments", "benchmarks", "launch"), ids=str)
def test_imports_go_only_downward(path):
    assert violations(path) == []


def test_every_place_has_a_floor():
    places = {path.with_suffix("").parts[1] for path in files("cnnjax")} - {"__init__"}
    assert places <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("path", "source", "forbidden"),
    [
        ("cnnjax/ops/conv.py", "from cnnjax.nn import Conv", ["nn.Conv"]),
        ("cnnjax/ops/conv.py", "def f():\n    import cnnjax.models.vgg", ["models.vgg"]),
        ("cnnjax/ops/conv.py", "from cnnjax import rng, losses", ["losses"]),
        ("cnnjax/ops/conv.py", "import cnnjax", [""]),
        ("cnnjax/ops/conv.py", "from . import pool\nfrom ..nn.norm import NORMS", ["nn.norm.NORMS"]),
        ("cnnjax/tree.py", "from cnnjax import augment", ["augment"]),
        ("cnnjax/data/feed.py", "from cnnjax import ops", ["ops"]),
        ("cnnjax/models/vgg.py", "from cnnjax.analysis import cost", ["analysis.cost"]),
        ("cnnjax/report/page.py", "from cnnjax.sweep import store, grid", ["sweep.grid"]),
        ("cnnjax/claims.py", "from cnnjax.report import page", ["report.page"]),
        ("cnnjax/__init__.py", "from cnnjax import rng", ["rng"]),
        ("cnnjax/train/step.py", "import experiments", ["experiments"]),
        ("launch/task.py", "from cnnjax import cli, train\nimport experiments", ["cnnjax.train", "experiments"]),
        ("experiments/lectures.py", "import benchmarks.speed\nfrom cnnjax import cli", ["benchmarks.speed"]),
    ],
)
def test_a_forbidden_import_is_found(path, source, forbidden):
    assert violations(Path(path), source) == forbidden


@pytest.mark.parametrize("path", files("cnnjax", "experiments", "launch"), ids=str)
def test_slow_libraries_are_imported_where_they_are_used(path):
    whole = ast.parse((ROOT / path).read_text())
    at_top = ast.unparse(ast.Module([n for n in whole.body if isinstance(n, ast.Import | ast.ImportFrom)], []))
    found = [name for name in imports(path, at_top) if name.startswith("cnnjax.console") or name.split(".")[0] in SLOW]
    assert found == (["rich.console", "rich.segment.Segment"] if path == Path("cnnjax/console.py") else [])


def test_no_file_has_a_vague_name():
    names = {path.stem.lower() for path in files("cnnjax", "experiments", "benchmarks", "launch", "tests")}
    assert names.isdisjoint(VAGUE)
    assert not [name for name in names if set(name.split("_")) & VAGUE]
