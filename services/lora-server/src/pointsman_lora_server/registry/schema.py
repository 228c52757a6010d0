"""Defines the keys in Redis, how the domain's values are stored there, and the Lua scripts that change them."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

from pointsman_servicekit.bounded_redis import read_script
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, CanaryTerms, Phase, PhaseRecord, Placement

log = logging.getLogger(__name__)

_VERSION_FIELDS = frozenset(each.name for each in fields(AdapterVersion))
_TERMS_FIELDS = frozenset(each.name for each in fields(CanaryTerms))


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """The keys in Redis that belong to one base model.

    Braces in the keys put all of them into one slot of a Redis Cluster, because each script may only use keys of one
    slot.
    """

    base_model: str

    def _key(self, name: str) -> str:
        return f"{{pointsman:adapters:{self.base_model}}}:{name}"

    @property
    def versions(self) -> str:
        """Returns the key of a hash: version -> its record as JSON, which never changes."""
        return self._key("versions")

    @property
    def phases(self) -> str:
        """Returns the key of a hash: version -> its `PhaseRecord` as JSON.

        A record also has the field `made`, a random token from the version's first registration. A version that was
        deleted and is registered again gets a new token.
        """
        return self._key("phases")

    @property
    def sorted(self) -> str:
        """Returns the key of a sorted set of all versions, by which the versions of one adapter are found without
        reading the others.
        """
        return self._key("sorted")

    @property
    def aliases(self) -> str:
        """Returns the key of a hash: alias -> its `Alias` as JSON."""
        return self._key("aliases")

    @property
    def pins(self) -> str:
        """Returns the key of the set of pinned versions."""
        return self._key("pins")

    @property
    def placements(self) -> str:
        """Returns the key of a hash: adapter name -> its `Placement` as text. Adapters with the default placement are
        missing.
        """
        return self._key("placements")

    @property
    def upcoming(self) -> str:
        """Returns the key of a hash: version to which an alias is about to be moved -> expiry of this announcement, in
        Unix milliseconds.
        """
        return self._key("upcoming")

    @property
    def changes(self) -> str:
        """Returns the key of the Redis stream of changes. It is the history, and lora-servers also read it to notice
        changes.
        """
        return self._key("changes")

    @property
    def stamp(self) -> str:
        """Returns the key of a random token that each change of the desired state replaces. A counter could repeat a
        value if Redis is restarted and loses its last writes.
        """
        return self._key("stamp")

    @property
    def engines(self) -> str:
        """Returns the key of a hash: engine -> its report, with the versions that it holds, whether it is READY, and
        when the report expires.
        """
        return self._key("engines")

    @property
    def demand(self) -> str:
        """Returns the key of a hash: engine -> its `EngineReport` and the report's expiry, as JSON."""
        return self._key("demand")

    @property
    def plan(self) -> str:
        """Returns the key of a hash: version placed by demand -> the engines that should hold it, as a JSON list."""
        return self._key("plan")

    @property
    def plan_stamp(self) -> str:
        """Returns the key of a random token that each change of the placement plan replaces."""
        return self._key("plan-stamp")

    def of_change(self, call: str) -> list[str]:
        """Returns the keys that a script of `change_script` needs, in the order that lua/prelude.lua expects.

        `call` is the id of the call; a repeated call has the same id.
        """
        versions = [self.versions, self.phases, self.aliases, self.pins, self.changes, self.stamp]
        return [*versions, self.done(call), self.placements, self.upcoming, self.sorted]

    def done(self, call: str) -> str:
        """Returns the key under which the result of the call with the id `call` is stored.

        The result is kept as long as the call may be repeated, so that a repeated call changes nothing.
        """
        return self._key(f"done:{call}")

    def lease(self, key: str) -> str:
        """Returns the key under which the owner of the lease `key` is stored."""
        return self._key(f"lease:{key}")

    def counts(self, alias: str, revision: int) -> str:
        """Returns the key of a hash with the request counts of a revision of an alias with a canary: "VERSION COUNTER"
        -> number.

        COUNTER is the name of a numeric field of `RequestCounts`, or the number of a latency bucket.
        """
        return self._key(f"counts:{alias}:{revision}")


@cache
def change_script(name: str) -> str:
    """Returns the text of the Lua script `name`, which makes a change, preceded by the common code in lua/prelude.lua.

    The script's first arguments are the call's id, the author and the reason; its keys are those of
    `RedisKeys.of_change`.
    """
    return read_script(__package__, "prelude") + read_script(__package__, name)


def version_to_json(version: AdapterVersion) -> str:
    return json.dumps(asdict(version))


def version_from_json(raw: str) -> AdapterVersion:
    """Parses the record of an adapter version. Unknown fields are ignored, because a newer lora-server may have written
    them.

    Raises FailedPrecondition ("unreadable_record") if `raw` has another form.
    """
    with _reading("an adapter version", raw):
        values = json.loads(raw)
        known = {name: value for name, value in values.items() if name in _VERSION_FIELDS}
        return _checked_version(AdapterVersion(**(known | {"target_modules": tuple(values["target_modules"])})))


def alias_from_json(name: str, raw: str) -> Alias:
    with _reading(f"alias '{name}'", raw):
        return _alias(name, json.loads(raw))


