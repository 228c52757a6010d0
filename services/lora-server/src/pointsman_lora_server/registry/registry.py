"""Changes the desired state in Redis. Each change is one atomic Lua script; a retry of the same call changes nothing
more.
"""

import secrets
from collections.abc import Sequence

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError

from pointsman_lora_server.domain import ON_EVERY_ENGINE, AdapterVersion, Alias, Canary, Phase, Placement, adapter_name
from pointsman_lora_server.registry import schema
from pointsman_lora_server.registry.fleet import CanaryCounters, EngineReports, Leases
from pointsman_lora_server.registry.plans import PlacementPlans
from pointsman_lora_server.registry.reads import ChangeStream, SnapshotReader
from pointsman_lora_server.registry.schema import RedisKeys, to_utf8


class AdapterRegistry:
    """Changes adapter versions, aliases and placements in Redis. Methods of the classes in `reads`, `fleet` and `plans`
    are available as attributes.

    Each method raises Unavailable ("redis_unavailable") if Redis does not answer. Methods that return an AdapterVersion
    or an Alias raise FailedPrecondition ("unreadable_record") if Redis returns one that cannot be parsed. After either
    error, the change may have been made; the next read shows this. If there is nothing to change, a method succeeds and
    adds no entry to the history. `author` and `reason` are stored in the history.
    """

    def __init__(self, redis: BoundedRedis, base_model: str, default_placement: Placement = ON_EVERY_ENGINE) -> None:
        """`base_model` is a part of all Redis keys: all engines of one base model share their adapters.

        `default_placement` applies to adapters for which `set_placement` was not called.
        """
        self._default_placement = default_placement
        self._redis = redis
        self._keys = keys = RedisKeys(base_model)
        self.read = SnapshotReader(redis, keys, default_placement).read
        changes, leases = ChangeStream(redis, keys), Leases(redis, keys)
        reports, counters = EngineReports(redis, keys), CanaryCounters(redis, keys)
        self.history, self.wait_for_change = changes.history, changes.wait_for_change
        self.acquire_lease, self.release_lease = leases.acquire, leases.release
        self.report_engine, self.engines_holding = reports.report_engine, reports.engines_holding
        self.read_fleet = reports.read_fleet
        plans = PlacementPlans(redis, keys)
        self.report_demand, self.read_demand = plans.report_demand, plans.read_demand
        self.read_plan, self.write_plan = plans.read_plan, plans.write_plan
        self.add_outcomes, self.canary_counts = counters.add_outcomes, counters.canary_counts

    async def add_version(self, version: AdapterVersion, alias_suffix: str, force: bool, author: str) -> AdapterVersion:
        """Records the version as REGISTERED; returns the record from its first registration.

        A RETIRED or FAILED version becomes REGISTERED again; a version in another phase keeps its phase. `alias_suffix`
        is the part after the "@" of the alias to move to the version once an engine holds it; empty requests no move.
        The request is stored with `force` (`PhaseRecord.force`), and replaces an earlier request. But a version that
        keeps its phase also keeps its earlier request if `alias_suffix` is empty, or if the alias already points to the
        version and has no canary.
        """
        alias = f"{version.name}@{alias_suffix}" if alias_suffix else ""
        arguments = (version.version, schema.version_to_json(version), alias, alias_suffix, _flag(force))
        reason = f"for {alias}" if alias else ""
        (raw,) = await self._change("add_version", version.version, arguments, author, reason)
        return schema.version_from_json(raw)

    async def set_phase(
        self,
        version: str,
        phase: Phase,
        *,
        expected: Phase | None = None,
        error_code: str = "",
        error: str = "",
        author: str = "",
        reason: str = "",
    ) -> bool:
        """Sets the version's phase and returns True. Returns False if the version is not registered, or its phase is
        not `expected` (None accepts any).

        `error_code` and `error` are stored in the `PhaseRecord`, and `error` in the history if there is no `reason`. If
        several callers request the same change with `expected`, exactly one of them gets True.
        """
        arguments = (version, phase.value, expected.value if expected else "", error_code, to_utf8(error))
        outcome, *_ = await self._call("set_phase", arguments, author, reason or error)
        return outcome == "done"

    async def clear_alias_request(self, version: str, alias_suffix: str = "") -> None:
        """Deletes the stored request to move an alias to the version. If `alias_suffix` is given, the request is only
        deleted if it is for this alias.
        """
        await self._change("clear_alias_request", version, (version, alias_suffix))

    async def move_alias(
        self, alias: str, version: str, expected: str = "", author: str = "", reason: str = "", kind: str = "alias"
    ) -> Alias:
        """Points `alias` to `version` and ends the alias's canary. The alias is created if it does not exist.

        Does nothing, whatever `expected` is, if the alias already points to `version` and has no canary. Also deletes
        the request to move this alias that was stored with the version, if there is one. `kind` is stored as
        `Change.kind` in the history.

        Raises InvalidArgument if the version belongs to another adapter, NotFound if it is not registered,
        FailedPrecondition ("alias_moved") if the alias does not point to `expected` (empty accepts any), and
        FailedPrecondition ("not_ready") if the version is not READY.
        """
        _check_same_adapter(alias, version)
        (raw,) = await self._change("move_alias", alias, (alias, version, expected, kind), author, reason)
        return schema.alias_from_json(alias, raw)

    async def set_canary(
        self, alias: str, canary: Canary | None, expected: str = "", author: str = "", reason: str = ""
    ) -> Alias:
        """Makes `canary` the alias's canary, or ends the alias's canary if `canary` is None.

        `expected` is the version to which the alias must point now; empty accepts any. Raises InvalidArgument for a
        weight that is not above 0 and at most 1 ("bad_weight") or a version of another adapter ("bad_alias"), and
        NotFound for an unknown alias or version. Raises FailedPrecondition if the alias does not point to `expected`
        ("alias_moved"), the canary's version is not READY ("not_ready"), or the alias already points to the canary's
        version ("canary_is_stable").
        """
        if canary is not None:
            _check_same_adapter(alias, canary.version)
            if not 0 < canary.weight <= 1:  # false for NaN, too
                raise InvalidArgument(
                    f"a canary's weight must be above 0 and at most 1, not {canary.weight:g}",
                    code="bad_weight",
                    param="weight",
                )
        arguments = (alias, *schema.canary_to_texts(canary), expected)
        (raw,) = await self._change("set_canary", alias, arguments, author, reason)
        return schema.alias_from_json(alias, raw)

    async def roll_back(
        self,
        alias: str,
        expected: str = "",
        author: str = "",
        reason: str = "",
        expected_revision: int | None = None,
    ) -> Alias:
        """Ends the alias's canary; if it has none, swaps `Alias.version` and `Alias.previous`.

        Raises NotFound for an unknown alias. Raises FailedPrecondition ("alias_moved") if the alias does not point to
        `expected` (empty accepts any) or its revision is not `expected_revision` (None accepts any),
        ("nothing_to_roll_back") if there is no previous version or it was deleted, and ("not_ready") if the previous
        version is not READY.
        """
        revision = "" if expected_revision is None else str(expected_revision)
        (raw,) = await self._change("roll_back", alias, (alias, expected, revision), author, reason)
        return schema.alias_from_json(alias, raw)

    async def set_pinned(self, version: str, pinned: bool, author: str) -> None:
        """Pins or unpins a version. Every engine holds a pinned version and never evicts it.

        Raises NotFound if the version is not registered, and FailedPrecondition ("not_ready") when pinning a RETIRED or
        FAILED version.
        """
        await self._change("set_pinned", version, (version, _flag(pinned)), author)

    async def set_placement(self, name: str, placement: Placement, expected: Placement | None, author: str) -> None:
        """Sets how many engines hold the versions of the adapter `name`. Does nothing, whatever `expected` is, if
        `placement` already applies.

        Raises NotFound if no version of the adapter is registered, and FailedPrecondition ("placement_moved") if its
        current placement is not `expected` (None accepts any).
        """
        texts = schema.placement_to_text(placement), schema.placement_to_text(expected)
        await self._change("set_placement", name, (name, *texts, str(self._default_placement)), author)

    async def announce_target(self, version: str, seconds: float) -> None:
        """Announces that an alias is about to be moved to the version, so that engines load it. The announcement
        expires after `seconds`.

        Raises NotFound if the version is not registered, and FailedPrecondition ("not_ready") if it is not READY.
        """
        await self._change("announce_target", version, (version, str(round(seconds * 1000))))

    async def retire(self, version: str, author: str, reason: str = "") -> None:
        """Sets the version's phase to RETIRED from any other phase, unpins it, and deletes its request to move an
        alias.

        Raises NotFound if the version is not registered, and FailedPrecondition ("in_use") if an alias points to it as
        its stable version or as its canary.
        """
        await self._change("retire", version, (version,), author, reason)

    async def delete(self, version: str, author: str) -> None:
        """Deletes the record of a RETIRED or FAILED version; with the last version of an adapter, also the adapter's
        placement.

        Raises NotFound if the version is not registered, and FailedPrecondition if it is in another phase
        ("not_retired") or an alias or a canary points to it ("in_use").
        """
        await self._change("delete", version, (version,), author)

    async def _change(
        self, script: str, subject: str, arguments: Sequence[str], author: str = "", reason: str = ""
    ) -> list[str]:
        """Runs the script `script` and returns the values that follow "done" in its result. For another result, raises
        the error of `_error_for`.
        """
        outcome, *words = await self._call(script, arguments, author, reason)
        if outcome != "done":
            raise _error_for(subject, outcome, words)
        return words

    async def _call(self, script: str, arguments: Sequence[str], author: str, reason: str) -> list[str]:
        """Runs a script; returns its outcome, such as "done", and further values. A retry has the same call id, so it
        changes nothing more.
        """
        call_id = secrets.token_hex(8)
        keys = self._keys.of_change(call_id)
        all_arguments = [call_id, to_utf8(author), to_utf8(reason), *arguments]
        run = self._redis.client.register_script(schema.change_script(script))
        answer: list[str] = await self._redis.call(lambda: run(keys=keys, args=all_arguments))
        return answer


