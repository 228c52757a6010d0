"""Follows a job on the screen that a local training has."""

from rich.console import Console

from pointsman_cli.errors import CommandError
from pointsman_cli.jobs import calls
from pointsman_cli.train.events import Remark, as_event
from pointsman_cli.train.screen import TrainingScreen


async def follow(address: str, job: str, name: str, console: Console) -> None:
    """To its end; raises `CommandError` where that is no success."""
    with TrainingScreen(console, name) as screen:
        async for kind, facts in calls.watch(address, job):
            screen.show(as_event(kind, facts) or Remark(f"{kind}: {facts}"))
    if screen.state is None or screen.state.state in ("queued", "running"):
        raise CommandError(f"the lora-server stopped; {job} goes on when it is back: `pointsman jobs watch {job}`")
    if screen.state.state != "succeeded":
        raise CommandError(f"{job} {screen.state.state}: {screen.state.facts.get('error', 'it was stopped')}")
