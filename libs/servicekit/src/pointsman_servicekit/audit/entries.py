"""The entries of the audit log, and their form in Redis."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

VERSION = 1
MAX_VALUES = 100
"""Maximum number of values in `before` and in `after` of a stored entry. Further values are left out, and only their
number is stored.
"""
MAX_VALUE_CHARACTERS = 300
FURTHER = "..."
"""The key in `before` or `after` under which a stored entry has the number of values that it leaves out."""

Kind = Literal["key", "role", "budget", "limit", "consent", "configuration", "price", "alias"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The kinds of administrative changes.

"role" is a change of the right to administer, of a key or of users of single sign-on; "budget" of a limit in dollars,
and "limit" of any other limit; "consent" of the permission to train with a tenant's answers; "price" and "alias" of
prices and of adapter aliases in the configuration; "alias" also of a lora-server's adapters.
"""

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Actor:
    """The person or program that makes an administrative change, and the place from which the change is made."""

    name: str = ""
    """The id of a key or of a user of single sign-on, or the name of a user of the machine; empty if it is unknown."""
    origin: str = ""
    """The address of the client, or the machine and the command or file; empty if it is unknown."""


NOBODY = Actor()


@dataclass(frozen=True, slots=True)
class AuditedChange:
    kind: str
    """The kind of the thing that was changed; one of `KINDS`."""
    change: str
    """One word that describes the change, such as "created"."""
    subject: str
    """The name of the thing that was changed, such as "key key-1f" or "models.yaml"."""
    before: Values = field(default_factory=dict)
    """The earlier values, by name, of everything that was changed; empty if something new was created. `after` has the
    new values.
    """
    after: Values = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    unix_ms: int
    actor: Actor
    changed: AuditedChange
    reason: str = ""

    def as_fields(self) -> dict[str, Any]:
        """Returns the entry as a dict of values that can be written as JSON."""
        changed = self.changed
        return {
            "unix_ms": self.unix_ms,
            "who": self.actor.name,
            "where": self.actor.origin,
            "kind": changed.kind,
            "change": changed.change,
            "subject": changed.subject,
            "before": dict(changed.before),
            "after": dict(changed.after),
            "reason": self.reason,
        }


def to_json(actor: Actor, changed: AuditedChange) -> str:
    """Returns a change as JSON, in the form in which the stream in Redis has it.

    The time is left out, since the id that Redis gives the entry contains the time.
    """
    fields = AuditEntry(0, actor, changed).as_fields()
    shortened = {name: _shortened(fields[name]) for name in ("before", "after")}
    del fields["unix_ms"], fields["reason"]
    return json.dumps({"v": VERSION, **fields, **shortened}, separators=(",", ":"), default=str)


def from_json(text: str, unix_ms: int) -> AuditEntry:
    """Parses an entry that `to_json` or an exporter has written; `unix_ms` is its time, in Unix milliseconds.

    Raises ValueError if the text does not have the form of an entry, or has another version of the format.
    """
    try:
        read = json.loads(text)
        if read["v"] != VERSION:
            raise ValueError(f"its version is {str(read['v'])[:40]}, not {VERSION}")
        names = ("kind", "change", "subject", "before", "after")
        changed = AuditedChange(*(read[name] for name in names))
        actor, reason = Actor(read["who"], read["where"]), read.get("reason", "")
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"it does not have the form of an entry: {type(error).__name__}: {error}") from error
    texts = (actor.name, actor.origin, changed.kind, changed.change, changed.subject, reason)
    sides = (changed.before, changed.after)
    if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, dict) for one in sides):
        raise ValueError("one of its fields has the wrong type")
    return AuditEntry(unix_ms, actor, changed, reason)


def _shortened(values: Values) -> dict[str, Any]:
    kept = {name: _cut(value) for name, value in list(values.items())[:MAX_VALUES]}
    return kept | ({FURTHER: len(values) - MAX_VALUES} if len(values) > MAX_VALUES else {})


def _cut(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return value if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + FURTHER
