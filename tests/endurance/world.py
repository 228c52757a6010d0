"""Runs the help desk's services as processes that can be killed, suspended and restarted one by one."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.key_store import IssuedKey
from pointsman_servicekit.keys.records import NO_LIMITS, Limits
from pointsman_servicekit.redis_clients import open_client

from tests.endurance import measured_gateway
from tests.endurance.engines import ADAPTERS, CLAUDE, MODEL, ROOT, EngineKind
from tests.endurance.measured_gateway import FILE_VARIABLE
from tests.endurance.schedule import GATEWAYS
from tests.gateway.doubles.process_gateway import ProcessGateway, fit_classifier
from tests.gateway.doubles.process_retriever import ProcessRetriever
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.lora_server.server_process import ServerProcess
from tests.ports import free_address
from tests.security.target import MODEL as EMBEDDING_MODEL
from tests.security.target import prepare_model

EXAMPLE = ROOT / "examples" / "helpdesk"
COLLECTION = "handbook"
LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
DISK_MEGABYTES = 192
ENGINE_KEY = "ENDURANCE_ENGINE_KEY"
"""The environment variable with the API key for the engine in Anthropic's dialect."""
SPENDER_PER_MINUTE = 20
FILL_SECONDS = 240.0
"""Time limit for writing eight documents of the handbook, or a hundred older notes, on a busy machine."""
OLDER_NOTES = 2_200
"""Documents that are there from the start, more than the vectors that a gateway samples of a collection. Otherwise that
sample, and so the gateway's memory, would grow with the notes that the load adds."""
NOTES_PER_CALL = 100


@dataclass
class World:
    folder: Path
    kind: EngineKind
    valkey: Valkey
    retriever: ProcessRetriever
    lora_server: ServerProcess
    gateways: dict[str, ProcessGateway]
    targets: dict[str, str]
    """Addresses that Prometheus scrapes, by service."""
    keys: dict[str, IssuedKey] = field(default_factory=dict)
    """By gateway, the key that clients use with its current process; they use no other gateway with it."""
    key_gateways: dict[str, str] = field(default_factory=dict)
    """By key id, the gateway that it is used with; includes keys of earlier processes."""
    spender: IssuedKey | None = None
    """A key with a small budget, which clients use with all gateways."""
    versions: dict[str, list[str]] = field(default_factory=dict)
    """By adapter, the registered versions."""
    sources: dict[str, str] = field(default_factory=dict)
    """By version, its folder."""
    has_disk: bool = False
    """Whether Valkey has a disk of its own, which can be filled."""

    @property
    def config(self) -> Path:
        return self.folder / "helpdesk" / "config"

    def process(self, name: str) -> Process | Valkey:
        processes: dict[str, Process | Valkey] = {
            "retriever": self.retriever,
            "lora-server": self.lora_server,
            "valkey": self.valkey,
            **self.gateways,
        }
        return processes[name]

    def memory_file(self, name: str) -> Path | None:
        """Returns the file in which a gateway writes how much memory its data takes; None for other services."""
        return _memory_file(self.folder, name) if name in self.gateways else None

    def pid(self, name: str) -> int:
        return self.engine_pid() if name == "engine" else self.process(name).pid

    def engine_pid(self) -> int:
        """Returns the process id of the engine; 0 if the engine does not run."""
        port = str(self.lora_server.engine_port)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes().decode().split("\0")
                text = " ".join(arguments)
                is_engine = "fake_engine.py" in text or "vllm.entrypoints" in text
                if port in arguments and is_engine and "child_launcher" not in text:
                    return int(process.name)
        return 0

    async def new_key(self, gateway: str) -> None:
        """Issues a new key. From now on, the clients of this gateway use it."""
        issued = await issue(self.valkey.url, tenant=gateway)
        self.keys[gateway] = issued
        self.key_gateways[issued.record.id] = gateway

    async def upsert(self, *documents: tuple[str, str], timeout: float = 20.0) -> None:  # noqa: ASYNC109  # gRPC's
        """Writes documents, and returns once the retriever has acknowledged them. Raises AioRpcError."""
        messages = [pb.Document(id=name, title=name, text=text) for name, text in documents]
        async with open_channel(self.retriever.address) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            await stub.Upsert(pb.UpsertRequest(collection=COLLECTION, documents=messages), timeout=timeout)

    async def delete(self, names: list[str]) -> int:
        """Deletes documents, and returns how many existed."""
        async with open_channel(self.retriever.address) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            return int((await stub.Delete(pb.DeleteRequest(collection=COLLECTION, ids=names), timeout=30)).deleted)

    def step_clock(self, gateway: str, seconds: int) -> None:
        """Shifts the wall clock of a gateway's process by `seconds`; 0 removes the shift."""
        file = self.folder / f"{gateway}.clock"
        part = file.with_suffix(".part")
        part.write_text(f"{seconds:+d}\n")
        part.replace(file)  # libfaketime ends a process that reads an empty file

    async def malform_answers(self, is_on: bool) -> None:
        """Asks the scripted engine for malformed events in its answers, or for none."""
        async with (
            aiohttp.ClientSession(self.lora_server.engine_url) as session,
            session.post("/malform", json={"on": is_on}) as response,
        ):
            response.raise_for_status()

    def fill_disk(self) -> None:
        """Fills Valkey's disk with a file."""
        with (self.valkey.folder / "filler").open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
                file.flush()

    async def free_disk(self) -> None:
        """Frees Valkey's disk, and makes Valkey rewrite its append-only file, as docs/howto/backup-and-restore.md
        advises.
        """
        (self.valkey.folder / "filler").unlink(missing_ok=True)
        async with open_client(self.valkey.url) as opened:
            await opened.client.bgrewriteaof()


