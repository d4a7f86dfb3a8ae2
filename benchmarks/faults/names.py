"""Files that change unseen, and names of every kind: of files, classes and directories, on any terminal."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.killed import finished, in_peace
from benchmarks.faults.processes import Process, Sweep, ended_afterwards, wait_for

NANOSECONDS = 1_700_000_000 * 10**9  # when all files say that they were changed


def _pictures(root: bytes, classes: tuple[bytes, ...], files: dict[int, bytes] | None = None) -> None:
    """Twelve pictures of the same number of bytes for each class; ``files`` names some of them."""
    import numpy as np
    from PIL import Image

    for label, name in enumerate(classes):
        directory = os.path.join(root, name)
        os.makedirs(directory)
        for number in range(12):
            path = os.path.join(directory, (files or {}).get(number, b"%02d.png" % number))
            pixels = np.full((8, 8, 3), (40 * label, 20 * number, 7), np.uint8)
            with open(path, "wb") as file:
                Image.fromarray(pixels).save(file, "BMP")  # whatever is in it, of one size
            os.utime(path, ns=(NANOSECONDS, NANOSECONDS))


def _written(one: Path, other: Path) -> None:
    """In place, as ``cp -p`` writes."""
    contents = [path.read_bytes() for path in (one, other)]
    for path, content in zip((one, other), reversed(contents), strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(NANOSECONDS, NANOSECONDS))


def _renamed_into_place(one: Path, other: Path) -> None:
    """Beside it, and renamed over it, as ``rsync -a`` does."""
    contents = [path.read_bytes() for path in (one, other)]
    for path, content in zip((one, other), reversed(contents), strict=True):
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(content)
        os.utime(new, ns=(NANOSECONDS, NANOSECONDS))
        new.replace(path)


def _removed_and_written(one: Path, other: Path) -> None:
    """Removed and made anew, as ``unzip -o`` does."""
    contents = [path.read_bytes() for path in (one, other)]
    for path, content in zip((one, other), reversed(contents), strict=True):
        path.unlink()
        path.write_bytes(content)
        os.utime(path, ns=(NANOSECONDS, NANOSECONDS))


def _swapped(one: Path, other: Path) -> None:
    """Renamed, without writing a byte."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _folders_swapped(one: Path, other: Path) -> None:
    _swapped(one.parent, other.parent)


EXCHANGES: dict[str, Callable[[Path, Path], None]] = {
    "written in place": _written,
    "renamed into place": _renamed_into_place,
    "removed and written": _removed_and_written,
    "swapped": _swapped,
    "folders swapped": _folders_swapped,
}
FINGERPRINT = """
import sys
from cnnjax.data import DataConfig, load
print(load(DataConfig("folder:" + sys.argv[1])).fingerprint)
"""


def exchanged_files(place: Place) -> Finding:
    """Pictures of two classes exchanged, their sizes and times kept: between two commands, and in a stopped sweep."""
    problems = []
    chosen = dict(list(EXCHANGES.items())[:: 3 if place.quick else 1])
    for name, exchange in chosen.items():
        root = place.fresh(name)
        _pictures(os.fsencode(root), (b"cats", b"dogs"))
        one, other = root / "cats" / "03.png", root / "dogs" / "05.png"
        before = _fingerprint(place, root)
        exchange(one, other)
        status = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (one, other)]
        if status != [(status[0][0], NANOSECONDS)] * 2:
            problems.append(f"{name}: sizes and times are not those before: the test is wrong")
        if (after := _fingerprint(place, root)) == before:
            problems.append(f"{name}: not noticed")
        exchange(one, other)
        if _fingerprint(place, root) != before:
            problems.append(f"{name}: restored, the data are others")
        copy = place.fresh(f"{name} copied")
        shutil.copytree(root, copy)
        if _fingerprint(place, copy) != before or after == "":
            problems.append(f"{name}: a copy has another fingerprint")
    problems += _exchanged_while_stopped(place)
    return Finding.of(problems, ways=len(chosen))


