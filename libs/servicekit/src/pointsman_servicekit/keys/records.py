"""The records of API keys and tenants, the credentials of callers, and dollars as whole numbers.

A credential is `pm_PREFIX_SECRET`; Redis has only its SHA-256 digest and its prefix. The secret is 32 characters chosen
at random from 62, about 190 bits. Slow hashes protect passwords that people make up; a random secret of this length
cannot be guessed, so one SHA-256 is enough, and it costs a request less than a microsecond.
"""

import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from types import NoneType
from typing import Any, TypeVar

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument

NANO = 10**9
PICO = 10**12

ALPHABET = string.digits + string.ascii_letters

VERSION = 1
"""The version of the records' format. Records of other versions are rejected: they may have unknown restrictions."""
MAX_COUNT = 10**12
MAX_DOLLARS = 10**6
MAX_NAME_CHARACTERS = 100
MAX_NAMES = 1000

TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""The pattern that a tenant's name must match: up to 64 lowercase letters, digits, "_" and "-"."""

ALL_TASKS = "*"
"""Stands for all tasks in a tenant's list of tasks whose answers may be used for training."""

_TYPES = {"float | None": (int, float, NoneType), "float": (int, float), "str": (str,), "int": (int,), "bool": (bool,)}
"""The types that a record's fields may have, by their annotations."""

PREFIX, SECRET = 8, 32
LENGTH = len("pm_") + PREFIX + len("_") + SECRET

_FORM = re.compile(rf"pm_[0-9A-Za-z]{{{PREFIX}}}_[0-9A-Za-z]{{{SECRET}}}")


def nanodollars(usd: float) -> int:
    """Converts dollars to nanodollars, rounded up; amounts of limits are stored in nanodollars.

    Redis's scripts compute exactly with amounts up to 9 million dollars.
    """
    return -(-round(usd * PICO) // 1000)


def picodollars(usd: float) -> int:
    """Converts dollars to picodollars, rounded to the nearest; the cost of usage is stored in picodollars.

    One picodollar is the price of a token if a million tokens cost 0.000001 dollars.
    """
    return round(usd * PICO)


@dataclass(frozen=True, slots=True)
class Credential:
    text: str
    prefix: str
    """The public part of a credential: random, independent of the secret, and enough to look up the key."""


def new_credential() -> Credential:
    prefix = _draw(PREFIX)
    return Credential(f"pm_{prefix}_{_draw(SECRET)}", prefix)


def credential_of(text: str) -> Credential:
    """Parses a credential; raises InvalidArgument ("malformed_key") if `text` does not have the form of one."""
    if not is_well_formed(text):
        raise InvalidArgument(f"a key is pm_, {PREFIX} letters or digits, _, and {SECRET} more", code="malformed_key")
    return Credential(text, text.split("_")[1])


def is_well_formed(text: str) -> bool:
    return len(text) == LENGTH and _FORM.fullmatch(text) is not None


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _draw(count: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(count))


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a key or a tenant; None means no limit. Days and months are in UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_streams: int | None = None
    dollars_per_day: float | None = None
    dollars_per_month: float | None = None

    def __post_init__(self) -> None:
        """Raises InvalidArgument ("bad_limit") if a limit is out of range.

        Limits in dollars must be 1e-9 to `MAX_DOLLARS`, all other limits whole numbers from 1 to `MAX_COUNT`.
        """
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and not _is_limit(one.name, value):
                dollars = one.name.startswith("dollars")
                right = f"more than 0, at most {MAX_DOLLARS:,}" if dollars else f"whole, 1 to {MAX_COUNT:,}"
                raise InvalidArgument(f"{one.name} is {value!r}; it must be {right}", code="bad_limit", param=one.name)


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class KeyScope:
    """The names of tasks, paths, adapters, collections, embedding models and rerankers for which a key may be used.

    A field that is None allows all names (`embeddings` and `rerankers` have a further condition); an empty tuple allows
    none.
    """

    tasks: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    adapters: tuple[str, ...] | None = None
    collections: tuple[str, ...] | None = None
    embeddings: tuple[str, ...] | None = None
    """The embedding models that the key may use.

    None allows all of them if all other fields are None too; if another field lists names, None allows no embedding
    model.
    """
    rerankers: tuple[str, ...] | None = None
    """The rerankers that the key may use.

    None allows all of them if all other fields are None too; if another field lists names, None allows no reranker.
    """

    def __post_init__(self) -> None:
        """Raises InvalidArgument ("bad_scope") if a field has more than `MAX_NAMES` names, or an empty or long one.

        A name may have `MAX_NAME_CHARACTERS` characters.
        """
        for one in fields(self):
            names = getattr(self, one.name) or ()
            if len(names) > MAX_NAMES or not all(0 < len(name) <= MAX_NAME_CHARACTERS for name in names):
                raise InvalidArgument(
                    f"{one.name} must be up to {MAX_NAMES} names of 1 to {MAX_NAME_CHARACTERS} characters",
                    code="bad_scope",
                    param=one.name,
                )


EVERYTHING = KeyScope()


@dataclass(frozen=True, slots=True)
class TenantRecord:
    name: str
    limits: Limits = NO_LIMITS
    learning: tuple[str, ...] = ()
    """The tasks whose answers the tenant allows to be used for training; `ALL_TASKS` stands for all."""

    def __post_init__(self) -> None:
        """Raises InvalidArgument: "bad_tenant" for the tenant's name, "bad_consent" for the names in `learning`."""
        if not TENANT.fullmatch(self.name):
            raise InvalidArgument(
                f"the tenant is '{self.name[:80]}'; it must be 1 to 64 of a-z, 0-9, '-' and '_'",
                code="bad_tenant",
                param="tenant",
            )
        if len(self.learning) > MAX_NAMES or not all(0 < len(task) <= MAX_NAME_CHARACTERS for task in self.learning):
            raise InvalidArgument(
                f"a consent names up to {MAX_NAMES} tasks, each of 1 to {MAX_NAME_CHARACTERS} characters",
                code="bad_consent",
                param="learning",
            )

    def consents_to(self, task: str) -> bool:
        """Returns whether the tenant allows its answers of the task to be used for training."""
        return task in self.learning or ALL_TASKS in self.learning

    def to_json(self) -> str:
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str, at: str = "") -> "TenantRecord":
        """Parses a tenant's record in JSON.

        Raises FailedPrecondition ("unreadable_record") if the text is not a valid record or is of another version. The
        message names `at`, the record's place in Redis.
        """
        with _reading("tenant", text, at) as read:
            return _typed(cls(read["name"], Limits(**read["limits"]), _names(read.get("learning", []))))


