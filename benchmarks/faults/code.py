"""Code that changes between two calls on one directory, and results that are copied from elsewhere or taken apart."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.processes import ROOT, Ended, Sweep, ended_afterwards, wait_for
from cnnjax.strict_json import encode

NET = """
from pathlib import Path

import flax.linen as nn

import helper

FACTOR = float((Path(__file__).parent / "factor.txt").read_text())


class Net(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = helper.activation(nn.Dense(16)(images.reshape(len(images), -1)))
        return nn.Dense(10)(x) * FACTOR * 1.0
"""
HELPER = """
import flax.linen as nn


def activation(x):
    return nn.relu(x)
"""
STUDY = """
import json
import sys
from pathlib import Path

import flax.linen as nn
from net import Net

from cnnjax import sweep
from cnnjax.train import Spec
from cnnjax.train.program import Driver


class Study(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return Net()(images, train) + 0.0


if __name__ == "__main__":
    directory, workers, lanes, steps, seeds, mix, sabotage = sys.argv[1:]
    if sabotage == "sabotage":
        (Path(__file__).parent / "factor.txt").write_text("2.0")
    execution = sweep.Execution(
        workers=int(workers), driver=Driver("scan", int(lanes)), checkpoint_seconds=0, mix_signatures=mix == "mix"
    )
    spec = Spec(model=Study(), steps=int(steps), batch_size=16, evaluate_every=int(steps))
    sweep.run(spec, sweep.product(l2=[0.0, 1e-4, 1e-3]), range(int(seeds)), directory=directory, execution=execution)
"""
# What is edited: file, text, its replacement, and what the refusal names.
EDITS = {
    "model": ("net.py", "* 1.0", "* 0.5", "own code makes another step"),
    "helper": ("helper.py", "nn.relu", "nn.tanh", "own code makes another step"),
    "experiment": ("study.py", "+ 0.0", "+ 1.0", "own code makes another"),
    "data file of a module": ("factor.txt", "1.0", "0.5", "own code makes another step"),
    "cnnjax": ("cnnjax/data/feed.py", "EVALUATION_CHUNK = 16", "EVALUATION_CHUNK = 8", "cnnjax's sources"),
    "cnnjax's version": ("cnnjax/__init__.py", '__version__ = "', '__version__ = "9', "cnnjax's version"),
}
MODES = {"in process": (0, 1), "two workers": (2, 1), "four lanes": (0, 4)}


class Study:
    """A user's folder with a network, a module that it imports, a program and a cnnjax of its own."""

    def __init__(self, place: Place, name: str, workers: int, lanes: int, steps: int = 3_000):
        self.root = place.fresh(name)
        self.root.mkdir()
        for file, text in (("net.py", NET), ("helper.py", HELPER), ("study.py", STUDY), ("factor.txt", "1.0")):
            (self.root / file).write_text(text)
        shutil.copytree(ROOT / "cnnjax", self.root / "cnnjax", ignore=shutil.ignore_patterns("__pycache__"))
        self.sweep = Sweep(place, self.root / "run", environment={"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"})
        self.sweep.directory = self.root / "sweep"
        self.sweep.command = [sys.executable, str(self.root / "study.py"), str(self.sweep.directory)]
        self.flags = [str(workers), str(lanes), str(steps)]

    def run(self, seeds: int = 2, mix: str = "", sabotage: str = "") -> Ended:
        return self.sweep.run(*self.flags, str(seeds), mix, sabotage)

    def stop_midway(self) -> bool:
        """Stops it once there is a row and, of another bundle, a checkpoint; whether both are there."""
        process = self.sweep.start(*self.flags, "2", "", "")
        with ended_afterwards(process):
            wait_for(lambda: self.rows() or not process.runs, 300)
            time.sleep(0.5)  # and the next one has begun
            process.signal(signal.SIGTERM)
            process.wait(120)
        return bool(self.rows() and self.states())

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    def rows(self) -> list[Path]:
        return sorted((self.sweep.directory / "rows").glob("[!.]*.json"))

    def states(self) -> list[Path]:
        return sorted((self.sweep.directory / "checkpoints").glob("*/*/record.json"))

    def content(self) -> dict[str, bytes]:
        """The manifest, the rows and the checkpoints."""
        files = [self.sweep.directory / "manifest.json", *self.rows(), *self.states()]
        return {str(path): path.read_bytes() for path in files}


def code_changes(place: Place) -> Finding:
    """Every kind of file is edited in a sweep that was stopped midway; with the flag and without, in every mode."""
    modes = {"in process": MODES["in process"]} if place.quick else MODES
    edits = {"helper": EDITS["helper"]} if place.quick else EDITS
    problems: list[str] = []
    resumed = kept = 0
    for mode, (workers, lanes) in modes.items():
        for name, edit in edits.items():
            study = Study(place, f"{mode}-{name}".replace(" ", "-"), workers, lanes)
            found, marked, unmarked = _edited(study, *edit)
            problems += [f"{mode}, {name}: {each}" for each in found]
            resumed, kept = resumed + marked, kept + unmarked
            shutil.rmtree(study.root / "cnnjax")
    study = Study(place, "between", 2, 1)
    ended = study.run(sabotage="sabotage")
    if "The code has changed since the sweep started" not in ended.err or study.rows():
        problems.append(f"edited between spawn and import: {ended.err[-300:]}")
    return Finding.of(
        problems, edits=len(edits), modes=len(modes), resumed_rows_marked=resumed, rows_of_the_code_before=kept
    )


def _edited(study: Study, file: str, old: str, new: str, named: str) -> tuple[list[str], int, int]:
    """What is wrong with how a study takes an edit; rows that say so, and those of the code before."""
    if not study.stop_midway():
        return ["it could not be stopped midway"], 0, 0
    before = study.content()
    study.edit(file, old, new)
    refused, problems = study.run(), []
    if refused.code == 0 or "execution signature" not in refused.err or named not in refused.err:
        problems.append(f"not refused, or {named!r} is not named: {refused.err[-300:]}")
    if study.content() != before:
        problems.append("the refused command has changed something")
    mixed = study.run(mix="mix")
    if mixed.code:
        return [*problems, f"not accepted with mix_signatures: {mixed.err[-300:]}"], 0, 0
    rows = [json.loads(path.read_text()) for path in study.rows()]
    first = [row for row in rows if str(study.sweep.directory / "rows" / f"{row['run_id']}.json") in before]
    later = [row for row in rows if row not in first]
    marked = [row for row in later if row.get("earlier_signatures")]
    digests = {row["signature_digest"] for row in first}
    if len(rows) != 6 or not marked or len(digests) != 1:
        problems.append(f"{len(rows)} rows, {len(marked)} marked, {len(digests)} signatures before")
    if any(row["signature_digest"] in digests for row in later):
        problems.append("a row of the new code has the signature of the old")
    if any(row["earlier_signatures"] != list(digests) for row in marked):
        problems.append("a row that went on does not name the signature before")
    if "under another execution signature" not in mixed.err:
        problems.append("the command does not say that its rows are of two codes")
    before = study.content()
    again = study.run()
    if again.code or study.content() != before:
        problems.append(f"the finished directory is not only reported: {again.err[-300:]}")
    return problems, len(marked), len(first)


# ----------------------------------------------------------------------------------- Copied results


def copied_results(place: Place) -> Finding:
    """Rows, checkpoints, weights and manifests of another sweep, seed, signature or data; parts of another type."""
    study = Study(place, "own", 0, 1, steps=60)
    ended = study.run()
    problems = [] if ended.code == 0 else [f"the sweep failed: {ended.err[-300:]}"]
    tries = {**_rows_of_others(study), **_manifests(study)}
    tries = dict(list(tries.items())[:: 6 if place.quick else 1])
    seen: dict[str, Any] = {}
    for name, (path, content) in tries.items():
        before = path.read_bytes()
        path.write_text(content)
        for command in (["-m", "cnnjax", "status"], ["-m", "cnnjax", "compare"], []):
            seen[name] = _refusal(study, command, path)
            problems += [f"{name}: {' '.join(command) or 'the sweep'}: {each}" for each in seen[name]]
        path.write_bytes(before)
    checkpoints = Study(place, "stopped", 0, 1)
    problems += [] if checkpoints.stop_midway() else ["it could not be stopped midway"]
    problems += _checkpoint_of_others(checkpoints)
    return Finding.of(problems, rows_and_manifests=len(tries), commands=3)


def _refusal(study: Study, command: list[str], path: Path) -> list[str]:
    directory = str(study.sweep.directory)
    if not command:
        ended = study.run()
    else:
        names = [directory, directory] if command[-1] == "compare" else [directory]
        sweep = Sweep(Place(study.root, study.root, True), study.root / "asked", environment=study.sweep.environment)
        sweep.command = [sys.executable, *command, *names]
        ended = sweep.run()
    said = ended.out + ended.err
    traceback = "Traceback" in said and "UsageError" not in said
    if command[-1:] == ["status"] and path.parent.name == "rows" and path.stem in path.read_text():
        return ["a traceback"] if "Traceback" in said else []  # it looks at rows, and does not check them to the bit
    named = path.name in "".join(said.split()) or path.stem in "".join(said.split())
    return [f"{'a traceback' if traceback else 'not named'}: {said[-300:]}"] if traceback or not named else []


def _rows_of_others(study: Study) -> dict[str, tuple[Path, str]]:
    """Contents for the first row's file that another sweep, or another hand, would have put there."""
    from cnnjax.sweep.validity import content_digest
    from cnnjax.train.spec import digest

    first, second = study.rows()[:2]
    row = {name: value for name, value in json.loads(first.read_text()).items() if name != "sha256"}
    other = {name: value for name, value in json.loads(second.read_text()).items() if name != "sha256"}

    def signed(**changed: Any) -> str:
        new = {name: value for name, value in {**row, **changed}.items() if value != "missing"}
        return encode({**new, "sha256": content_digest(new)})

    threads = {**row["signature"], "threads": 77}
    found = {
        "another run's file": second.read_text(),
        "another run by this name": signed(**{**other, "run_id": row["run_id"]}),
        "another seed": signed(seed=row["seed"] + 1),
        "other numbers": signed(hyper={**row["hyper"], "l2": 0.5}),
        "another assignment": signed(assignment={"l2": 0.5}),
        "another signature": signed(signature=threads, signature_digest=digest(threads)),
        "a signature by another's digest": signed(signature=threads),
        "other data": signed(data="0" * 64),
        "no digest": encode(row),
        "a digest of another": encode({**row, "sha256": content_digest(other)}),
        "a list": "[]",
        "null": "null",
        "half": first.read_text()[: len(first.read_text()) // 2],
    }
    parts = ("run_id", "assignment", "seed", "spec", "hyper", "status", "signature", "signature_digest", "data",
             "metrics", "history", "parameters_digest")  # fmt: skip
    for part in parts:
        found |= {f"no {part}": signed(**{part: "missing"}), f"{part} of another type": signed(**{part: 7.5})}
    return {name: (first, text) for name, text in found.items()}


def _manifests(study: Study) -> dict[str, tuple[Path, str]]:
    path = study.sweep.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    found = {"an empty manifest": "", "a manifest that is a list": "[]"}
    for part in ("configuration", "data", "runs", "signatures"):
        found[f"a manifest with {part} of another type"] = encode({**manifest, part: [7]})
        found[f"a manifest with {part} null"] = encode({**manifest, part: None})
    found["a manifest whose runs are numbers"] = encode({**manifest, "runs": dict.fromkeys(manifest["runs"], 7)})
    found["a manifest without runs"] = encode({k: v for k, v in manifest.items() if k != "runs"})
    return {name: (path, text) for name, text in found.items()}


def _checkpoint_of_others(study: Study) -> list[str]:
    """A checkpoint copied to where one of another run would lie is refused by name."""
    from cnnjax.train.spec import digest

    bundle = study.states()[0].parent.parent
    signature, done = bundle.name.rpartition("-")[2], {path.stem for path in study.rows()}
    runs = json.loads((study.sweep.directory / "manifest.json").read_text())["runs"]
    bundles = [digest({"runs": [run], "driver": ["scan", 1]}) for run in runs if run not in done]
    places = [bundle.with_name(f"{each}-{signature}") for each in bundles]
    (target, *_) = [path for path in places if not path.exists()]
    shutil.copytree(bundle, target)
    ended = study.run()
    told = ended.code != 0 and "is a checkpoint of other runs" in ended.err
    return [] if told else [f"a checkpoint of another run is taken: {ended.err[-300:]}"]
