"""The evidence that the gateways have counted, for paths of which nobody here knows what is resident."""

from pointsman_gateway.domain import Path
from pointsman_gateway.journal.evidence import EvidenceBoard
from pointsman_gateway.journal.keys import last_days
from pointsman_gateway.workbench.history import History


async def read_evidence(history: History, window: int) -> EvidenceBoard:
    """Of the last `window` days. An adapter's version is the one that answered along the path most lately."""
    board, latest = EvidenceBoard(window), _Latest()
    for day, counts in (await history.evidence(last_days(window)[::-1])).items():
        board.read(day, counts)
        latest.versions |= {(cell.path, cell.fingerprint): cell.version for cell in counts}
    board.versions = latest.of
    return board


class _Latest:
    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], str] = {}

    def of(self, path: Path) -> str:
        return self.versions.get((path.name, path.fingerprint), "")
