"""What `pointsman up` shows: its steps while they happen, then one screen on what runs where."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pointsman_cli.data_dir import Run
from pointsman_cli.up import monitoring


class Screen:
    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Shows that `name` is happening; yields what takes further words about it. Without a terminal: plain lines."""
        began = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"{name} ...")
            yield _once_each(lambda detail: self.say(f"{name}: {detail}"))
        else:
            with self._console.status(escape(name)) as status:
                yield lambda detail: status.update(f"{escape(name)} [dim]{escape(detail)}[/dim]")
        self._console.print(f"[green]ok[/green] {escape(name)} [dim]{time.monotonic() - began:.1f} s[/dim]")

    def summary(self, run: Run, adapters: Sequence[str]) -> None:
        table = Table(box=None, pad_edge=False)
        for column in ("process", "pid", "address", "log"):
            table.add_column(column, overflow="fold", justify="right" if column == "pid" else "left")
        for name, process in run.processes.items():
            table.add_row(name, str(process.pid), process.address, process.log)
        table.add_row("engine", "", run.engine, "", style="dim")
        self._console.print()
        self._console.print(table)
        self.say(f"\nadapters: {', '.join(adapters) or 'none'}")
        self.say(f"HTTP (OpenAI's API): {run.http}/v1   gRPC: {run.grpc}")
        self.say(f"console: {run.http}/console")
        if prometheus := run.processes.get(monitoring.NAME):
            self.say(f"Prometheus: http://{prometheus.address}")
        self.say("")
        self._console.print(_example_curl(run.http), markup=False, highlight=False, soft_wrap=True)
        self.say('\nor: pointsman ask "..."   pointsman route "..."   Stop with Ctrl-C.')


def _once_each(say: Callable[[str], None]) -> Callable[[str], None]:
    said: set[str] = set()

    def say_new(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return say_new


def _example_curl(url: str) -> str:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "May I bring a bicycle?"}]})
    return f"curl -i {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
