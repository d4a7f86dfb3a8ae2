"""Files of the Hugging Face hub: ``hf:timm/resnet50.a1_in1k`` or ``hf:organisation/repository/file``."""

import urllib.error
import urllib.request
from pathlib import Path

from cnnjax.typing import UsageError
from cnnjax.weights import shards

PREFIX = "hf:"
WHOLE = ("model.safetensors", "pytorch_model.bin")
WEIGHTS = (*WHOLE, *(f"{name}{shards.SUFFIX}" for name in WHOLE))  # of a repository, in this order
CONFIG = "config.json"
SECONDS = 5  # for an answer; the hub's own retries take half a minute


def fetch(address: str) -> Path:
    """The local path of a file of the hub: from the cache, where it is kept, or downloaded into it.

    Of a whole repository, the weights; its ``config.json``, if there is one, comes to lie beside them, and so do the
    files that an index of weights lists (see ``shards``).

    Raises:
      UsageError: not an address; ``huggingface_hub`` is not installed; not in the cache and no network, or
        HF_HUB_OFFLINE is set; no such repository or file.
    """
    parts = address.removeprefix(PREFIX).split("/", 2)
    if len(parts) < 2 or not all(parts) or ".." in address:
        raise UsageError(f"{address!r} is no address. Write hf:organisation/repository or add /file.")
    repository = "/".join(parts[:2])
    if len(parts) == 3:
        names: tuple[str, ...] = (parts[2],)
    else:
        names = WEIGHTS
        _file(address, repository, (CONFIG,), needed=False)
    found = _file(address, repository, names)
    assert found is not None
    for name in shards.names(found) if shards.is_index(found) else ():
        _file(address, repository, (name,))
    return found


def _file(address: str, repository: str, names: tuple[str, ...], needed: bool = True) -> Path | None:
    """The first of the files that there is: of those in the cache, then of those on the hub."""
    hub = _hub()
    for name in names:
        try:
            return Path(hub.hf_hub_download(repository, name, local_files_only=True))
        except hub.errors.EntryNotFoundError:
            continue
    if not _reachable(hub):
        if not needed:
            return None
        raise UsageError(
            f"{address} is not in the local cache, and the hub cannot be reached (or HF_HUB_OFFLINE is set). "
            "Download the file elsewhere and give its path."
        )
    for name in names:
        try:
            return Path(hub.hf_hub_download(repository, name, etag_timeout=SECONDS))
        except hub.errors.EntryNotFoundError:
            continue
        except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"{address} cannot be fetched: {reason}") from error
    if not needed:
        return None
    raise UsageError(f"{address} has no file {' or '.join(names)}. Add the file's name: {PREFIX}{repository}/NAME.")


def _hub():
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise UsageError("hf: addresses need huggingface_hub: pip install 'cnnjax[hf]'.") from error
    return huggingface_hub


def _reachable(hub) -> bool:
    """One question with a short wait; any answer will do."""
    if hub.constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
