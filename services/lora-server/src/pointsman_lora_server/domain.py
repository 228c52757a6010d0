"""The nouns of the lora-server: adapter versions, aliases, and what is true of the engine."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pointsman_servicekit.errors import InvalidArgument

HASH_DIGITS = 12
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_HASH = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable adapter. Its name holds the hash of its content, so the same name never means other weights."""

    name: str
    sha256: str
    base_model: str
    rank: int
    target_modules: tuple[str, ...]
    bytes: int
    created_unix_ms: int
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return f"{self.name}@{self.sha256[:HASH_DIGITS]}"


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that can be moved from version to version; `revision` counts the moves."""

    alias: str
    version: str
    revision: int


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What Redis holds; `wanted` are the versions that an engine should hold, the most important first."""

    versions: Mapping[str, AdapterVersion]
    aliases: tuple[Alias, ...]
    wanted: tuple[str, ...]


class EngineStatus(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineState:
    """The whole truth at one moment. `life` counts the engine's starts: what one life holds, the next does not."""

    status: EngineStatus = EngineStatus.STARTING
    life: int = 0
    detail: str = "not started yet"
    resident: frozenset[str] = frozenset()
    aliases: tuple[Alias, ...] = ()
    sequence: int = 1

    @property
    def restarts(self) -> int:
        return max(0, self.life - 1)


class VersionState(enum.Enum):
    REGISTERED = "registered"  # known, and not in this engine
    LOADING = "loading"
    WARM = "warm"  # resident, and no alias points to it
    SERVING = "serving"  # resident, and an alias points to it
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class VersionReport:
    """A version and how it stands with this engine."""

    version: AdapterVersion
    state: VersionState
    aliases: tuple[str, ...]
    last_error: str


def check_name(name: str) -> None:
    """Raises InvalidArgument where `name` may not be an adapter's; a good name is safe as a folder's, too."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"'{name}' cannot be an adapter's name: 1 to 64 of a-z, 0-9, '-' and '_'", code="bad_name", param="name"
        )


def check_version(version: str) -> None:
    """Raises InvalidArgument unless `version` is "NAME@HASH"."""
    name, _, digits = version.partition("@")
    if not (_NAME.fullmatch(name) and _HASH.fullmatch(digits)):
        raise InvalidArgument(
            f"'{version}' is no adapter version: NAME@HASH with {HASH_DIGITS} hexadecimal digits, as in "
            "'triage@3f9a1c0b77de'",
            code="bad_version",
            param="version",
        )


def check_alias(alias: str) -> None:
    """Raises InvalidArgument unless `alias` is "NAME@WORD" with a word that nobody can take for a hash."""
    name, _, word = alias.partition("@")
    if not (_NAME.fullmatch(name) and _NAME.fullmatch(word)) or _HASH.fullmatch(word):
        raise InvalidArgument(
            f"'{alias}' cannot be an alias: NAME@WORD, each 1 to 64 of a-z, 0-9, '-' and '_', and the word not "
            f"{HASH_DIGITS} hexadecimal digits, as in 'triage@prod'",
            code="bad_alias",
            param="alias",
        )
