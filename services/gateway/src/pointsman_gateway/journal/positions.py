"""How far down the counterfoils something reaches."""

from typing import NamedTuple


class Upto(NamedTuple):
    """The last positions that are meant, of receipts with a decision and of those without; all before them too."""

    decided: int = 0
    undecided: int = 0

    def covers(self, other: "Upto") -> bool:
        return other.decided <= self.decided and other.undecided <= self.undecided

    def and_decided(self, position: int) -> "Upto":
        return Upto(max(self.decided, position), self.undecided)

    def and_undecided(self, position: int) -> "Upto":
        return Upto(self.decided, max(self.undecided, position))


NOTHING_YET = Upto()
