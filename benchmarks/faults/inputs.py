"""Input that cannot work, or that means harm: configurations, files of weights, images."""

import json
import os
import signal
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.cases import CASES
from benchmarks.faults.finding import Finding, Place
from benchmarks.faults.hostile import write_all
from benchmarks.faults.killed import finished, in_peace
from benchmarks.faults.processes import Process, Sweep, ended_afterwards, wait_for

# The command, and beside it: seconds of the processor after the imports, compilations, datasets loaded.
WATCHED = """
import json, sys, time
import jax
from experiments import degradation
from cnnjax import cli
from cnnjax.sweep import bundle
compiled, loaded, real = [], [], bundle.dataset_of
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name and seconds > 0.1 else None)
bundle.dataset_of = lambda config: loaded.append(config.name) or real(config)
started = time.process_time()
code = cli.main(degradation, ["--preset=smoke", *sys.argv[1:]])
print("WATCHED", json.dumps([time.process_time() - started, len(compiled), loaded]))
sys.exit(code)
"""
SECONDS = 2.0  # for a refusal, after the imports
MEBIBYTES = 200  # above the start, for a file of any content


def configurations(place: Place) -> Finding:
    """Bad arguments, each given to the command in a process of its own."""
    (place.directory / "file").write_text("")
    (place.directory / "foreign" / "degradation").mkdir(parents=True)
    (place.directory / "foreign" / "degradation" / "thesis.tex").write_text("years of work")
    places = [
        ([f"--workdir={place.directory / 'file'}"], ["is not a directory", "Use another --workdir"]),
        ([f"--workdir={place.directory / 'foreign'}"], ["is not empty", "Use another --workdir"]),
        (["--workdir=/proc/nowhere"], ["written to /proc", "Use another --workdir"]),
    ]
    chosen = [*CASES, *places]
    chosen = chosen[:: max(1, len(chosen) // 6)] if place.quick else chosen
    before, problems, slowest = sorted(place.directory.rglob("*")), [], 0.0
    logs = place.cache / "refusals"
    for number, (argv, parts) in enumerate(chosen):
        given = (
            [] if any(argument.startswith("--workdir") for argument in argv) else [f"--workdir={place.directory}/runs"]
        )
        command = [sys.executable, "-c", WATCHED, *given, *argv]
        ended = Process(logs / str(number), command, {"JAX_PLATFORMS": "cpu"}).wait(120)
        label = " ".join(argv)[:60]
        out, _, watched = ended.out.partition("WATCHED ")
        seconds, compilations, loaded = json.loads(watched) if watched else (0.0, 0, [])
        slowest = max(slowest, seconds)
        wrong = [f"exit code {ended.code}"] if ended.code != 2 else []
        wrong += [f"{part!r} is not in {ended.err[:200]!r}" for part in parts if part not in ended.err]
        wrong += ["a traceback"] if "Traceback" in ended.err else []
        wrong += [f"{seconds:.1f} s"] if seconds > SECONDS else []
        wrong += [f"{compilations} compilations"] if compilations else []
        wrong += [f"{loaded} loaded"] if loaded else []
        wrong += [f"it printed {out[:80]!r}"] if out else []
        problems += [f"{label}: {each}" for each in wrong]
    if sorted(place.directory.rglob("*")) != before:
        problems.append("something was written")
    return Finding.of(problems, configurations=len(chosen), slowest_processor_seconds_after_imports=round(slowest, 2))


# Reads every file of a folder as weights, and says what happened, how long it took and how the process grew.
READER = """
import json, sys, time
from pathlib import Path
from cnnjax import weights
from cnnjax.typing import UsageError
# Not ru_maxrss: on Linux a new process begins with that of the one that started it.
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
start, found = peak(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in (weights.read, lambda path: weights.load(path, "lenet5")):
        before, began = peak(), time.monotonic()
        try:
            read(path)
            found[path.name] = ["read", "", 0, 0]
        except UsageError as error:
            found[path.name] = ["refused", str(error), peak() - before, time.monotonic() - began]
        except Exception as error:
            found[path.name] = ["failed", repr(error), peak() - before, time.monotonic() - began]
print(json.dumps([peak() - start, found]))
"""


def hostile_files(place: Place) -> Finding:
    """Files of weights that are written to do harm, and names of runs that point out of the directory."""
    folder, inside = place.fresh("files"), place.fresh("inside")
    inside.mkdir()
    write_all(folder, small=place.quick)
    before = sorted(path for path in place.directory.rglob("*") if inside not in path.parents)
    command = [sys.executable, "-c", READER, str(folder)]
    environment = {"PYTHONPATH": os.getcwd(), "HARM": str(place.directory / "ran"), "JAX_PLATFORMS": "cpu"}
    ended = Process(inside / "reader", command, environment).wait(300)
    problems = []
    grown, found = json.loads(ended.out) if ended.code == 0 else (0.0, {})
    if ended.code:
        problems.append(f"the reader ended with {ended.code}: {ended.err[-500:]}")
    problems += [f"{name} was {what}: {text[:200]}" for name, (what, text, *_) in found.items() if what != "refused"]
    problems += [f"{name} is not named: {text[:200]}" for name, (_, text, *_) in found.items() if name not in text]
    if grown > MEBIBYTES:
        problems.append(f"the process grew by {grown:.0f} MiB")
    problems += _runs_named_outside(place, inside)
    after = sorted(path for path in place.directory.rglob("*") if inside not in path.parents)
    problems += [f"{path} was written" for path in set(after) - set(before)]
    return Finding.of(problems, files=len(found), mebibytes_above_the_start=round(grown))


OUTSIDE = """
import sys
from pathlib import Path
from cnnjax.cli.command import main
from cnnjax.sweep.store import Store
from cnnjax.typing import UsageError
store = Store(Path(sys.argv[1]))
for name in ("../../x", "/nowhere/x", "..", "a/b", ""):
    for call in (store.read, lambda run: store.write({"run_id": run}), store.weights, lambda run: store.fail(run, "x")):
        try:
            call(name)
            print("taken:", name, call)
        except UsageError as error:
            if repr(name) not in str(error):
                print("not named:", name, error)
    if name and main(["rerun", sys.argv[1], name]) != 2:
        print("rerun takes", name)
"""


def _runs_named_outside(place: Place, inside: Path) -> list[str]:
    """What is wrong with how names of runs that point elsewhere are refused."""
    directory = inside / "deep" / "er"
    directory.mkdir(parents=True)
    ended = Process(inside / "names", [sys.executable, "-c", OUTSIDE, str(directory)], {"JAX_PLATFORMS": "cpu"}).wait(
        120
    )
    problems = [f"a run's name: {line}" for line in ended.out.splitlines()]
    return problems + ([f"names: {ended.err[-300:]}"] if ended.code else [])


# Images


def _picture(kind: str = "png", mode: str = "RGB", **options: Any) -> bytes:
    """A picture of 8x8 random pixels, with most of its bytes in its pixels."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _claiming(width: int, height: int) -> bytes:
    """A PNG that says that it is large; its pixels are not there."""
    content = bytearray(_picture())
    content[16:24] = struct.pack(">LL", width, height)
    content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
    return bytes(content)


def _black(width: int, height: int) -> bytes:
    """A PNG that is large, and whole: a few kilobytes that unpack to very many pixels."""
    row = zlib.compressobj(9)
    packed = b"".join(row.compress(bytes(1 + 3 * width)) for _ in range(height)) + row.flush()
    chunks = [(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    framed = (struct.pack(">L", len(c)) + n + c + struct.pack(">L", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _not_numbers() -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(buffer, "tiff")
    return buffer.getvalue()


def _rotated() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return _picture("jpeg", exif=exif)


def _deep() -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(buffer, "png")
    return buffer.getvalue()


def _animated() -> bytes:
    from PIL import Image

    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, "gif", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "empty"),
    "cut.png": (lambda: _picture()[:-40], "truncated"),
    "cut.jpg": (lambda: _picture("jpeg")[:-60], "truncated"),
    "page.png": (lambda: b"<html>404</html>", "no image"),
    "numbers.png": (_not_numbers, "floating-point"),
    "program.png": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no image"),
    "claims.png": (lambda: _claiming(60000, 60000), "pixels"),
    "large.png": (lambda: _black(20000, 6000), "pixels"),
    "narrow.png": (lambda: _black(200000, 1), "too long and narrow"),
}
GOOD: dict[str, Callable[[], bytes]] = {
    "cmyk.jpg": lambda: _picture("jpeg", "CMYK"),
    "deep.png": _deep,
    "animated.gif": _animated,
    "rotated.jpg": _rotated,
    "palette.png": lambda: _picture("png", "P"),
    "see-through.png": lambda: _picture("png", "RGBA"),
    "grey.png": lambda: _picture("png", "L"),
}
MEASURED = """
import runpy, sys
from pathlib import Path
sys.argv = ["storm", *sys.argv[1:]]
try:
    runpy.run_module("benchmarks.faults.storm", run_name="__main__", alter_sys=True)
finally:
    print("PEAK", int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


def bad_data(place: Place) -> Finding:
    """Bad images, one at a time and together; unusual but good ones; data that change between stop and resume."""
    size = "--data.image_size=32"
    flags = ("--preset=smoke", "--seeds=2", "--driver=scan", "--lanes=2", "--workers=0", size)
    good = _folder(place.fresh("good"), {})
    usual, _ = _measured(place, "usual", f"--data=folder:{good}", *flags)
    problems = [] if usual["code"] == 0 else [f"good images are refused: {usual['err'][-300:]}"]
    most = usual["peak"]
    for name in list(BAD)[:: 4 if place.quick else 1]:
        make, reason = BAD[name]
        found, _ = _measured(place, name, f"--data=folder:{_folder(place.fresh(f'with-{name}'), {name: make})}", *flags)
        wrong = [f"exit code {found['code']}"] if found["code"] != 2 else []
        wrong += [f"{part!r} is not in {found['err'][-300:]!r}" for part in (name, reason) if part not in found["err"]]
        problems += [f"{name}: {each}" for each in wrong]
        most = max(most, found["peak"])
    every = _folder(place.fresh("all"), {**{name: make for name, (make, _) in BAD.items()}, **GOOD})
    skipped, sweep = _measured(place, "skip", f"--data=folder:{every}", "--data.on_bad_image=skip", *flags)
    if skipped["code"]:
        problems.append(f"with the bad ones skipped, exit code {skipped['code']}: {skipped['err'][-300:]}")
    else:
        manifest = json.loads((sweep.directory / "manifest.json").read_text())
        (listed,) = manifest.get("skipped", {"": []}).values()
        names = {Path(name).name: reason for name, reason in listed}
        problems += [
            f"{name} is not listed as skipped, with {why!r}"
            for name, (_, why) in BAD.items()
            if why not in names.get(name, "")
        ]
        problems += [f"{name} was skipped: {names[name]}" for name in GOOD if name in names]
        if f"{len(BAD)} images" not in skipped["err"]:
            problems.append(f"the number of skipped images is not told: {skipped['err'][-300:]}")
    most = max(most, skipped["peak"])
    problems += _changed_between(place, good, (*flags[:-1], "--data.image_size=8"))
    return Finding.of(
        problems,
        bad_images=len(BAD),
        unusual_good_images=len(GOOD),
        most_mebibytes_above_the_usual=most - usual["peak"],
    )


def _folder(root: Path, extra: dict[str, Callable[[], bytes]]) -> Path:
    """Two classes of 30 pictures, and some files more in the first."""
    from PIL import Image

    for label, name in enumerate(("cats", "dogs")):
        (root / name).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (8, 8), (label * 99, number * 8, 0)).save(root / name / f"{number:02d}.png")
    for name, make in extra.items():
        (root / "cats" / name).write_bytes(make())
    return root


def _measured(place: Place, name: str, *flags: str) -> tuple[dict[str, Any], Sweep]:
    """How a sweep ended, and the most memory of its process in MiB."""
    sweep = Sweep(place, place.fresh(f"run-{name}"), *flags)
    sweep.command[1:3] = ["-c", MEASURED]
    ended = sweep.run(limit=300)
    _, _, peak = ended.out.rpartition("PEAK ")
    return {"code": ended.code, "err": ended.err, "peak": int(peak) if peak.strip().isdigit() else 0}, sweep


def _changed_between(place: Place, data: Path, flags: tuple[str, ...]) -> list[str]:
    """Stops a sweep, changes a pixel of one image, starts it again, and restores the image."""
    flags = (f"--data=folder:{data}", *flags, "--checkpoint_seconds=0", "--steps=800", "--evaluate_every=400")
    expected, _ = in_peace(place, "unchanged", *flags)
    sweep = Sweep(place, place.fresh("changed"), *flags)
    process = sweep.start()
    with ended_afterwards(process):
        wait_for(lambda: any((sweep.directory / "checkpoints").glob("*/*/record.json")) or not process.runs)
        process.signal(signal.SIGTERM)
        stopped = process.wait(60)
    image = data / "cats" / "07.png"
    before, times = image.read_bytes(), image.stat()
    image.write_bytes((data / "cats" / "08.png").read_bytes())
    refused = sweep.run()
    image.write_bytes(before)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    problems = [] if stopped.code == 130 else [f"the sweep could not be stopped: {stopped.code}"]
    if refused.code != 2 or "folder:" not in refused.err or "Traceback" in refused.err:
        problems.append(f"changed data: exit code {refused.code}: {refused.err[-300:]}")
    return problems + finished(sweep, expected, "restored data")
