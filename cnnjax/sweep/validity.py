"""Whether what a results directory holds can be believed: the form of its files, and whether rows are theirs.

A row says what it is: its spec, numbers and seed, which its run id is the digest of; its execution signature, with a
digest; the fingerprint of its data. So one that was copied from another sweep, or changed by hand, contradicts itself
or the manifest. What contradicts is a sentence for a ``UsageError``, in a ``ValueError``.
"""

import hashlib
from collections.abc import Mapping
from types import NoneType
from typing import Any

from cnnjax.strict_json import encode
from cnnjax.train.spec import digest_of_text

Row = dict[str, Any]
DIGEST = "sha256"  # of the rest of a row, in its file

TEXT, NUMBER, TABLE = (str,), (int,), (dict,)
ROW = {
    **dict.fromkeys(("run_id", "status", "signature_digest", "data", "parameters_digest"), TEXT),
    **dict.fromkeys(("assignment", "spec", "hyper", "signature", "metrics"), TABLE),
    **{"seed": NUMBER, "history": (list,), "diverged_step": (int, NoneType)},
}
MANIFEST = {
    **{"configuration": TABLE, "data": TABLE, "runs": TABLE},
    # Not in those of all versions.
    **{"signatures": TABLE, "weights": TABLE, "code": TABLE, "command": TEXT, "created": TEXT},
}
VERDICT = {"experiment": TEXT, "preset": TEXT, "claims": (list,)}
DECIMAL = (int, float, NoneType)  # null is what is not known
CLAIM = {
    **dict.fromkeys(("id", "statement", "source", "rule", "unit", "note"), TEXT),
    **dict.fromkeys(("effect", "p", "p_adjusted"), DECIMAL),
    **{"verdict": TEXT, "interval": (list, NoneType), "n": NUMBER, "seeds_to_decide": (int, NoneType)},
}
VERDICTS = ("reproduced", "refuted", "inconclusive")
NAMED = {str: "a text", int: "a whole number", float: "a number", dict: "a table", list: "a list", NoneType: "null"}
NEEDED = ("configuration", "data", "runs")
NAMES = ("data", "runs", "weights")  # parts of a manifest that hold texts by name


def check_manifest(found: Any) -> dict[str, Any]:
    """A manifest, as it was read.

    Raises:
      ValueError: it has not the form of one.
    """
    if not isinstance(found, dict):
        raise ValueError("it is no manifest of a sweep")
    if missing := [name for name in NEEDED if name not in found]:
        raise ValueError(f"it is no manifest of a sweep: it has no {missing[0]}")
    _check_types(found, {name: types for name, types in MANIFEST.items() if name in found})
    for name in NAMES:
        if wrong := [key for key, value in found.get(name, {}).items() if type(value) is not str]:
            raise ValueError(f"its {name} say something else than a text of {wrong[0]}")
    for digest, signature in found.get("signatures", {}).items():
        if type(signature) is not dict:
            raise ValueError(f"its signature {digest} is no table")
    return found


def check_verdict(found: Any) -> dict[str, Any]:
    """The content of a ``verdict.json``, as it was read.

    Raises:
      ValueError: it has not the form of one.
    """
    if not isinstance(found, dict):
        raise ValueError("it is no verdict of an experiment")
    _check_types(found, VERDICT)
    for claim in found["claims"]:
        if type(claim) is not dict or type(claim.get("id")) is not str:
            raise ValueError("it has claims that are no tables with an id")
        try:
            _check_types(claim, {name: types for name, types in CLAIM.items() if name in claim})
        except ValueError as error:
            raise ValueError(f"claim {claim['id']}: {error}") from error
        if claim.get("verdict") not in VERDICTS:
            raise ValueError(f"claim {claim['id']}: its verdict is {claim.get('verdict')!r}, not {', '.join(VERDICTS)}")
        interval = claim.get("interval") or [None, None]
        if len(interval) != 2 or not all(type(bound) in DECIMAL for bound in interval):
            raise ValueError(f"claim {claim['id']}: its interval is not two numbers")
    return found


def content_digest(row: Mapping[str, Any]) -> str:
    """The SHA-256 of a row without the one in its file."""
    return hashlib.sha256(encode(row, sort_keys=True).encode()).hexdigest()


def check_row(row: Any, run: str) -> Row:
    """A row, as it was read from the file of ``run``; without the digest that the file has of it.

    Raises:
      ValueError: it has not the form of a row, it is not what was written, or it is of another run, or contradicts
        itself, as one does that was put together of several.
    """
    if not isinstance(row, dict) or row.get("run_id") != run:
        raise ValueError("it is not the row of this run")
    written = row.pop(DIGEST, None)
    if written is None:
        raise ValueError("it has no digest of itself")
    if written != content_digest(row):
        raise ValueError("it is not what was written")
    _check_types(row, ROW)
    spec, hyper, signature = (encode(row[name], sort_keys=True) for name in ("spec", "hyper", "signature"))
    if digest_of_text(f'{{"hyper": {hyper}, "seed": {row["seed"]}, "spec": {spec}}}') != run:
        raise ValueError("its spec, numbers and seed are those of another run")
    if digest_of_text(signature) != row["signature_digest"]:
        raise ValueError("its execution signature is not the one that it was made under")
    if row["signature"].get("spec") != digest_of_text(spec):
        raise ValueError("its execution signature is that of another spec")
    for name, value in row["assignment"].items():
        if name in row["hyper"] and row["hyper"][name] != value:
            raise ValueError(f"it is assigned {name}={value}, and its numbers have {row['hyper'][name]}")
    return row


def check_origin(row: Row, manifest: Mapping[str, Any], mixed: bool = False) -> None:
    """Whether a row is of the sweep that a manifest describes.

    Args:
      row: as ``check_row`` returns it.
      manifest: as ``check_manifest`` returns it.
      mixed: whether rows of signatures that the manifest does not have are welcome.

    Raises:
      ValueError: it is of a run, of data or of an execution signature that the manifest does not have.
    """
    if row["run_id"] not in manifest["runs"]:
        raise ValueError("the manifest has no such run")
    if row["data"] not in manifest["data"].values():
        raise ValueError(f"it was made with other data ({row['data'][:16]}) than the manifest says")
    if not mixed and row["signature_digest"] not in manifest.get("signatures", {}):
        raise ValueError(f"it was made under a signature ({row['signature_digest']}) that the manifest does not have")


def _check_types(found: Mapping[str, Any], parts: Mapping[str, tuple[type, ...]]) -> None:
    for name, types in parts.items():
        if name not in found:
            raise ValueError(f"it has no {name}")
        if type(found[name]) not in types:
            raise ValueError(f"its {name} is {_shown(found[name])}, not {' or '.join(map(NAMED.__getitem__, types))}")


def _shown(value: Any) -> str:
    text = encode(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."