def _check_same_adapter(alias: str, version: str) -> None:
    if adapter_name(alias) != adapter_name(version):
        raise InvalidArgument(
            f"'{alias}' is an alias of another adapter than '{version}'", code="bad_alias", param="alias"
        )


def _flag(flag: bool) -> str:
    return "1" if flag else ""


def _error_for(subject: str, outcome: str, words: Sequence[str]) -> PointsmanError:
    """Returns the error for a script that failed with `outcome` and `words`; `subject` is the version, alias or adapter
    to be changed.
    """
    match outcome, *words:
        case "unknown", version:
            return NotFound(
                f"no version '{version}' is registered; see `pointsman adapters list`",
                code="unknown_version",
            )
        case "unknown_adapter", name:
            return NotFound(
                f"no version of '{name}' is registered; see `pointsman adapters list`",
                code="unknown_adapter",
            )
        case "placed", current:
            return FailedPrecondition(
                f"'{subject}' is placed {current}, which is not what was expected: someone changed that since it was "
                "read",
                code="placement_moved",
                param="expected",
            )
        case "unknown_alias", alias:
            return NotFound(f"there is no alias '{alias}'; see `pointsman adapters list`", code="unknown_alias")
        case "moved", current:
            return FailedPrecondition(
                f"'{subject}' points to {current or 'nothing'}, which is not what was expected: someone moved it since "
                "it was read",
                code="alias_moved",
                param="expected_version",
            )
        case "changed", revision:
            return FailedPrecondition(
                f"'{subject}' is at revision {revision}: someone changed it since it was read", code="alias_moved"
            )
        case "not_ready", version, phase, code, error:
            why = f": {error} ({code})" if error or code else ""
            return FailedPrecondition(
                f"{version} is {phase}{why}; only a version that is ready can serve", code="not_ready"
            )
        case "unknown_previous", version:
            return FailedPrecondition(
                f"'{subject}' pointed to {version}, which was deleted since; move the alias to another version",
                code="nothing_to_roll_back",
            )
        case ("nothing",):
            return FailedPrecondition(
                f"'{subject}' has never pointed to another version and has no canary", code="nothing_to_roll_back"
            )
        case ("stable",):
            return FailedPrecondition(
                f"'{subject}' points to that same version; a canary must be another one", code="canary_is_stable"
            )
        case "in_use", aliases:
            return FailedPrecondition(
                f"{subject} is in use by {aliases}; move them to another version first", code="in_use", param="version"
            )
        case "not_retired", phase:
            return FailedPrecondition(
                f"{subject} is {phase}; only a retired or a failed version can be deleted: retire it first",
                code="not_retired",
                param="version",
            )
        case _:
            raise AssertionError(f"a Lua script of the registry answered for {subject}: {outcome!r} {words}")
