"""Results on disk: one immutable file per finished run, and a manifest that says what they belong to.

``DIR/manifest.json`` is written when a sweep starts, ``DIR/rows/<run_id>.json`` when a run is done: under
another name, flushed, and then linked to its own, so a row is there whole or not at all, and never
written twice. It holds a SHA-256 of itself, so that a row that was damaged later is not believed. Weights, where a
run keeps them, lie in ``DIR/weights/<run_id>.safetensors`` before it has a row. A run that failed has a file in
``DIR/failed`` until it is done. Nothing is listed anywhere else; what is done is what has a row. Any number of
processes may read and write one directory at once.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cnnjax import process
from cnnjax.process import write_atomically
from cnnjax.provenance import code_differences
from cnnjax.strict_json import encode, finite
from cnnjax.sweep import place
from cnnjax.sweep.lease import LEASE_SECONDS, Leases
from cnnjax.sweep.place import Place, Unwritable
from cnnjax.sweep.validity import DIGEST, Row, check_manifest, check_origin, check_row, content_digest
from cnnjax.typing import UsageError, differences, first_difference

FEW = 100  # so many rows are asked for one by one; for more, all are listed


class Store:
    """The results directory of one sweep. Making one touches nothing on disk.

    The first write makes the directory where it is missing, and from then on it is held: see ``place``.

    Raises:
      UsageError: the name is too long for a file system.
    """

    def __init__(self, directory: Path):
        place.check_name(directory)
        self.directory = directory
        self._place: Place | None = None

    def hold(self, identity: place.Identity | None = None) -> place.Identity:
        """Makes the directory where it is missing; writes go there from now on, or nowhere.

        Args:
          identity: of the directory that another process has opened, and that this one is to write into.

        Returns:
          Its identity.

        Raises:
          Unwritable: it is another directory, or was another one before.
          OSError: it cannot be made.
        """
        if self._place is None:
            if identity is None:
                self.directory.mkdir(parents=True, exist_ok=True)
            self._place = Place(self.directory, identity)
        self._place.check()
        return self._place.identity

    def check_place(self) -> None:
        """Refuses to go on where the directory that was opened was moved or removed.

        Raises:
          Unwritable: it was.
        """
        if self._place is not None:
            self._place.check()

    @contextlib.contextmanager
    def writing(self, folder: str = "") -> Iterator[Path]:
        """Around what writes into the directory, or into a folder of it, which is made where it is missing.

        Raises:
          Unwritable: it is not the directory that was opened, or the disk refuses.
        """
        if self._place is None:
            self.hold()
        assert self._place is not None
        with self._place.writing():
            path = self.directory / folder
            if folder:
                path.mkdir(exist_ok=True)
            yield path

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the directory belongs to, or None where no sweep has started.

        Raises:
          UsageError: the file is damaged, or is none of a sweep.
        """
        path = self.directory / "manifest.json"
        try:
            return check_manifest(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read ({error}). Use another --workdir, or remove the directory."
            ) from error

    def check(self, manifest: dict[str, Any], mix_signatures: bool = False, read_rows: bool = True) -> None:
        """Refuses a directory that holds something else; writes nothing.

        A sweep may go on, and may grow: more seeds or more points than before are welcome.

        Args:
          manifest: of the new sweep.
          mix_signatures: go on where there are rows or checkpoints of another execution signature.
          read_rows: look at every row, and not only at what the manifest says of it.

        Raises:
          UsageError: other data, weights that have changed, runs that the new sweep does not contain, runs made under
            another execution signature, such as by other code, rows of another sweep, or a directory that cannot be
            written.
        """
        if self._place is None:
            place.probe(self.directory)
        found = self.manifest
        if found is None and self._holds_results() and (found := self.manifest) is None:  # or it came in between
            raise UsageError(f"{self.directory} is not empty and holds no manifest. Use another --workdir.")
        if found is None:
            return
        self._check_weights(found, manifest)
        gone = set(found["runs"]) - set(manifest["runs"])
        data = manifest.get("data", {})
        data_differ = any(found["data"][name] != data[name] for name in set(found["data"]) & set(data))
        if gone or data_differ:
            if not data_differ and (told := _fewer_seeds(found["configuration"], manifest["configuration"])):
                raise UsageError(f"{self.directory} {told}, or use another --workdir.")
            compared = ("data",) if data_differ else ("configuration",)
            there, asked = ({key: m[key] for key in compared} for m in (found, manifest))
            first = f"{self.directory} holds results of a different configuration: {first_difference(there, asked)}"
            remedy = "Use another --workdir, or remove the directory."
            raise UsageError("\n".join([first, *differences(there, asked), remedy]))
        done = self.done(found["runs"])
        rows = [self.read(run, found, mix_signatures) for run in sorted(done)] if read_rows else []
        if not mix_signatures and len(self.done(manifest["runs"])) < len(manifest["runs"]):
            self._check_signatures(found, manifest, done, rows)

    def _check_weights(self, found: dict[str, Any], manifest: dict[str, Any]) -> None:
        new = manifest.get("weights", {})
        for path, content in found.get("weights", {}).items():
            if new.get(path, content) != content:
                raise UsageError(
                    f"{path} has changed since the sweep in {self.directory} started ({content} before, "
                    f"{new[path]} now). Restore it, or use another --workdir."
                )

    def _check_signatures(
        self, found: dict[str, Any], manifest: dict[str, Any], done: set[str], rows: list[Row]
    ) -> None:
        """Refuses what was made under another signature than the new one: rows, or what the manifest says of them."""
        old, new = found.get("signatures", {}), manifest["signatures"]
        made = [(row["run_id"], row["signature"]) for row in rows]
        made += [] if rows else [(run, old[found["runs"][run]]) for run in done if found["runs"][run] in old]
        for run, signature in made:
            wanted = new.get(manifest["runs"].get(run))
            if wanted is not None and signature != wanted:
                raise self._other_signature("rows", signature, wanted)
        for path in sorted((self.directory / "checkpoints").glob("*-*")):
            before = old.get(path.name.rpartition("-")[2])
            if before is not None and before not in new.values() and any(path.iterdir()):
                alike = [signature for signature in new.values() if signature["spec"] == before["spec"]]
                raise self._other_signature("checkpoints", before, *(alike or new.values()))

    def _other_signature(self, where: str, old: dict[str, Any], new: dict[str, Any], *_: Any) -> UsageError:
        code = code_differences(old, new)
        told = [f"The code is another: {'; '.join(code)}."] if code else []
        return UsageError(
            "\n".join(
                [
                    f"{self.directory} holds {where} made under another execution signature:",
                    *differences(old, new),
                    *told,
                    "Their bits would not match. Use another --workdir, or --mix_signatures to merge them.",
                ]
            )
        )

    def _holds_results(self) -> bool:
        return self.directory.exists() and not all(_is_passing(path) for path in self.directory.iterdir())

    def open(self, manifest: dict[str, Any], mix_signatures: bool = False) -> None:
        """Creates the directory, or continues in it, after ``check``.

        Where every run has its row, the manifest stays as it is: it says what made these. With ``mix_signatures`` the
        signatures that it names stay in it.

        Raises:
          UsageError: it cannot be made.
        """
        try:
            self.hold()
            path = self.directory / "manifest.json"
            previous = self.manifest
            if previous is not None:
                if set(previous["runs"]) == set(manifest["runs"]) == self.done(manifest["runs"]):
                    return
                manifest = {**manifest, "created": previous.get("created", manifest["created"])}
                if mix_signatures:
                    manifest["signatures"] = {**previous.get("signatures", {}), **manifest["signatures"]}
            if previous is None or {**manifest, "command": ""} != {**previous, "command": ""}:
                write_atomically(path, dumps(manifest))
        except OSError as error:
            raise UsageError(
                f"{self.directory} cannot be written ({error.strerror}). Make room or change its permissions, or use "
                "another --workdir."
            ) from error

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """One process at a time is in this context: two that start a directory at once see each other's manifest.

        Raises:
          UsageError: the directory cannot be written.
        """
        leases, lease = self.leases("opening", seconds=5.0), None
        try:
            self.hold()
            while (lease := leases.acquire("manifest")) is None:
                time.sleep(0.05)
        except OSError as error:
            raise UsageError(f"{self.directory} cannot be made ({error.strerror}). Use another --workdir.") from error
        try:
            with lease.beating(5.0):
                yield
        finally:
            lease.release()

    def done(self, runs: Iterable[str]) -> set[str]:
        """Those of the runs that have a row."""
        runs = list(runs)
        if len(runs) <= FEW:
            return {run for run in runs if self.has(run)}
        try:
            names = set(os.listdir(self.directory / "rows"))
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {run for run in runs if f"{run}.json" in names}

    def has(self, run: str) -> bool:
        """Whether this run has a row now."""
        return self._path(run).exists()

    def read(self, run: str, manifest: dict[str, Any] | None = None, mixed: bool = False) -> Row:
        """The row of one run, after it was checked; see ``sweep.validity``.

        Args:
          run: its id.
          manifest: of the directory; None checks only what the row says of itself.
          mixed: whether it may be of a signature that the manifest does not have.

        Raises:
          UsageError: there is none, it is damaged, or it is of another run or sweep.
        """
        path = self._path(run)
        try:
            row = check_row(json.loads(path.read_text()), run)
            if manifest is not None:
                check_origin(row, manifest, mixed)
            return row
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error}). Remove it to have the run repeated.") from error

    def write(self, row: Row) -> None:
        """Adds the row of a finished run; one that is there already stays as it is.

        Raises:
          Unwritable: it cannot be written; see ``writing``.
        """
        path = self._path(row["run_id"])
        row = finite(row)
        with self.writing("rows"):
            _link(path, dumps({**row, DIGEST: content_digest(row)}))
            self._failure(row["run_id"]).unlink(missing_ok=True)

    def fail(self, run: str, reason: str, **about: Any) -> None:
        """Says why a run failed, for those who look; another failure replaces it, its row removes it."""
        path = self._failure(run)
        with contextlib.suppress(Unwritable), self.writing("failed"):  # a full disk may be the reason
            write_atomically(path, dumps({"run_id": run, "reason": reason, "time": time.time(), **about}))

    def failure(self, run: str) -> dict[str, Any] | None:
        """The last failure of a run that has failed and is not done."""
        with contextlib.suppress(OSError, ValueError):  # the rule; or done in this moment
            found = json.loads(self._failure(run).read_text())
            return found if isinstance(found, dict) else None
        return None

    def failures(self) -> dict[str, dict[str, Any]]:
        """The last failure of every run that has failed and has no row."""
        failed = {path.stem for path in (self.directory / "failed").glob("*.json")}
        left = failed - self.done(failed)
        return {run: found for run in sorted(left) if (found := self.failure(run)) is not None}

    def leases(self, worker: str, seconds: float = LEASE_SECONDS) -> Leases:
        """The leases of the directory as ``worker`` sees them."""
        return Leases(self.directory / "leases", worker, seconds)

    def checkpoints(self, state: str, signature: str) -> Path:
        """Where the checkpoints of a bundle lie while it is in training under an execution signature.

        A state that was made under another one is not continued: the row's bits would be those of neither.
        """
        return self.directory / "checkpoints" / f"{state}-{signature}"

    def other_checkpoints(self, own: Path) -> list[Path]:
        """Where checkpoints of the same bundle under other signatures lie."""
        state, _, _ = own.name.rpartition("-")
        return sorted(path for path in own.parent.glob(f"{state}-*") if path != own)

    def weights(self, run: str) -> Path:
        """Where the final variables of a run lie, if it keeps them."""
        return self.directory / "weights" / f"{_checked(run)}.safetensors"

    def clean(self, runs: Iterable[str], keep_checkpoints: bool = False) -> None:
        """Removes what only unfinished sweeps need: where another worker is still busy, only what kills left behind."""
        for folder in (".", "rows", "failed", "weights", "leases"):
            process.sweep_up(self.directory / folder)
        runs = set(runs)
        leases = self.leases("clean")
        if len(self.done(runs)) == len(runs) and not leases.anyone():
            if not keep_checkpoints:
                shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)
            leases.clean()
            with contextlib.suppress(OSError):
                (self.directory / "failed").rmdir()

    def _path(self, run: str) -> Path:
        return self.directory / "rows" / f"{_checked(run)}.json"

    def _failure(self, run: str) -> Path:
        return self.directory / "failed" / f"{_checked(run)}.json"


