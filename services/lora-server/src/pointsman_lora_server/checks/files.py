"""Which files of a folder make the adapter, and which must not be there."""

import stat
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument, NotFound

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_CONFIG_BYTES = 1 << 20
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


def check_files(folder: Path) -> None:
    """Raises InvalidArgument or NotFound unless `folder` holds both files of an adapter, plain ones, and no pickle.

    A symbolic link is refused because what it points to can change after the check.
    """
    if not folder.is_absolute() or ".." in folder.parts:
        raise InvalidArgument(f"'{folder}' must be an absolute path without '..'", code="path_outside", param="folder")
    if not folder.is_dir():
        raise NotFound(
            f"there is no folder {folder} on the lora-server's machine", code="unknown_folder", param="folder"
        )
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            raise _refused(f"{file.name} may be a pickle, which can run code; save as safetensors", "unsafe_file")
    _check_plain(folder / CONFIG, "bad_config")
    _check_plain(folder / WEIGHTS, "bad_weights")
    if (folder / CONFIG).stat().st_size > MOST_CONFIG_BYTES:
        raise _refused(f"{CONFIG} is larger than {MOST_CONFIG_BYTES} bytes", "bad_config")


def _check_plain(file: Path, code: str) -> None:
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        raise _refused(f"{file.parent} holds no {file.name}", code) from None
    if not stat.S_ISREG(mode):
        raise _refused(f"{file.name} is a symbolic link or no plain file; put the file itself there", "unsafe_file")


def _refused(message: str, code: str) -> InvalidArgument:
    return InvalidArgument(message, code=code, param="folder")
