"""What the exporter sends records to: the interface, and several targets as one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pointsman_gateway.export.rows import ExportedRecord, Partition

Record = tuple[Partition, ExportedRecord]
Rows = Mapping[Partition, Sequence[ExportedRecord]]


class WrongTarget(Exception):
    """The setting of the target is wrong. The message says what is right."""


class RecordTarget(Protocol):
    """Interface to a target; `ParquetTarget`, `OtlpTarget` and `AllTargets` implement it."""

    def store(self, name: str, rows: Rows) -> Sequence[Record]:
        """Stores records, and returns those that the target refuses for good.

        A call that failed is repeated with the same name and rows, also by another process. Raises OSError or an error
        of the target's library if not all records are stored yet.
        """
        ...


class AllTargets:
    """Stores records in several targets. While one target fails, no further records are exported to the others; those
    that have the present records do not get them again.
    """

    def __init__(self, targets: Sequence[RecordTarget]) -> None:
        self._targets = targets
        self._name = ""
        """The name of the last call of `store`."""
        self._stored: dict[int, Sequence[Record]] = {}
        """By the place in `_targets` of each target that has the records of `_name`: which of them it has refused."""

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
