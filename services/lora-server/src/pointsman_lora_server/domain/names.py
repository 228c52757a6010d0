"""Checks the names of adapters ("triage"), versions ("triage@3f9a1c0b77de") and aliases ("triage@prod")."""

import re

from pointsman_servicekit.errors import InvalidArgument

HASH_DIGITS = 12


_NAME = re.compile(r"[a-z0-9_-]{1,64}")


_HASH = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}")


def check_name(name: str) -> None:
    """Raises InvalidArgument unless `name` is a valid adapter name: 1 to 64 of a-z, 0-9, "-" and "_". Such a name is
    also safe as a folder name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"'{name}' cannot be an adapter's name: 1 to 64 of a-z, 0-9, '-' and '_'", code="bad_name", param="name"
        )


def check_version(version: str) -> None:
    """Raises InvalidArgument unless `version` is "NAME@HASH" with `HASH_DIGITS` lower-case hexadecimal digits."""
    if not is_version(version):
        raise InvalidArgument(
            f"'{version}' is no adapter version: NAME@HASH with {HASH_DIGITS} hexadecimal digits, as in "
            "'triage@3f9a1c0b77de'",
            code="bad_version",
            param="version",
        )


def is_version(version: str) -> bool:
    name, _, digits = version.partition("@")
    return bool(_NAME.fullmatch(name) and _HASH.fullmatch(digits))


def check_alias(alias: str) -> None:
    """Raises InvalidArgument unless `alias` is "NAME@SUFFIX" and the suffix does not look like the hash of a
    version.
    """
    name, _, suffix = alias.partition("@")
    if not (_NAME.fullmatch(name) and _NAME.fullmatch(suffix)) or _HASH.fullmatch(suffix):
        raise InvalidArgument(
            f"'{alias}' cannot be an alias: NAME@SUFFIX, each 1 to 64 of a-z, 0-9, '-' and '_', and the suffix not "
            f"{HASH_DIGITS} hexadecimal digits, as in 'triage@prod'",
            code="bad_alias",
            param="alias",
        )


def adapter_name(version_or_alias: str) -> str:
    """Returns the adapter's name, which is the part of a version or an alias before the "@"."""
    return version_or_alias.partition("@")[0]