@asynccontextmanager
async def running_world(folder: Path, make_kind: Any, classifier: str = "") -> AsyncIterator[World]:
    """Yields the running services. `classifier` is the file of a classifier that was fitted before; if empty, one is
    fitted.
    """
    prepare_model()
    kind: EngineKind = make_kind(folder)
    shutil.copytree(EXAMPLE, folder / "helpdesk")
    async with AsyncExitStack() as stack:
        has_disk = _mount(folder / "valkey", stack)
        options = ("--auto-aof-rewrite-min-size", "16mb")
        valkey = Valkey(folder / "valkey", *options)
        await valkey.start()
        stack.callback(valkey.kill)
        retriever = ProcessRetriever(folder, EMBEDDING_MODEL)
        metrics = {"METRICS_LISTEN": free_address(), "PROBE_INTERVAL_SECONDS": "1"}
        lora_server = ServerProcess(
            folder / "lora-server", kind.base, "local", valkey.url, folder / "store", more={**metrics, **kind.settings}
        )
        _configure(folder / "helpdesk" / "config", lora_server, kind)
        if classifier:
            shutil.copy(classifier, folder / "classifier")
        else:
            fit_classifier(folder / "helpdesk" / "config", folder / "classifier")
        gateways = {name: _gateway(folder, name, valkey, retriever) for name in GATEWAYS}
        addresses = [gateway.http_address for gateway in gateways.values()]
        targets = {
            "gateway": " ".join(addresses),
            "retriever": retriever.metrics_address,
            "lora-server": metrics["METRICS_LISTEN"],
            "engine": f"127.0.0.1:{lora_server.engine_port}",
        }
        world = World(folder, kind, valkey, retriever, lora_server, gateways, targets, has_disk=has_disk)
        for process in (retriever, lora_server, *gateways.values()):
            stack.push_async_callback(_stop, process)
        await retriever.start()
        await _fill(world)
        await lora_server.start()
        await lora_server.until(lora_server.is_engine_ready, kind.start_seconds)
        await _register(world)
        world.spender = await issue(
            valkey.url, NO_LIMITS, Limits(requests_per_minute=SPENDER_PER_MINUTE), tenant="spender"
        )
        for name, gateway in gateways.items():
            world.step_clock(name, 0)
            await world.new_key(name)
            await gateway.open_clients()
        yield world


def _mount(folder: Path, stack: AsyncExitStack) -> bool:
    folder.mkdir()
    if os.geteuid() != 0:
        return False
    options = ["-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode != 0:
        return False
    stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
    return True


def _configure(config: Path, lora_server: ServerProcess, kind: EngineKind) -> None:
    models = yaml.safe_load((config / "models.yaml").read_text())
    models["engines"]["local"]["lora_server"] = lora_server.address
    if kind.is_scripted:
        models["models"][CLAUDE] = models["models"][MODEL]
        url = {"url": lora_server.engine_url, "api_key_env": ENGINE_KEY}
        models["engines"][CLAUDE] = {"model": CLAUDE, "provider": "anthropic", **url}
    (config / "models.yaml").write_text(yaml.safe_dump(models, sort_keys=False))


def _gateway(folder: Path, name: str, valkey: Valkey, retriever: ProcessRetriever) -> ProcessGateway:
    settings: dict[str, object] = {
        "config": folder / "helpdesk" / "config",
        "embedding_model": EMBEDDING_MODEL,
        "retriever": retriever.address,
        "redis_url": valkey.url,
        "classifier": folder / "classifier",
        "wal_dir": folder / f"{name}-wal",
        "auth": "on",
        "http_listen": free_address(),
        "grpc_listen": free_address(),
    }
    (folder / f"log-{name}").mkdir()
    clock = {}
    if LIBFAKETIME.exists():
        clock = {
            "LD_PRELOAD": str(LIBFAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(folder / f"{name}.clock"),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    more = {ENGINE_KEY: "x", FILE_VARIABLE: str(_memory_file(folder, name)), **(clock if name == "gateway-b" else {})}
    return ProcessGateway(folder / f"log-{name}", settings, more, ("-m", measured_gateway.__name__))


def _memory_file(folder: Path, gateway: str) -> Path:
    return folder / f"log-{gateway}" / "memory"


async def _fill(world: World) -> None:
    async with open_channel(world.retriever.address) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        await stub.CreateCollection(pb.CreateCollectionRequest(name=COLLECTION, if_missing=True))
    files = sorted((EXAMPLE / "handbook").glob("*.md"))
    for start in range(0, len(files), 8):
        documents = [(file.name, file.read_text()) for file in files[start : start + 8]]
        await world.upsert(*documents, timeout=FILL_SECONDS)
    for start in range(0, OLDER_NOTES, NOTES_PER_CALL):
        numbers = range(start, start + NOTES_PER_CALL)
        notes = [(f"older-note-{number}", f"Older note {number} of the station master.") for number in numbers]
        await world.upsert(*notes, timeout=FILL_SECONDS)


async def _register(world: World) -> None:
    for name in ADAPTERS:
        world.versions[name] = []
        for folder in world.kind.folders[name]:
            version = (await world.lora_server.register(name, folder, "prod")).version
            world.versions[name].append(version)
            world.sources[version] = str(folder)

    async def all_are_resident() -> bool:
        state = await world.lora_server.engine_state()
        return set(state.resident) >= {version for versions in world.versions.values() for version in versions}

    await world.lora_server.until(all_are_resident)


async def _stop(process: Process) -> None:
    if process.pid:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
            await process.ended(15)
    await process.kill()
    await asyncio.sleep(0)
