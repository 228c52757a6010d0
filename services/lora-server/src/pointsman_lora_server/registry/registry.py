"""The desired state in Redis: every change is one compare-and-set, and may be asked for twice without harm."""

import secrets
from collections.abc import Sequence

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, Phase, Placement
from pointsman_lora_server.registry import records, scripts
from pointsman_lora_server.registry.changes import Changes
from pointsman_lora_server.registry.counters import CanaryCounters
from pointsman_lora_server.registry.layout import Layout
from pointsman_lora_server.registry.leases import Confirmations, Leases
from pointsman_lora_server.registry.reading import Reading
from pointsman_lora_server.registry.records import plain
from pointsman_lora_server.registry.refusals import refusal


class Registry:
    """Each method raises Unavailable ("redis_unavailable") where Redis does not answer in time.

    Then the change may have been made all the same: the next reader sees. Asking for what is already so succeeds, and
    leaves no entry in the history. `author` and `reason` are for the history.
    """

    def __init__(self, redis: BoundedRedis, base_model: str) -> None:
        """Engines of one base model share their adapters, so the keys hold its name."""
        self._redis = redis
        self._layout = layout = Layout(base_model)
        self.read = Reading(redis, layout).read
        changes, leases = Changes(redis, layout), Leases(redis, layout)
        confirmations, counters = Confirmations(redis, layout), CanaryCounters(redis, layout)
        self.history, self.changes_since = changes.history, changes.since
        self.lease, self.release = leases.take, leases.release
        self.confirm, self.holders = confirmations.confirm, confirmations.holders
        self.fleet = confirmations.fleet
        self.count, self.counts = counters.count, counters.counts

    async def record(self, version: AdapterVersion, word: str, force: bool, author: str) -> AdapterVersion:
        """Makes the version known, to be validated; returns it as it was first recorded.

        One that was retired or failed begins anew; one that is under way, or ready, stays as it is. `word` is the
        alias's part after the "@" that is to be moved to it once it is resident; empty leaves an earlier wish.
        """
        alias = f"{version.name}@{word}" if word else ""
        arguments = (version.version, records.version_to_json(version), alias, word, _flag(force))
        (raw,) = await self._change(scripts.RECORD, version.version, arguments, author, f"for {alias}" if alias else "")
        return records.version_from_json(raw)

    async def stand(
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
        """Whether it stands so now: not where it was in another phase than `expected`, or is not known any more.

        Of several who ask for the same change with `expected`, one is told True.
        """
        arguments = (version, phase.value, expected.value if expected else "", error_code, plain(error))
        outcome, *_ = await self._call(scripts.STAND, arguments, author, reason or error)
        return outcome == "done"

    async def settle_word(self, version: str, word: str = "") -> None:
        """The wished alias is where it should be, or cannot be moved. With `word`: unless another is wished by now."""
        await self._change(scripts.SETTLE_WORD, version, (version, word))

    async def move(
        self, alias: str, version: str, expected: str = "", author: str = "", reason: str = "", kind: str = "alias"
    ) -> Alias:
        """Points `alias` to `version` and ends its canary; where it pointed before is where a rollback leads.

        Where that was the version's wish, it is settled.

        Raises NotFound, InvalidArgument (another adapter's version), or FailedPrecondition: it does not point to
        `expected` ("alias_moved"; empty: wherever it points), or the version is not ready ("not_ready").
        """
        _check_same_adapter(alias, version)
        (raw,) = await self._change(scripts.MOVE, alias, (alias, version, expected, kind), author, reason)
        return records.alias_from_json(alias, raw)

    async def set_canary(
        self, alias: str, canary: Canary | None, expected: str = "", author: str = "", reason: str = ""
    ) -> Alias:
        """Sends a share of the alias's users to another version; None ends that.

        Raises NotFound, InvalidArgument (its weight, or another adapter's version), or FailedPrecondition: as `move`,
        and where the alias points to that very version ("canary_is_stable").
        """
        if canary is not None:
            _check_same_adapter(alias, canary.version)
            if not 0 < canary.weight <= 1:  # NaN, too
                raise InvalidArgument(
                    f"a canary's weight is above 0 and at most 1, and not {canary.weight:g}",
                    code="bad_weight",
                    param="weight",
                )
        arguments = (alias, *records.canary_to_texts(canary), expected)
        (raw,) = await self._change(scripts.SET_CANARY, alias, arguments, author, reason)
        return records.alias_from_json(alias, raw)

    async def rollback(
        self,
        alias: str,
        expected: str = "",
        author: str = "",
        reason: str = "",
        expected_revision: int | None = None,
    ) -> Alias:
        """Ends the alias's canary; without one, points it to where it pointed before its last move.

        Twice is there and back. With `expected_revision` nothing that came later is undone. Raises NotFound, or
        FailedPrecondition ("alias_moved", "nothing_to_roll_back", "not_ready").
        """
        revision = "" if expected_revision is None else str(expected_revision)
        (raw,) = await self._change(scripts.ROLLBACK, alias, (alias, expected, revision), author, reason)
        return records.alias_from_json(alias, raw)

    async def pin(self, version: str, pinned: bool, author: str) -> None:
        """Raises NotFound; FailedPrecondition ("not_ready") where one that failed or is retired is to be pinned."""
        await self._change(scripts.PIN, version, (version, _flag(pinned)), author)

    async def place(self, name: str, placement: Placement, expected: Placement | None, author: str) -> None:
        """How many engines hold the adapter `name`. Raises NotFound; FailedPrecondition ("placement_moved") where it is
        not placed as `expected` (None: however it is)."""
        texts = records.placement_to_text(placement), records.placement_to_text(expected)
        await self._change(scripts.PLACE, name, (name, *texts), author)

    async def announce(self, version: str, seconds: float) -> None:
        """An alias is about to be moved to the version, which is to be believed for `seconds`. Raises NotFound,
        FailedPrecondition ("not_ready")."""
        await self._change(scripts.COMING, version, (version, str(round(seconds * 1000))))

    async def retire(self, version: str, author: str, reason: str = "") -> None:
        """Takes its pin away, too. Raises NotFound; FailedPrecondition ("in_use") while something aims at it."""
        await self._change(scripts.RETIRE, version, (version,), author, reason)

    async def delete(self, version: str, author: str) -> None:
        """Raises NotFound; FailedPrecondition unless it is retired, or failed and nothing aims at it."""
        await self._change(scripts.DELETE, version, (version,), author)

    async def _change(
        self, script: str, subject: str, arguments: Sequence[str], author: str = "", reason: str = ""
    ) -> list[str]:
        """What the script says beside that it is done. Raises what it refuses."""
        outcome, *words = await self._call(script, arguments, author, reason)
        if outcome != "done":
            raise refusal(subject, outcome, words)
        return words

    async def _call(self, script: str, arguments: Sequence[str], author: str, reason: str) -> list[str]:
        """Each try of a call has the same name, by which the script knows it again."""
        at, name = self._layout, secrets.token_hex(8)
        keys = [
            at.versions,
            at.standings,
            at.aliases,
            at.pins,
            at.changes,
            at.stamp,
            at.done(name),
            at.placements,
            at.coming,
        ]
        every = [name, plain(author), plain(reason), *arguments]
        run = self._redis.client.register_script(script)
        answer: list[str] = await self._redis.call(lambda: run(keys=keys, args=every))
        return answer


def _check_same_adapter(alias: str, version: str) -> None:
    if alias.partition("@")[0] != version.partition("@")[0]:
        raise InvalidArgument(
            f"'{alias}' is an alias of another adapter than '{version}'", code="bad_alias", param="alias"
        )


def _flag(flag: bool) -> str:
    return "1" if flag else ""
