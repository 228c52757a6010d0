"""What the exporter sends records to: the interface, and several targets as one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pointsman_gateway.export.rows import ExportedRecord, Partition

Rows = Mapping[Partition, Sequence[ExportedRecord]]


class WrongTarget(Exception):
    """The target is none to which records can be written; the message says what would be right."""


class RecordTarget(Protocol):
    """Interface to a target; `ParquetTarget`, `OtlpTarget` and `AllTargets` implement it."""

    def store(self, name: str, rows: Rows) -> Sequence[ExportedRecord]:
        """Stores records, and returns those that the target refuses for good.

        A call that failed is repeated with the same name and rows, also by another process. Raises OSError or an error
        of the target's library if not all records are stored yet.
        """
        ...


class AllTargets:
    """Stores records in several targets. One that fails delays the export, but the others get records once."""

    def __init__(self, targets: Sequence[RecordTarget]) -> None:
        self._targets = targets
        self._name = ""
        self._stored: dict[int, Sequence[ExportedRecord]] = {}
        """What each target that has the records of `_name` has refused, by its place in `_targets`."""

    def store(self, name: str, rows: Rows) -> Sequence[ExportedRecord]:
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
        self._name = ""
        return [record for refused in self._stored.values() for record in refused]
