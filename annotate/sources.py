"""Where a model's files can be had: a mirror, the hub's own cache, the hub, an address."""

import json
import os
from pathlib import Path

from annotate.download import Remote, problem, read
from annotate.errors import WeightsError, needs
from annotate.manifest import RECEIPT, File, Model, receipt_from_json


def side_files(model: Model, mirror: str | None = None) -> list[File]:
    """The small files that `model.also` means, of the pinned revision.

    Raises:
        WeightsError: when neither the mirror nor the hub can say.
    """
    if not model.also:
        return []
    offered = _receipt_of(model, mirror) if mirror else _listing(model)
    return [file for file in offered if model.takes_along(file.path)]


def locate(model: Model, file: File, mirror: str | None = None) -> Path | Remote:
    """Where to take a file of a model from: a path on this machine, or an address."""
    if mirror:
        return _in_mirror(model, file.path, mirror)
    if model.url:
        return Remote(f"{model.url.rstrip('/')}/{file.path}")
    hub = needs("huggingface_hub")
    cache = os.environ.get("HF_HUB_CACHE")
    cached = hub.try_to_load_from_cache(
        model.repo, file.path, revision=model.revision, cache_dir=cache
    )
    if isinstance(cached, str) and not problem(Path(cached), file):
        return Path(cached)
    url = hub.hf_hub_url(model.repo, file.path, revision=model.revision, endpoint=_endpoint())
    return _hub_remote(model, url)


def _is_address(mirror: str) -> bool:
    return mirror.startswith(("https://", "http://"))


def _in_mirror(model: Model, path: str, mirror: str) -> Path | Remote:
    """A mirror is laid out as the folder of weights of a machine that has fetched them."""
    if _is_address(mirror):
        place = f"{mirror.rstrip('/')}/{model.name}/{model.revision[:12]}"
        return Remote(f"{place}/{path}")
    found = model.place(Path(mirror).expanduser()) / path
    if not found.is_file():
        raise WeightsError(
            f"{found}: not there; a mirror is a copy of the folder of weights of a machine which "
            f"has fetched {model.name}; files from elsewhere: annotate models add PATH"
        )
    return found


def _receipt_of(model: Model, mirror: str) -> list[File]:
    receipt = _in_mirror(model, RECEIPT, mirror)
    if isinstance(receipt, Remote):
        return receipt_from_json(read(receipt), receipt.url)
    return receipt_from_json(receipt.read_bytes(), str(receipt))


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _listing(model: Model) -> list[File]:
    """The files at the top of the repository; the hub gives the sha256 of large ones alone."""
    url = f"{_endpoint()}/api/models/{model.repo}/tree/{model.revision}"
    try:
        records = json.loads(read(_hub_remote(model, url)))
        return [
            File(record["path"], record["size"], record.get("lfs", {}).get("oid", ""))
            for record in records
            if record["type"] == "file"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{url}: not the hub's list of a repository's files: {error}") from None


def _hub_remote(model: Model, url: str) -> Remote:
    headers = needs("huggingface_hub.utils").build_hf_headers(library_name="annotate-local")
    page = f"https://huggingface.co/{model.repo}"
    login = "make a token there and say it to `hf auth login` (or set HF_TOKEN)"
    if model.gated:
        denied = (
            f"{model.name} is gated ({model.licence}): ask for access on {page}, {login}, wait "
            f"until access is given, then: annotate models fetch {model.name}"
        )
    else:
        denied = f"{page}: the hub refuses it: it may have become gated; if so, {login}"
    return Remote(url, headers, denied)
