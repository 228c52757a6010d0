"""Copies a model's folder from a hub or a bucket: `python -m pointsman_lora_server.fetch_model URL FOLDER`.

URL is one of fsspec's: hf://ORGANISATION/MODEL@REVISION (in an environment with huggingface_hub), s3://BUCKET/FOLDER
(with s3fs). Runs as a Kubernetes Job before the engine starts. A complete folder is not fetched again.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import fsspec

MARKER = ".source"
"""The file that contains the URL. It is written last, so a folder with this file is complete."""
_UNFINISHED = ".unfinished"


class FetchError(Exception):
    """The model cannot be fetched; the message says why."""


def fetch(url: str, folder: Path) -> bool:
    """Fetches the model, and returns whether a download was necessary. Replaces a model from another URL.

    Raises FetchError.
    """
    marker = folder / MARKER
    if marker.exists() and marker.read_text().strip() == url:
        return False
    try:
        files, path = fsspec.core.url_to_fs(url)
        if not files.isdir(path):
            raise FetchError(f"{url} is no folder, or may not be read")
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():  # the folder itself may be where a volume is mounted
            _remove(old)
        unfinished = folder / _UNFINISHED
        files.get(f"{path.rstrip('/')}/", f"{unfinished}/", recursive=True)
        if not (unfinished / "config.json").exists():
            raise FetchError(f"{url} holds no model: there is no config.json")
        for new in unfinished.iterdir():
            new.rename(folder / new.name)
        unfinished.rmdir()
        marker.write_text(f"{url}\n")
    except FetchError:
        raise
    except Exception as error:  # each of fsspec's implementations raises errors of its own client library
        raise FetchError(f"{url} cannot be fetched to {folder}: {type(error).__name__}: {error}") from error
    return True


def _remove(old: Path) -> None:
    if old.name == "lost+found":
        return  # of a volume's file system
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink()


def main(arguments: Sequence[str]) -> int:
    url, folder = arguments
    try:
        fetched = fetch(url, Path(folder))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder} {'now holds' if fetched else 'already holds'} {url}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
