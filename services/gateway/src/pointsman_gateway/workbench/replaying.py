"""`replay`: the journal's decisions, decided again by a configuration that does not serve yet."""

from pointsman_gateway.workbench.bench import Bench
from pointsman_gateway.workbench.history import History
from pointsman_gateway.workbench.progress import Progress
from pointsman_gateway.workbench.tally import Tally


async def replay(bench: Bench, history: History, seconds: float, examples: int, progress: Progress) -> Tally:
    """Of the last `seconds`; remembers `examples` of each change at most."""
    tally, total = Tally(examples), await history.count(seconds)
    async for recorded in history.decisions(seconds):
        tally.add(await bench.replay(recorded))
        progress("replaying", tally.decisions, max(total, tally.decisions))
    progress("replaying", tally.decisions, tally.decisions)
    return tally