def canary_to_texts(canary: Canary | None) -> tuple[str, str, str]:
    """Returns a canary's version, weight, and terms as JSON, each as a text; three empty texts for None.

    The Lua scripts compare these texts, so the weight is written without rounding.
    """
    if canary is None:
        return "", "", ""
    return canary.version, repr(float(canary.weight)), json.dumps(asdict(canary.terms), sort_keys=True)


def phases_from_json(raw: str) -> tuple[dict[str, PhaseRecord], dict[str, str], list[str]]:
    """Parses a JSON object that maps version names to phase records; null stands for a version that was deleted.

    Returns version -> phase record, version -> its token `made` (see `RedisKeys.phases`), and the names with null.
    Raises FailedPrecondition ("unreadable_record") if `raw` has another form.
    """
    with _reading("the phases of versions", raw):
        values = json.loads(raw)
        missing = [name for name, each in values.items() if each is None]
    records, tokens = {}, {}
    for version, each in values.items():
        if each is not None:
            with _reading(f"the phase of '{version}'", each):
                records[version], tokens[version] = _phase_record(each), str(each["made"])
    return records, tokens, missing


def aliases_from_json(raw: str) -> dict[str, Alias]:
    """Parses a JSON object that maps alias names to aliases or null; returns name -> alias, without names with null.

    Raises FailedPrecondition ("unreadable_record") if `raw` has another form.
    """
    with _reading("the aliases", raw):
        listed = [(name, values) for name, values in json.loads(raw).items() if values is not None]
    aliases = {}
    for name, values in listed:
        with _reading(f"alias '{name}'", values):
            aliases[name] = _alias(name, values)
    return aliases


def placement_to_text(placement: Placement | None) -> str:
    """Returns a placement as text, such as "all" or "2"; empty for None."""
    return "" if placement is None else str(placement)


def placements_from_pairs(raw: Sequence[str]) -> dict[str, Placement]:
    placements = {}
    for name, text in zip(raw[::2], raw[1::2], strict=True):
        with _reading(f"the placement of '{name}'", text):
            placements[name] = _placement(text)
    return placements


def upcoming_from_pairs(raw: Sequence[str]) -> dict[str, int]:
    upcoming = {}
    for version, until in zip(raw[::2], raw[1::2], strict=True):
        with _reading(f"the announcement of '{version}'", until):
            upcoming[version] = int(until)
    return upcoming


def plan_from_pairs(raw: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parses a placement plan. `raw` is a list in which versions alternate with JSON lists of engines. Returns version
    -> engines.

    An entry whose engines are not a JSON list is logged and left out: the next plan replaces it, and until then the
    other versions must be loaded. Raises ValueError if the last version has no engines.
    """
    plan = {}
    for version, text in zip(raw[::2], raw[1::2], strict=True):
        try:
            with _reading(f"the engines of '{version}' in the plan", text):
                plan[version] = tuple(str(engine) for engine in json.loads(text))
        except FailedPrecondition as error:
            log.error("%s", error.message)
    return plan


def to_utf8(text: str, max_characters: int = 2000) -> str:
    """Returns the first `max_characters` characters of the text. Surrogates, which UTF-8 cannot encode, are replaced by
    "?".
    """
    return text[:max_characters].encode(errors="replace").decode()


@contextmanager
def _reading(what: str, raw: Any) -> Iterator[None]:
    """Returns a context manager that raises FailedPrecondition ("unreadable_record") if its block cannot parse `raw`.
    `what` describes the value in the message.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        shown = str(raw)[:200]
        raise FailedPrecondition(
            f"the registry in Redis: {what} cannot be read ({type(error).__name__}: {error}): {shown!r}",
            code="unreadable_record",
        ) from error


def _checked_version(version: AdapterVersion) -> AdapterVersion:
    """Returns the version; raises TypeError if a field has a wrong type. Not all fields are checked."""
    for name in ("rank", "bytes", "created_unix_ms"):
        if type(getattr(version, name)) is not int:
            raise TypeError(f"{name} is not a whole number")
    for name in ("name", "sha256", "base_model", "base_digest", "chat_template_sha256", "parent", "author"):
        if not isinstance(getattr(version, name), str):
            raise TypeError(f"{name} is not a text")
    if not all(isinstance(module, str) for module in version.target_modules):
        raise TypeError("target_modules must be texts")
    if not isinstance(version.facts, dict) or not isinstance(version.metrics, dict):
        raise TypeError("facts and metrics must be objects")
    return version


def _placement(text: str) -> Placement:
    named = {"all": Placement(), "on-demand": Placement(0), "auto": Placement(by_demand=True)}
    return named[text] if text in named else Placement(int(text))


def _phase_record(values: Mapping[str, Any]) -> PhaseRecord:
    return PhaseRecord(
        Phase(values["phase"]), values["error_code"], values["error"], values["alias_suffix"], values["force"]
    )


def _alias(name: str, values: Mapping[str, Any]) -> Alias:
    canary = None
    if values["canary"]:
        terms = {name: value for name, value in json.loads(values["terms"]).items() if name in _TERMS_FIELDS}
        canary = Canary(values["canary"], float(values["weight"]), CanaryTerms(**terms))
    version, previous, revision = values["version"], values["previous"], values["revision"]
    if not isinstance(version, str) or not isinstance(previous, str):
        raise TypeError("a version must be a text")
    return Alias(name, version, int(revision), canary, previous)
