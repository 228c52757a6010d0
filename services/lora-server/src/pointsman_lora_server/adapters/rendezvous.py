"""Rendezvous hashing (Thaler and Ravishankar, 1998): an order of the engines that is different for each version.

If an engine leaves, only the versions that it held move to others, and if one joins, only the versions that it should
now hold move to it.
"""

from collections.abc import Iterable
from hashlib import blake2b


def ranked_engines(version: str, engines: Iterable[str]) -> list[str]:
    """Returns the engines in the version's order; a version with N copies belongs on the first N."""
    return sorted(engines, key=lambda engine: _weight(engine, version), reverse=True)


def _weight(engine: str, version: str) -> tuple[bytes, str]:
    return blake2b(f"{version}\n{engine}".encode(), digest_size=8).digest(), engine
