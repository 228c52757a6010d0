"""Copies a model from a model hub or a bucket: `python -m pointsman_lora_server.fetch_model URL FOLDER`.

URL is hf://ORGANISATION/MODEL@REVISION (in an environment with huggingface_hub), or a URL of fsspec, such as
s3://BUCKET/FOLDER (with s3fs). FOLDER must not have another model. The program runs as a Kubernetes Job before the
engine starts. A complete folder is not fetched again, and an interrupted download is continued. Of the models that were
fetched earlier into folders next to FOLDER, only the one that was completed last is kept, because engines may still use
it.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import fsspec

from pointsman_lora_server.model_folder import PATTERNS, UNNEEDED

MARKER = ".source"
"""The name of the file that contains the model's URL. It is written last, so a folder with this file is complete."""
_STARTED = ".fetching"
"""The name of the file that contains the model's URL from the start of the download on."""

HubDownload = Callable[[str, str | None, Path], None]
"""A function that downloads the missing files of a Hugging Face repository, at a revision (None: the latest), into a
folder."""


class FetchError(Exception):
    """The model cannot be fetched; the message says why."""


def download_from_hub(repository: str, revision: str | None, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        repository, revision=revision, local_dir=folder, allow_patterns=[*PATTERNS], ignore_patterns=[*UNNEEDED]
    )


def fetch(url: str, folder: Path, hub_download: HubDownload = download_from_hub) -> bool:
    """Fetches the model at `url` into `folder`; returns False if it was already there, and otherwise True.

    Before a download, deletes the models that were fetched into folders next to `folder`, except the one that was
    completed last. Raises FetchError if the download fails, the result has no config.json, or the folder has another
    model.
    """
    if _text_of(folder / MARKER) == url:
        return False
    if any(_text_of(folder / name) not in ("", url) for name in (MARKER, _STARTED)):
        raise FetchError(f"{folder} holds another model, {_text_of(folder / _STARTED)}; name a folder of its own")
    try:
        _remove_earlier_models(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _STARTED).write_text(f"{url}\n")
        if url.startswith("hf://"):
            repository, _, revision = url.removeprefix("hf://").partition("@")
            hub_download(repository, revision or None, folder)
        else:
            _copy_from_bucket(url, folder)
        if not (folder / "config.json").exists():
            raise FetchError(f"{url} holds no model: there is no config.json")
        (folder / MARKER).write_text(f"{url}\n")
    except FetchError:
        raise
    except Exception as error:  # each client library raises errors of its own
        raise FetchError(f"{url} cannot be fetched to {folder}: {type(error).__name__}: {error}") from error
    return True


def _copy_from_bucket(url: str, folder: Path) -> None:
    """Copies the files that are missing in `folder` or have another size there; files that match `UNNEEDED` are left
    out.
    """
    files, path = fsspec.core.url_to_fs(url)
    root = path.rstrip("/")
    if not files.isdir(root):
        raise FetchError(f"{url} is no folder, or may not be read")
    for name, facts in files.find(root, detail=True).items():
        relative = name.removeprefix(f"{root}/")
        target = folder / relative
        needed = not any(fnmatch(relative, pattern) for pattern in UNNEEDED)
        if needed and not (target.is_file() and target.stat().st_size == facts["size"]):
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(target))


def _remove_earlier_models(folder: Path) -> None:
    """Removes models that this module has fetched next to the folder, except the one that was completed last."""
    others = [started.parent for started in folder.parent.glob(f"*/{_STARTED}") if started.parent != folder]
    complete = sorted(
        (each for each in others if (each / MARKER).exists()), key=lambda each: (each / MARKER).stat().st_mtime
    )
    for each in others:
        if each not in complete[-1:]:
            shutil.rmtree(each)


def _text_of(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


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
