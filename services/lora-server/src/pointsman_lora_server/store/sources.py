"""Downloads adapters that are registered by a URL, from the Hugging Face hub or, with fsspec, from an object store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import fsspec
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, Unavailable

from pointsman_lora_server.checks.attachments import SAMPLES
from pointsman_lora_server.checks.untrusted_input import CONFIG, MAX_TEXT_BYTES, REPORT, WEIGHTS
from pointsman_lora_server.store.layout import DISK_FULL_ERRORS

HUB = "hf"
SCHEMES = (HUB, "s3", "gs", "gcs", "az", "abfs", "abfss")
"""The accepted URL schemes. With other schemes, a caller could read this machine's files, or send requests into its
network."""

_NEEDED = (CONFIG, WEIGHTS)
_OPTIONAL = (SAMPLES, REPORT)


def is_url(source: str | Path) -> bool:
    return "://" in str(source)


def download(source: str, folder: Path, max_weight_bytes: int) -> None:
    """Downloads the files of the adapter at the URL `source` into the empty `folder`.

    The weights may have at most `max_weight_bytes`, and each other file `MAX_TEXT_BYTES`. Raises InvalidArgument if the
    URL is invalid or of an unknown kind, a package for it is not installed, the configuration or the weights are
    missing, or a file is too large; NotFound if the hub has no such repository or revision; OSError (one of
    `DISK_FULL_ERRORS`) if the disk of `folder` is full; and Unavailable if the service cannot be reached or refuses the
    download.
    """
    scheme = source.partition("://")[0]
    if scheme not in SCHEMES:
        kinds = ", ".join(f"{each}://" for each in SCHEMES)
        raise InvalidArgument(
            f"'{source}' is no source of adapters: name a folder on the lora-server's machine, or one of {kinds}",
            code="bad_source",
            param="folder",
        )
    fetch = _fetch_from_hub if scheme == HUB else _fetch_from_files
    fetch(source, folder, {WEIGHTS: max_weight_bytes})


def _fetch_from_hub(source: str, folder: Path, limits: dict[str, int]) -> None:
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise InvalidArgument(
            f"'{source}' needs a package that is not installed: install pointsman-lora-server[hf]", code="bad_source"
        ) from None
    repository, revision, subfolder = parse_hub_url(source)
    endpoint = os.environ.get("HF_ENDPOINT")
    with _hub_errors(source, repository):
        for name in (*_NEEDED, *_OPTIONAL):
            path = f"{subfolder}/{name}" if subfolder else name
            try:
                found = get_hf_file_metadata(hf_hub_url(repository, path, revision=revision or None, endpoint=endpoint))
                _check_size(source, name, found.size or 0, limits)
                # Of the commit that was found, so that all files are of one even if a branch moves.
                revision = found.commit_hash or revision
                file = hf_hub_download(
                    repository, path, revision=revision, local_dir=folder.with_name("hub"), endpoint=endpoint
                )
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError):
                    raise
                if name in _NEEDED:
                    _reject_missing(source, name)
                continue
            Path(file).rename(folder / name)


def parse_hub_url(source: str) -> tuple[str, str, str]:
    """Splits a URL of the Hugging Face hub, "hf://OWNER/NAME@REVISION/FOLDER", of which revision and folder are
    optional.

    Returns "OWNER/NAME", the revision and the folder; the last two are empty if the URL does not have them. Raises
    InvalidArgument for a URL of another form.
    """
    owner, _, rest = source.removeprefix(f"{HUB}://").partition("/")
    name, _, subfolder = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name or ".." in subfolder.split("/"):
        raise InvalidArgument(
            f"'{source}' names no repository of the hub: hf://OWNER/NAME, hf://OWNER/NAME@REVISION or "
            "hf://OWNER/NAME/FOLDER",
            code="bad_source",
            param="folder",
        )
    return f"{owner}/{name}", revision, subfolder.strip("/")


@contextmanager
def _hub_errors(source: str, repository: str) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except PointsmanError:
        raise
    except GatedRepoError as error:
        raise Unavailable(
            f"{repository} is gated: accept its licence at the hub, and give the lora-server a token in HF_TOKEN",
            code="hub_refused",
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"the Hugging Face hub has no model '{repository}', or none that may be read without HF_TOKEN; check the "
            "name",
            code="unknown_source",
            param="folder",
        ) from error
    except RevisionNotFoundError as error:
        raise NotFound(f"{repository} has no such revision: {source}", code="unknown_source", param="folder") from error
    except HFValidationError as error:
        raise InvalidArgument(f"'{source}': {error}", code="bad_source", param="folder") from error
    except Exception as error:  # of the hub's HTTP client, which has changed its library before
        if _is_disk_full(error):
            raise
        raise Unavailable(
            f"'{source}' cannot be downloaded: the Hugging Face hub is not reachable ({_first_line(error)}); copy the "
            "files to a folder, and register that",
            code="hub_unreachable",
            retry_after=5.0,
        ) from error


def _fetch_from_files(source: str, folder: Path, limits: dict[str, int]) -> None:
    try:
        files, root = fsspec.core.url_to_fs(source.rstrip("/"), use_listings_cache=False)
    except ImportError as error:
        raise InvalidArgument(
            f"'{source}' needs a package that is not installed ({error}); install pointsman-lora-server[s3], for gs:// "
            "[gcs], for az:// and abfs:// [azure]",
            code="bad_source",
            param="folder",
        ) from error
    try:
        for name in (*_NEEDED, *_OPTIONAL):
            try:
                _check_size(source, name, int(files.info(f"{root}/{name}")["size"]), limits)
                files.get_file(f"{root}/{name}", str(folder / name))
            except FileNotFoundError:
                if name in _NEEDED:
                    _reject_missing(source, name)
    except PointsmanError:
        raise
    except Exception as error:  # each fsspec implementation raises the errors of its own client library
        if _is_disk_full(error):
            raise
        raise Unavailable(
            f"'{source}' cannot be read now: {_first_line(error)}", code="source_unavailable", retry_after=5.0
        ) from error


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS


def _check_size(source: str, name: str, size: int, limits: dict[str, int]) -> None:
    limit = limits.get(name, MAX_TEXT_BYTES)
    if size > limit:
        raise InvalidArgument(
            f"{name} of '{source}' has {size} bytes; an adapter of this base model has at most {limit}",
            code="too_large",
            param="folder",
        )


def _reject_missing(source: str, name: str) -> NoReturn:
    raise InvalidArgument(
        f"'{source}' holds no {name}: it is no LoRA adapter saved as safetensors by PEFT, or its files are in a folder "
        "of it",
        code="bad_weights" if name == WEIGHTS else "bad_config",
        param="folder",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
