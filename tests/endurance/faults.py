"""Causes the faults and makes the changes of a run's schedule, and records in `Truth` which changes succeeded."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import grpc
import yaml
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.errors import PointsmanError

from tests.endurance.engines import ADAPTERS
from tests.endurance.load import Load
from tests.endurance.schedule import CLOCK_STEPS, Event
from tests.endurance.truth import History, Truth
from tests.endurance.world import World
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.tenancy import issue, register_at
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

DOCUMENT = "ferry.md"
NOTICE_SECONDS = 60.0
CHANGE_SECONDS = 20.0
"""Time limit of a change; later, its outcome counts as unknown."""


class Faults:
    def __init__(self, world: World, truth: Truth, load: Load) -> None:
        self._world, self._truth, self._load = world, truth, load
        self._changes: set[asyncio.Task[None]] = set()
        self._moving = asyncio.Lock()
        """Held while an alias is moved: of two simultaneous moves, nobody could tell which came last."""
        self.failed_changes = 0
        self.recovery_seconds: dict[Event, float] = {}

    async def prepare(self) -> None:
        await self._replace_document(0)
        state = await self._world.lora_server.listed()
        for alias in state.aliases:
            self._truth.aliases[alias.alias.partition("@")[0]] = History([(0.0, 0.0, alias.version)])

    def start_change(self, event: Event) -> None:
        """Starts a change in the background, because a change takes long if a service that it needs is down."""
        task = asyncio.create_task(self._change(event))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def settle(self) -> None:
        """Waits until no change is in progress."""
        if self._changes:
            await asyncio.wait(self._changes)

    async def _change(self, event: Event) -> None:
        changes: dict[str, Any] = {
            "edit configuration": self._edit_configuration,
            "promote": self._promote,
            "roll back": self._roll_back,
            "replace document": self._replace_document,
            "revoke key": self._revoke_key,
        }
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await changes[event.kind](event.number)
        except (grpc.aio.AioRpcError, PointsmanError, aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            self.failed_changes += 1

    # -- faults

    @asynccontextmanager
    async def fault(self, event: Event) -> AsyncIterator[None]:
        """Causes the fault for the duration of the block, and then waits until the service answers again."""
        if event.kind in ("kill", "pause"):
            async with self._process_fault(event):
                yield
        elif event.kind == "fill disk":
            self._world.fill_disk()
            yield
            await self._world.free_disk()
        elif event.kind == "step clock":
            self._world.step_clock(event.target, CLOCK_STEPS[event.number % len(CLOCK_STEPS)])
            yield
            self._world.step_clock(event.target, 0)
        elif event.kind == "break configuration":
            file = self._world.config / "paths.yaml"
            text = file.read_text()
            before = await self._refused_reloads()
            file.write_text(text.replace("paths:", "paths: {", 1) if event.number % 2 else text + "\n  x: {modle: y}\n")
            yield
            await self._until_refused(before)
            file.write_text(text)
        elif event.kind == "malform answers":
            await self._world.malform_answers(True)
            yield
            await self._world.malform_answers(False)
        elif event.kind == "send schemas":
            self._load.sends_schemas.set()
            yield
            self._load.sends_schemas.clear()
        else:
            raise AssertionError(event)
        began = time.monotonic()
        await self._until_ready()
        self.recovery_seconds[event] = time.monotonic() - began

    async def _refused_reloads(self) -> list[float]:
        names = {"name": "pointsman_config_reloads_total", "outcome": "refused"}
        return [await gateway.metric(**names) for gateway in self._world.gateways.values()]

    async def _until_refused(self, before: list[float]) -> None:
        """Waits until both gateways have refused the broken configuration, which may take long on a busy machine; a
        timeout is no error here.
        """

        async def is_refused() -> bool:
            return all(now > then for now, then in zip(await self._refused_reloads(), before, strict=True))

        with contextlib.suppress(TimeoutError):  # the missing alert is reported at the end
            await found(is_refused, NOTICE_SECONDS)

    @asynccontextmanager
    async def _process_fault(self, event: Event) -> AsyncIterator[None]:
        pid = self._world.pid(event.target)
        assert pid, f"{event.target} does not run"
        if event.kind == "pause":
            os.kill(pid, signal.SIGSTOP)
            yield
            with contextlib.suppress(ProcessLookupError):  # its supervisor may have replaced it
                os.kill(pid, signal.SIGCONT)
        elif event.target == "engine":
            os.kill(pid, signal.SIGKILL)  # the lora-server starts it again
            yield
        else:
            process = self._world.process(event.target)
            if isinstance(process, Valkey):
                process.kill()
            else:
                await process.kill()
            yield
            await self._start(event.target)

    async def _start(self, name: str) -> None:
        process = self._world.process(name)
        if isinstance(process, ProcessGateway):
            await self._world.new_key(name)
            await process.open_clients()
        else:
            await process.start()

    async def _until_ready(self) -> None:
        """Waits until every service answers."""
        server, seconds = self._world.lora_server, self._world.kind.start_seconds
        await server.until(server.is_engine_ready, seconds)
        for gateway in self._world.gateways.values():
            await found(partial(_is_ready, gateway), seconds)

    # -- changes

    async def _edit_configuration(self, number: int) -> None:
        file = self._world.config / "paths.yaml"
        paths = yaml.safe_load(file.read_text()) if _is_valid(file.read_text()) else None
        if paths is not None:
            paths["paths"]["fare_steps"]["max_tokens"] = 180 + number % 60
            file.write_text(yaml.safe_dump(paths, sort_keys=False))
            self._truth.edits += 1

    async def _promote(self, number: int) -> None:
        name = ADAPTERS[number % len(ADAPTERS)]
        version = self._world.versions[name][number // 2 % len(self._world.versions[name])]
        await self._move(name, version, "SetAlias", pb.SetAliasRequest(alias=f"{name}@prod", version=version))

    async def _roll_back(self, number: int) -> None:
        name = ADAPTERS[number % len(ADAPTERS)]
        await self._move(name, "", "Rollback", pb.RollbackRequest(alias=f"{name}@prod"))

    async def _move(self, name: str, version: str, method: str, request: Any) -> None:
        """Moves an alias. Until the move's outcome is known, answers of every version are allowed."""
        history = self._truth.aliases[name]
        async with self._moving:
            sent = time.monotonic()
            unknown = [(sent, float("inf"), each) for each in self._world.versions[name]]
            history.changes += unknown
            moved = await self._world.lora_server.call(method, request, comes_again=False)
            del history.changes[-len(unknown) :]
            history.changes.append((sent, time.monotonic(), moved.version))

    async def _replace_document(self, number: int) -> None:
        revision = len(self._truth.document.changes)
        text = f"Bicycles on the ferry to Gull Island travel free of charge. This is revision-{revision}- of the page."
        sent = time.monotonic()
        self._truth.document.changes.append((sent, float("inf"), f"revision-{revision}-"))
        await self._world.upsert((DOCUMENT, text))
        self._truth.document.changes[-1] = (sent, time.monotonic(), f"revision-{revision}-")

    async def _revoke_key(self, number: int) -> None:
        issued = await issue(self._world.valkey.url, tenant="temporary")
        gateway = list(self._world.gateways.values())[number % 2]
        headers = {"authorization": f"Bearer {issued.credential.text}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{gateway.url}/v1/models"):
            pass
        async with register_at(self._world.valkey.url) as register:
            await register.revoke(issued.record.id)
        self._truth.revoked[issued.credential.text] = time.monotonic()


async def _is_ready(gateway: ProcessGateway) -> bool:
    try:
        return await gateway.is_ready()
    except (aiohttp.ClientError, OSError):
        return False


def _is_valid(text: str) -> bool:
    try:
        return "x" not in yaml.safe_load(text)["paths"]
    except (yaml.YAMLError, TypeError, KeyError):
        return False
