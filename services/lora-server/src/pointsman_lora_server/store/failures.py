"""What the store's disk or service says, as errors that a caller can act on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pointsman_servicekit.errors import PointsmanError, ResourceExhausted, Unavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def telling(where: str) -> Iterator[None]:
    """Raises ResourceExhausted ("store_full") or Unavailable ("store_unavailable") where the disk fails inside.

    A file that is not there stays a FileNotFoundError: what that means is known where it was looked for.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise ResourceExhausted(
                f"the adapter store {where} is full ({error.strerror}); delete versions that nobody needs "
                "(`pointsman adapters delete`), or give it more room",
                code="store_full",
            ) from error
        raise _unavailable(where, error) from error


@contextmanager
def telling_of_service(url: str) -> Iterator[None]:
    """The same of what lies behind an fsspec URL.

    Its implementations raise what their client libraries raise, and those have no class in common.
    """
    try:
        with telling(url):
            yield
    except (PointsmanError, FileNotFoundError):
        raise
    except Exception as error:
        raise _unavailable(url, error) from error


def _unavailable(where: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the adapter store {where} cannot be used now: {error or type(error).__name__}",
        code="store_unavailable",
        retry_after=5.0,
    )
