"""The interface of a target, to which the exporter sends records, and a class that treats several targets as one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pointsman_gateway.export.rows import ExportedRecord, Partition

Record = tuple[Partition, ExportedRecord]
Rows = Mapping[Partition, Sequence[ExportedRecord]]


class WrongTarget(Exception):
    """The setting of the export target is wrong; the message says what is allowed."""


class RecordTarget(Protocol):
    """Interface to a place where records are exported to; `ParquetTarget`, `OtlpTarget` and `AllTargets` implement
    it.
    """

    def store(self, name: str, rows: Rows) -> Sequence[Record]:
        """Stores records, and returns those that the target rejects for good.

        `name` identifies the records: a failed call is repeated with the same `name` and `rows`, perhaps by another
        process. Raises OSError or an error of the target's library if some records are not stored yet.
        """
        ...


class AllTargets:
    """Stores records in several targets.

    If one target fails, the call is repeated for this target only, and the other targets get no further records until
    it succeeds.
    """

    def __init__(self, targets: Sequence[RecordTarget]) -> None:
        self._targets = targets
        self._name = ""
        """The argument `name` of the last call of `store`."""
        self._stored: dict[int, Sequence[Record]] = {}
        """The records that a target has rejected, by the index in `_targets` of each target that has stored the records
        of `_name`."""

    def store(self, name: str, rows: Rows) -> Sequence[Record]:
        if name != self._name:
            self._name, self._stored = name, {}
        failure: Exception | None = None
        for place, target in enumerate(self._targets):
            if place not in self._stored:
                try:
                    self._stored[place] = target.store(name, rows)
                except Exception as error:  # each target's library has errors of its own
                    failure = failure or error
        if failure is not None:
            raise failure
        return [record for refused in self._stored.values() for record in refused]
