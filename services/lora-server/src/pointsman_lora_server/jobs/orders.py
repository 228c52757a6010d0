"""Refuses an order that cannot be done, before anything is copied."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.domain import check_alias, check_name, check_version
from pointsman_lora_server.jobs.job import METHODS, JobRequest

MOST_BYTES = 1 << 30
"""Of one file: it is copied."""
MOST_MINUTES = 7 * 24 * 60.0

_BOUNDS: dict[str, tuple[float, float]] = {
    "rank": (1, 512),
    "alpha": (1, 4096),
    "learning-rate": (1e-8, 1),
    "epochs": (1, 10_000),
    "max-minutes": (0.05, MOST_MINUTES),
    "seed": (0, 2**32 - 1),
    "tokens-per-step": (16, 1 << 20),
    "most-tokens": (16, 1 << 20),
    "beta": (1e-6, 100),
    "patience": (0, 1000),
    "samples": (0, 4096),
    "baseline-shots": (0, 64),
    "heldout-share": (0, 0.9),
    "threads": (1, 1024),
}


def check(order: JobRequest, roots: Sequence[Path]) -> None:
    """Raises InvalidArgument."""
    check_name(order.name)
    if order.word:
        check_alias(f"{order.name}@{order.word}")
    if order.parent:
        check_version(order.parent)
    if order.method not in METHODS:
        raise InvalidArgument(
            f"'{order.method}' is no method; known: {', '.join(METHODS)}", code="bad_method", param="method"
        )
    for param, path in (("data", order.data), ("heldout", order.heldout), ("system", order.system)):
        if path is not None:
            _check_file(path, param, roots)
    for option, value in order.options.items():
        _check_option(option, value)


def _check_option(option: str, value: str) -> None:
    if option not in _BOUNDS:
        raise InvalidArgument(f"the trainer has no option '{option}'", code="bad_option", param=option)
    least, most = _BOUNDS[option]
    if not least <= float(value) <= most:  # false for NaN, too
        raise InvalidArgument(f"{option} is {value}; it must be {least:g} to {most:g}", code="bad_option", param=option)


def _check_file(path: Path, param: str, roots: Sequence[Path]) -> None:
    if not path.is_absolute() or "\0" in str(path):
        raise _refused(f"'{path}' is no absolute path on the lora-server's machine", param)
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except OSError as error:
        raise _refused(
            f"there is no '{path}' on the lora-server's machine ({os.strerror(error.errno or 0)})", param
        ) from error
    if roots and not any(real.is_relative_to(root.resolve()) for root in roots):
        raise _refused(f"'{path}' is not below {' or '.join(map(str, roots))}, where data may be", param)
    if not stat.S_ISREG(status.st_mode):
        raise _refused(f"'{path}' is no file", param)
    if status.st_size > MOST_BYTES:
        raise _refused(f"'{path}' has {status.st_size} bytes; at most {MOST_BYTES} are taken", param)


def _refused(message: str, param: str) -> InvalidArgument:
    return InvalidArgument(message, code="bad_path", param=param)
