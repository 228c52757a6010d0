"""Describes changes of keys and tenants for the audit log. The descriptions contain no secrets and no digests."""

from dataclasses import asdict
from typing import Any

from pointsman_servicekit.audit.entries import AuditedChange
from pointsman_servicekit.keys.records import KeyRecord, TenantRecord

_VERBS = {"limits": "limited", "learning": "consented", "revoked": "revoked"}
"""Words for a change, by the field of the record that has changed."""


def created_key(record: KeyRecord) -> AuditedChange:
    given = {name: value for name, value in _values(record).items() if value not in (None, "", False, 0, ())}
    return AuditedChange(_kind_of(record), "created", _subject(record), {}, given)


def changed_record(
    before: KeyRecord | TenantRecord, after: KeyRecord | TenantRecord, is_new: bool = False
) -> AuditedChange | None:
    """Returns what has changed between two versions of a record, for the audit log; None if they are equal.

    `is_new` says that there was no record before; `before` then has the defaults.
    """
    old, new = _values(before), _values(after)
    names = [name for name, value in new.items() if value != old.get(name)]
    if not names:
        return None
    verb = next(word for part, word in _VERBS.items() if getattr(before, part, None) != getattr(after, part, None))
    kind = _kind_of(after)
    if verb == "limited":
        kind = "budget" if any(name.startswith("dollars") for name in names) else "limit"
    elif verb == "consented":
        kind = "consent"
    earlier = {} if is_new else {name: old[name] for name in names}
    return AuditedChange(kind, verb, _subject(after), earlier, {name: new[name] for name in names})


def _values(record: KeyRecord | TenantRecord) -> dict[str, Any]:
    """Returns the fields of a record, with those of its scope and limits, by name."""
    fields = asdict(record)
    fields.pop("digest", None)
    return {**fields.pop("limits"), **fields.pop("scope", {}), **fields}


def _kind_of(record: KeyRecord | TenantRecord) -> str:
    return "role" if isinstance(record, KeyRecord) and (record.admin or record.operator) else "key"


def _subject(record: KeyRecord | TenantRecord) -> str:
    return f"key {record.id} of {record.tenant}" if isinstance(record, KeyRecord) else f"tenant {record.name}"