def _fingerprint(place: Place, root: Path) -> str:
    environment = {"CNNJAX_CACHE": str(place.cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    ended = Process(place.cache / "fingerprint", [sys.executable, "-c", FINGERPRINT, str(root)], environment).wait(120)
    return ended.out if ended.code == 0 else ""


def _exchanged_while_stopped(place: Place) -> list[str]:
    root = place.fresh("data")
    _pictures(os.fsencode(root), (b"cats", b"dogs"))
    flags = (
        f"--data=folder:{root}", "--preset=smoke", "--seeds=2", "--driver=scan", "--lanes=2", "--workers=0",
        "--batch_size=8", "--checkpoint_seconds=0", "--steps=800", "--evaluate_every=400",
    )  # fmt: skip
    expected, _ = in_peace(place, "unchanged", *flags)
    sweep = Sweep(place, place.fresh("stopped"), *flags)
    process = sweep.start()
    with ended_afterwards(process):
        wait_for(lambda: any((sweep.directory / "checkpoints").glob("*/*/record.json")) or not process.runs)
        process.signal(signal.SIGTERM)
        stopped = process.wait(60)
    problems = [] if stopped.code == 130 else [f"the sweep could not be stopped: {stopped.code}"]
    pair = root / "cats" / "03.png", root / "dogs" / "05.png"
    _renamed_into_place(*pair)
    refused = sweep.run()
    _renamed_into_place(*pair)
    if refused.code != 2 or "folder:" not in refused.err or "Traceback" in refused.err:
        problems.append(f"exchanged while stopped: exit code {refused.code}: {refused.err[-300:]}")
    return problems + finished(sweep, expected, "restored")


LONG = b"l" * 251
CLASSES = (b"[bold]b", b"caf\xe9", b"new\nline \x1b[31mred", LONG + b"name")
FILES = {0: b"\xff\xfe.png", 1: b"[b].png", 2: b"a  b\n.png", 3: LONG + b".png", 4: "漢字.png".encode()}
DIRECTORIES = (b"  two  spaces ", b"line\nend", b"-x --y=z", b"w" * 255, b"caf\xe9")
TERMINALS = {"UTF-8": {"PYTHONIOENCODING": "utf-8"}, "ASCII": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}}
WEIGHTS = """
import os, sys
import numpy as np
from cnnjax import models, tree, weights
names = tuple(os.listdir(sys.argv[1]))
fields = {"hidden": (4,), "num_classes": len(names)}
shapes = models.parameter_shapes(models.create("mlp", **fields), (8, 8, 3))
import jax
arrays = jax.tree_util.tree_map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
steps = weights.Preprocessing(8, 8, (0.5,) * 3, (1.0,) * 3)
weights.save(sys.argv[2], arrays, "mlp", preprocessing=steps, class_names=names, image_shape=(8, 8, 3), **fields)
"""


def names(place: Place) -> Finding:
    """Commands on names with brackets, bytes that are not UTF-8, newlines, 255 characters, on two terminals."""
    inside = os.path.join(os.fsencode(place.directory), b"[", b"b] d\xc3\xa4ta\n\xff")
    os.makedirs(inside)
    root, kept = os.path.join(inside, b"pictures"), os.path.join(inside, b"w.safetensors")
    _pictures(root, CLASSES, FILES)
    made = _command(place, {}, [sys.executable, "-c", WEIGHTS, os.fsdecode(root), os.fsdecode(kept)])
    if made.code:
        return Finding.of([f"no weights: {made.err[-500:]}"])
    data, weights = f"--data=folder:{os.fsdecode(root)}", f"--weights={os.fsdecode(kept)}"
    odd = os.fsdecode(os.path.join(root, CLASSES[1], FILES[0]))
    cnnjax = [sys.executable, "-m", "cnnjax"]
    runs = os.fsdecode(os.path.join(inside, b"r\xfc\n[/b]"))
    sweep = [sys.executable, "-m", "benchmarks.faults.storm", "--preset=smoke", "--seeds=1", "--workers=0", data,
             "--batch_size=8"]  # fmt: skip
    storm = [*sweep, f"--workdir={runs}"]
    others = {f"sweep in {name[:9]!r}": os.fsdecode(os.path.join(inside, name)) for name in DIRECTORIES}
    commands: dict[str, tuple[list[str], int]] = {
        "predict": ([*cnnjax, "predict", weights, os.fsdecode(root)], 0),
        "predict --json": ([*cnnjax, "predict", weights, "--json", odd], 0),
        "predict a missing picture": ([*cnnjax, "predict", weights, f"{odd}\x1b[31m\n"], 2),
        "predict into head": (["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "-", *cnnjax, "predict", weights,
                               *[os.fsdecode(root)] * 40], 141),
        "evaluate": ([*cnnjax, "evaluate", weights, data, "--split=all"], 0),
        "evaluate --json": ([*cnnjax, "evaluate", weights, data, "--split=all", "--json"], 0),
        "evaluate a missing folder": ([*cnnjax, "evaluate", weights, f"{data}\x1b[31m\n\udcfe"], 2),
        "sweep": (storm, 0),
        "sweep again": (storm, 0),
        "sweep into head": (["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "-", *storm], 0),
        "status": ([*cnnjax, "status", runs], 0),
        "compare": ([*cnnjax, "compare", f"{runs}/storm", f"{runs}/storm"], 0),
        **{name: ([*sweep, f"--workdir={path}"], 0) for name, path in others.items()},
        "sweep in a name too long": ([*sweep, f"--workdir={runs}/{'x' * 256}"], 2),
        "status of a name too long": ([*cnnjax, "status", f"{runs}/{'x' * 256}"], 2),
        "sweep in a path too long": ([*sweep, f"--workdir={runs}/{'/'.join(['x' * 200] * 30)}"], 2),
    }  # fmt: skip
    if place.quick:
        commands = {name: commands[name] for name in ("predict", "predict --json", "evaluate a missing folder")}
    problems = []
    for terminal, environment in TERMINALS.items():
        for name, (command, code) in commands.items():
            ended = _command(place, environment, command)
            label = f"{name} on a terminal of {terminal}"
            if ended.code not in (code, 141 if "head" in name else code):
                problems.append(f"{label}: exit code {ended.code}: {ended.err[-300:]}")
            if "Traceback" in ended.err + ended.out:
                problems.append(f"{label}: a traceback: {ended.err[-300:]}")
            if any(ord(letter) < 32 and letter != "\n" for letter in ended.out + ended.err):
                problems.append(f"{label}: a control character reaches the terminal")
            if name == "predict --json" and ended.code == 0:
                (row,) = json.loads(ended.out)
                if row["image"] != odd or row["classes"][0]["class"] not in map(os.fsdecode, CLASSES):
                    problems.append(f"{label}: other names: {row!a}")
    for name, path in () if place.quick else others.items():
        if len(list(Path(path).glob("storm/rows/*.json"))) != 3:
            problems.append(f"{name}: its rows are elsewhere")
    return Finding.of(problems, commands=len(commands) * len(TERMINALS), names=len(CLASSES) + len(FILES))


def _command(place: Place, environment: dict[str, str], command: list[str]):
    usual = {"CNNJAX_CACHE": str(place.cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd(), "COLUMNS": "200"}
    return Process(place.cache / "names", command, {**usual, **environment}).wait(300)