@dataclass(frozen=True, slots=True)
class KeyRecord:
    id: str
    prefix: str
    digest: str
    tenant: str
    name: str = ""
    scope: KeyScope = EVERYTHING
    limits: Limits = NO_LIMITS
    priority: int = 0
    created: float = field(default=0.0)
    """When the key was created, in Unix seconds, like `expires` and `revoked`."""
    expires: float | None = None
    revoked: float | None = None
    operator: bool = False
    """Whether the key may move adapter aliases and send evaluations."""
    admin: bool = False
    """Whether the key may use the admin API: keys, limits and usage of all tenants, and the configuration."""

    def __post_init__(self) -> None:
        """Raises InvalidArgument: "bad_name" for the key's name, "bad_priority" for a priority not from -100 to 100.

        The name may have `MAX_NAME_CHARACTERS` characters, all printable.
        """
        if len(self.name) > MAX_NAME_CHARACTERS or not self.name.isprintable():
            raise InvalidArgument(
                f"a key's name may have {MAX_NAME_CHARACTERS} printable characters", code="bad_name", param="name"
            )
        if not -100 <= self.priority <= 100:
            raise InvalidArgument(
                f"priority is {self.priority}; it must be -100 to 100", code="bad_priority", param="priority"
            )

    def state(self, unix_seconds: float) -> str:
        """Returns "revoked" if the key was ever revoked, else "active" or "expired" as of `unix_seconds`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and unix_seconds >= self.expires else "active"

    def to_json(self) -> str:
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str, at: str = "") -> "KeyRecord":
        """Parses a key's record in JSON.

        Raises FailedPrecondition ("unreadable_record") if the text is not a valid record or is of another version. The
        message names `at`, the record's place in Redis.
        """
        with _reading("key", text, at) as read:
            scope = {name: None if names is None else _names(names) for name, names in read.pop("scope").items()}
            return _typed(cls(scope=KeyScope(**scope), limits=Limits(**read.pop("limits")), **read))


def _to_json(record: KeyRecord | TenantRecord) -> str:
    fields = asdict(record)
    # Records that lack later fields keep their serialized form, which compare-and-set relies on.
    for flag in ("operator", "admin"):
        if not fields.get(flag):
            fields.pop(flag, None)
    scope = fields.get("scope")
    for names in ("embeddings", "rerankers"):
        if scope is not None and scope[names] is None:
            del scope[names]
    return json.dumps({"v": VERSION, **fields}, separators=(",", ":"))


Record = TypeVar("Record", bound=KeyRecord | TenantRecord)


def _typed(record: Record) -> Record:
    """Returns the record; raises TypeError if a text, number or boolean field has a value of another type, or a number
    is infinite or NaN. Fields of types that are not in `_TYPES` are not checked.
    """
    for one in fields(record):
        types = _TYPES.get(getattr(one.type, "__name__", None) or str(one.type), (object,))
        value: Any = getattr(record, one.name)
        is_number = isinstance(value, int | float) and bool not in types
        if (is_number and (isinstance(value, bool) or not isfinite(value))) or not isinstance(value, types):
            raise TypeError(f"{one.name} is {str(value)[:100]!r}")
    return record


def _names(names: Any) -> tuple[str, ...]:
    """Returns a list of names as a tuple; raises TypeError for anything else."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{str(names)[:100]} is no list of names")
    return tuple(names)


@contextmanager
def _reading(what: str, text: str, at: str) -> Iterator[dict[str, Any]]:
    try:
        read = json.loads(text)
        if read.pop("v") != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        yield read
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, InvalidArgument) as error:
        place = f" at {at} in Redis" if at else ""
        message = f"the record of a {what}{place} cannot be read; was it written by a later version? {error}"
        raise FailedPrecondition(message, code="unreadable_record") from error


def _is_limit(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if name.startswith("dollars"):
        return isinstance(value, int | float) and 1e-9 <= value <= MAX_DOLLARS
    return isinstance(value, int) and 1 <= value <= MAX_COUNT
