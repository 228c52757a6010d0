"""What is where in Redis; the braces keep all of one base model in one slot of a cluster, as its scripts need it."""

from dataclasses import dataclass

MOST_CHANGES = 10_000
"""Entries of the history that are kept, about."""

REPEATS_SECONDS = 60
"""For so long a call that is made again, or comes late, is known to have been done."""

COUNTS_SECONDS = 7 * 24 * 3600
"""For so long after the last report the counts of a canary are kept."""


@dataclass(frozen=True, slots=True)
class RedisKeys:
    base_model: str

    def _key(self, name: str) -> str:
        return f"{{pointsman:adapters:{self.base_model}}}:{name}"

    @property
    def versions(self) -> str:
        """A hash: a version to its record, JSON; a record never changes."""
        return self._key("versions")

    @property
    def standings(self) -> str:
        """A hash: a version to its phase and what belongs to it, JSON; `made` is another word for each new record."""
        return self._key("standings")

    @property
    def aliases(self) -> str:
        """A hash: an alias to where it points, JSON."""
        return self._key("aliases")

    @property
    def pins(self) -> str:
        """A set of versions."""
        return self._key("pins")

    @property
    def placements(self) -> str:
        """A hash: an adapter's name to how it is placed, where it is not on every engine."""
        return self._key("placements")

    @property
    def coming(self) -> str:
        """A hash: a version that an alias is about to be moved to, to the Unix milliseconds until when."""
        return self._key("coming")

    @property
    def changes(self) -> str:
        """A stream: the history, and how everyone hears of a change."""
        return self._key("changes")

    @property
    def stamp(self) -> str:
        """Another word after each change; not a number, which would come again where Redis forgets the last second."""
        return self._key("stamp")

    @property
    def engines(self) -> str:
        """A hash: an engine to what it holds, whether it is up, and until when that is to be believed, JSON."""
        return self._key("engines")

    def done(self, call: str) -> str:
        """A string: what the call came to, for as long as it may be made again."""
        return self._key(f"done:{call}")

    def lease(self, what: str) -> str:
        """A string: who holds it."""
        return self._key(f"lease:{what}")

    def counts(self, alias: str, revision: int) -> str:
        """A hash: "VERSION COUNTER" to a number; a counter is named, or is a bucket of milliseconds."""
        return self._key(f"counts:{alias}:{revision}")
