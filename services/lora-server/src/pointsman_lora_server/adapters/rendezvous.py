"""Rendezvous hashing (Thaler and Ravishankar, 1998): orders the engines differently for each adapter version.

If an engine leaves, only the versions that it held move to other engines. If an engine joins, only the versions that
now belong on it move.
"""

from collections.abc import Iterable
from hashlib import blake2b


def ranked_engines(version: str, engines: Iterable[str]) -> list[str]:
    """Returns the engines in the order that belongs to the version. A version that should have N copies is placed on
    the first N engines.
    """
    return sorted(engines, key=lambda engine: _weight(engine, version), reverse=True)


def _weight(engine: str, version: str) -> tuple[bytes, str]:
    return blake2b(f"{version}\n{engine}".encode(), digest_size=8).digest(), engine