def dumps(value: Any) -> str:
    """JSON in the given order; numbers that are not finite become null, which every reader understands."""
    return encode(value, indent=1) + "\n"


def _fewer_seeds(there: Any, asked: Any) -> str:
    """What is wrong where nothing but the seeds differs, and some of them are missing; empty where it is not so."""
    both = [each for each in (there, asked) if isinstance(each, dict) and isinstance(each.get("seeds"), list)]
    if len(both) < 2 or {**there, "seeds": None} != {**asked, "seeds": None}:
        return ""
    first, last = min(there["seeds"] + asked["seeds"]), max(there["seeds"] + asked["seeds"])
    return (
        f"has the seeds {_span(there['seeds'])}; asked: {_span(asked['seeds'])}. A sweep may grow, not shrink: ask for "
        f"at least the seeds that are there, such as --first_seed={first} --seeds={last - first + 1}"
    )


def _span(seeds: list[int]) -> str:
    """Seeds as ``0 to 4``, or one by one."""
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds[:10])) + (", ..." if len(seeds) > 10 else "")


def _link(path: Path, text: str) -> None:
    """Makes a file whole or not at all; one that is there stays as it is."""
    unlinked = process.partial(path.parent, path.name)
    try:
        write_atomically(unlinked, text)
        with contextlib.suppress(FileExistsError):
            os.link(unlinked, path)
    finally:
        unlinked.unlink(missing_ok=True)


def _checked(run: str) -> str:
    """The name of a run, which a file may have got from a stranger: it names no other place."""
    if not run or run.startswith(".") or Path(run).name != run:
        raise UsageError(f"{run!r} is no name of a run: these are 16 hexadecimal digits.")
    return run


def _is_passing(path: Path) -> bool:
    return path.name.startswith(process.PARTIAL) or path.name == "leases"
