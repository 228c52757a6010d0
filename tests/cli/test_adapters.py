"""`pointsman adapters` with a small lora-server that stores its changes, over real gRPC."""

import asyncio
import getpass
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_cli.adapters.tables import adapters_table
from pointsman_servicekit.errors import FailedPrecondition, NotFound
from rich.console import Console

OLD, NEW, THIRD = "triage@111111111111", "triage@222222222222", "triage@333333333333"
PROD = "triage@prod"
PATIENCE = 30.0


class LoraServer(lora_server_pb2_grpc.LoraServerServicer):
    """A lora-server that stores versions, aliases and a history; its errors have the real server's texts."""

    def __init__(self) -> None:
        self.versions: dict[str, pb.AdapterVersion] = {}
        self.aliases: dict[str, pb.Alias] = {}
        self.placements: dict[str, pb.Placement] = {}
        self.changes: list[pb.Change] = []
        self.asked: list[Any] = []
        self.engine = pb.EngineState(engine="local", status=pb.ENGINE_STATUS_READY, resident=[OLD], sequence=1)

    async def Register(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        aliases = [f"{request.name}@{request.alias}"] if request.alias else []
        self._keep(pb.AdapterVersion(version=f"{request.name}@333333333333", name=request.name, aliases=aliases))
        return self.versions[f"{request.name}@333333333333"]

    async def List(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        versions = [each for each in self.versions.values() if request.name in ("", each.name)]
        return pb.ListAdaptersResponse(
            versions=versions, aliases=self.aliases.values(), placements=self.placements.values()
        )

    async def Get(self, request: Any, context: Any) -> Any:
        alias = self.aliases.get(request.version)
        return self._known(alias.version if alias else request.version)

    async def SetAlias(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        self._known(request.version)
        alias = self.aliases.setdefault(request.alias, pb.Alias(alias=request.alias))
        if request.expected_version not in ("", alias.version):
            raise FailedPrecondition(f"'{PROD}' points to {alias.version}", code="alias_moved")
        alias.previous, alias.version, alias.revision = alias.version, request.version, alias.revision + 1
        return alias

    async def SetCanary(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        alias = self.aliases[request.alias]
        alias.canary_version, alias.canary_weight, alias.revision = request.version, request.weight, alias.revision + 1
        return alias

    async def Rollback(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        alias = self.aliases[request.alias]
        alias.version, alias.previous, alias.revision = alias.previous, alias.version, alias.revision + 1
        return alias

    async def Pin(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        self._known(request.version).pinned = request.pinned
        return self._known(request.version)

    async def SetPlacement(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        self.placements[request.placement.name] = request.placement
        return request.placement

    async def Retire(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if request.version in (alias.version for alias in self.aliases.values()):
            raise FailedPrecondition(f"{request.version} is in use by {PROD}; move it first", code="in_use")
        self._known(request.version).state = pb.ADAPTER_STATE_RETIRED
        return self._known(request.version)

    async def Delete(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        self._known(request.version)
        del self.versions[request.version]
        return pb.DeleteAdapterResponse()

    async def History(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return pb.HistoryResponse(changes=self.changes[: request.limit])

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        last_sent = None
        while True:
            if last_sent != self.engine:
                last_sent = pb.EngineState.FromString(self.engine.SerializeToString())
                yield last_sent
            await asyncio.sleep(0.01)

    def _known(self, version: str) -> pb.AdapterVersion:
        if version not in self.versions:
            raise NotFound(f"no version or alias '{version}' is registered", code="unknown_version")
        return self.versions[version]

    def _keep(self, version: pb.AdapterVersion) -> None:
        self.versions[version.version] = version


@pytest.fixture
def server() -> LoraServer:
    """A server with two versions, and an alias to the older one."""
    server = LoraServer()
    server.versions[OLD] = pb.AdapterVersion(
        version=OLD,
        name="triage",
        state=pb.ADAPTER_STATE_SERVING,
        aliases=[PROD, "triage@beta"],
        pinned=True,
        rank=8,
        bytes=10_276_044,
        created_unix_ms=1_795_000_000_000,
        metrics={"heldout_exact": 0.27, "prompt_path_exact": 0.17},
        facts={"seed": "7"},
        author="ann",
        base_model="smollm2-135m",
        target_modules=["q_proj", "v_proj"],
    )
    server.versions[NEW] = pb.AdapterVersion(
        version=NEW,
        name="triage",
        state=pb.ADAPTER_STATE_FAILED,
        last_error="model.layers.0.self_attn.q_proj.lora_B has a value that is not finite; train it anew",
        last_error_code="not_finite",
        rank=8,
        bytes=10_276_044,
        created_unix_ms=1_795_000_060_000,
        parent=OLD,
        aliases=[PROD],
    )
    server.aliases[PROD] = pb.Alias(
        alias=PROD, version=OLD, revision=3, canary_version=NEW, canary_weight=0.05, previous=THIRD
    )
    return server


@pytest.fixture
def address(server: LoraServer, grpc_server: Callable[..., str]) -> str:
    return grpc_server(
        "pointsman.v1.LoraServer", lambda grpc: lora_server_pb2_grpc.add_LoraServerServicer_to_server(server, grpc)
    )


@pytest.fixture
def adapters(cli: Callable[..., Any], address: str, tmp_path: Path) -> Callable[..., Any]:
    return lambda *arguments: cli("adapters", *arguments, "--lora-server", address, "--data-dir", tmp_path)


def test_the_list_fits_a_terminal_of_80_columns(server: LoraServer, capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Console(force_terminal=True, width=80, color_system=None)
    terminal.print(adapters_table(list(server.versions.values()), list(server.aliases.values())), crop=False)

    shown = capfd.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "has a value that is not finite; train it anew (not_finite)" in " ".join(shown.split())


def test_the_list_shows_states_and_aliases(adapters: Any) -> None:
    shown = adapters("list")

    assert shown.code == 0
    lines = shown.out.splitlines()
    (error,) = [line for line in lines if "not finite" in line]  # whole, since this is no terminal
    assert max(len(line) for line in lines if line != error) <= 80
    (old,) = [line for line in lines if line.startswith(f"{OLD}  serving")]
    assert "prod, beta, pinned" in old
    assert old.split()[-3:] == ["9.8", "2026-11-18", "11:06"]
    assert any(line.startswith(f"{NEW}  failed   prod 0.05") for line in lines)
    assert error.endswith("has a value that is not finite; train it anew (not_finite)")
    prod = next(number for number, line in enumerate(lines) if line.startswith(PROD))
    assert [line.split() for line in lines[prod:]] == [[PROD, OLD, "0.95", THIRD], [NEW, "0.05"]]


def test_the_list_as_json_has_everything(adapters: Any) -> None:
    listed = json.loads(adapters("list", "--json").out)

    old, new = listed["versions"]
    assert (old["version"], old["state"], old["pinned"], old["bytes"]) == (OLD, "serving", True, 10_276_044)
    assert old["metrics"] == {"heldout_exact": 0.27, "prompt_path_exact": 0.17}
    assert (new["state"], new["error_code"], new["parent"]) == ("failed", "not_finite", OLD)
    assert listed["aliases"] == [
        {"alias": PROD, "version": OLD, "revision": 3, "canary": {"version": NEW, "weight": 0.05}, "previous": THIRD}
    ]


def test_the_list_of_an_unknown_adapter_is_reported_as_empty(adapters: Any) -> None:
    assert adapters("list", "chat").out == "no adapters\n"


def test_a_version_is_shown_in_full_by_its_name_or_by_an_alias(adapters: Any) -> None:
    for name in (OLD, PROD):
        shown = adapters("show", name)
        assert shown.code == 0
        for part in (OLD, "serving", "rank 8, 9.8 MiB", "heldout_exact 0.27", "seed 7", "q_proj, v_proj", "ann"):
            assert part in shown.out

    assert "not_finite" in adapters("show", NEW).out
    assert json.loads(adapters("show", NEW, "--json").out)["error_code"] == "not_finite"


def test_the_servers_error_message_is_shown(adapters: Any) -> None:
    unknown = adapters("show", "triage@nothing")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == "error: no version or alias 'triage@nothing' is registered (unknown_version)\n"

    in_use = adapters("retire", OLD)
    assert (in_use.code, in_use.err) == (1, f"error: {OLD} is in use by {PROD}; move it first (in_use)\n")


def test_an_unreachable_server_is_named(cli: Any, tmp_path: Path) -> None:
    shown = cli("adapters", "list", "--lora-server", "127.0.0.1:1", "--data-dir", tmp_path)

    assert shown.code == 1
    assert "lora-server cannot be reached" in shown.err


def test_an_adapter_is_registered_with_its_metadata(adapters: Any, server: LoraServer, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()

    shown = adapters(
        "register", "triage", folder, "--alias", "beta", "--fact", "seed=7", "--fact", "note=a=b", "--init-from", OLD,
        "--force",
    )  # fmt: skip

    assert (shown.code, shown.out) == (0, "registered as triage@333333333333 (triage@beta)\n")
    (asked,) = server.asked
    assert asked == pb.RegisterRequest(
        name="triage",
        folder=str(folder),
        alias="beta",
        facts={"seed": "7", "note": "a=b"},
        parent=OLD,
        author=getpass.getuser(),
        force=True,
    )


@pytest.mark.parametrize("source", ["/on/the/pods/claim/triage", "s3://loras/triage", "hf://acme/triage@v2/best"])
def test_absolute_folders_and_urls_are_passed_to_the_lora_server_unchecked(
    adapters: Any, server: LoraServer, source: str
) -> None:
    adapters("register", "triage", source)
    (asked,) = server.asked
    assert asked.folder == source


def test_invalid_arguments_are_rejected_before_any_call(adapters: Any, server: LoraServer, tmp_path: Path) -> None:
    for arguments, word in (
        (("register", "triage", "none"), "is not a folder here"),
        (("register", "triage", tmp_path, "--fact", "seed"), "KEY=VALUE"),
        (("canary", PROD), "--end"),
        (("canary", PROD, NEW, "--end"), "--end"),
        (("canary", PROD, NEW, "--weight", "0"), "above 0"),
        (("canary", PROD, NEW, "--weight", "nan"), "above 0"),
        (("history", "--limit", "0"), "limit"),
    ):
        shown = adapters(*arguments)
        assert (shown.code, shown.out) == (2, "")
        assert word in shown.err

    assert server.asked == []


def test_an_alias_is_changed_only_from_the_expected_version(adapters: Any, server: LoraServer) -> None:
    moved = adapters("promote", "triage@beta", NEW, "--author", "bob")
    assert (moved.code, moved.out) == (0, f"triage@beta points to {NEW} (revision 1)\n")
    assert server.asked[-1].author == "bob"

    refused = adapters("promote", PROD, NEW, "--if-version", NEW)
    assert (refused.code, refused.err) == (1, f"error: '{PROD}' points to {OLD} (alias_moved)\n")


def test_a_canary_is_started_with_its_terms_and_ended(adapters: Any, server: LoraServer) -> None:
    begun = adapters("canary", PROD, NEW, "--weight", "0.25", "--min-requests", "50", "--max-latency-ratio", "2")
    assert begun.out == f"{PROD} points to {OLD}, and for 0.25 of its users to {NEW} (revision 4)\n"
    asked = server.asked[-1]
    assert asked.terms == pb.CanaryTerms(min_requests=50, max_latency_ratio=2)

    ended = adapters("canary", PROD, "--end")
    assert ended.out == f"{PROD} points to {OLD} (revision 5)\n"
    assert (server.asked[-1].version, server.asked[-1].weight) == ("", 0)


def test_a_rollback_prints_the_aliases_new_version(adapters: Any, server: LoraServer) -> None:
    server.aliases[PROD] = pb.Alias(alias=PROD, version=NEW, previous=OLD, revision=7)

    shown = adapters("rollback", PROD, "--reason", "wrong answers")

    assert shown.out == f"{PROD} points to {OLD} (revision 8)\n"
    assert (server.asked[-1].reason, server.asked[-1].author) == ("wrong answers", getpass.getuser())


def test_an_adapter_is_placed_on_some_engines_on_demand_or_on_all(adapters: Any, server: LoraServer) -> None:
    assert adapters("set-replicas", "triage", "2").out == "replicas of triage: 2 copies\n"
    assert (server.asked[-1].placement.copies, server.asked[-1].HasField("expected")) == (2, False)
    assert "replicas of triage: 2 copies" in adapters("list").out
    assert json.loads(adapters("list", "--json").out)["placements"] == {"triage": "2 copies"}
    assert (
        adapters("set-replicas", "triage", "on-demand", "--if-replicas", "2").out == "replicas of triage: on demand\n"
    )
    assert server.asked[-1].expected.copies == 2
    assert adapters("set-replicas", "triage", "auto").out == "replicas of triage: by demand\n"
    assert adapters("set-replicas", "triage", "all").out == "replicas of triage: all engines\n"


@pytest.mark.parametrize("words", ["0", "none", "1.5"])
def test_an_invalid_placement_is_rejected_with_the_valid_forms(adapters: Any, server: LoraServer, words: str) -> None:
    output = adapters("set-replicas", "triage", words)
    assert output.code != 0
    assert (
        f"'{words}' is not a number of replicas; use all, auto, on-demand, or a number of engines from 1" in output.err
    )
    assert server.asked == []


def test_a_version_is_pinned_unpinned_retired_and_deleted(adapters: Any, server: LoraServer) -> None:
    assert adapters("pin", NEW).out == f"{NEW} is pinned\n"
    assert server.versions[NEW].pinned
    assert adapters("unpin", NEW).out == f"{NEW} is not pinned\n"
    assert not server.versions[NEW].pinned
    assert adapters("retire", NEW, "--reason", "worse").out == f"{NEW} is retired\n"
    assert server.asked[-1].reason == "worse"
    assert server.versions[NEW].state == pb.ADAPTER_STATE_RETIRED
    assert adapters("delete", NEW).out == f"{NEW} is deleted\n"
    assert NEW not in server.versions


def test_the_history_shows_change_author_and_reason(adapters: Any, server: LoraServer) -> None:
    server.changes = [
        pb.Change(
            id="2-0",
            at_unix_ms=1_795_000_060_000,
            kind="rollback",
            subject=PROD,
            before=f"{OLD}, {NEW} at 0.05",
            after=OLD,
            author="pointsman",
            reason="error rate 0.31 of 40 against 0.00 of 58",
        ),
        pb.Change(id="1-0", at_unix_ms=1_795_000_000_000, kind="registered", subject=NEW, after="registered"),
    ]

    assert adapters("history", "triage").out.splitlines() == [
        f"2026-11-18 11:07:40  rollback  {PROD}  by pointsman",
        f"  {OLD}, {NEW} at 0.05 -> {OLD}",
        "  error rate 0.31 of 40 against 0.00 of 58",
        f"2026-11-18 11:06:40  registered  {NEW}",
        "  nothing -> registered",
    ]
    assert (server.asked[-1].name, server.asked[-1].limit) == ("triage", 20)
    (newest,) = json.loads(adapters("history", "--limit", "1", "--json").out)
    assert (newest["kind"], newest["at_unix_ms"], newest["author"]) == ("rollback", 1_795_000_060_000, "pointsman")


Watching = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def watching(address: str, tmp_path: Path) -> Iterator[Watching]:
    """Starts `adapters watch` in its own process."""
    started: list[subprocess.Popen[bytes]] = []

    def start(output: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pointsman_cli", "adapters", "watch"]
        options = ["--lora-server", address, "--data-dir", str(tmp_path)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        started.append(subprocess.Popen([*command, *options], stdout=output, stderr=output, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


class Output:
    """Reads from a file descriptor as data arrives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""
        os.set_blocking(descriptor, False)

    def until(self, part: str) -> str:
        """Waits until the output contains `part`, and returns the whole output so far."""
        deadline = time.monotonic() + PATIENCE
        while part not in self._text:
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {part}; but {self._text}"
            try:
                self._text += os.read(self._descriptor, 65536).decode()
            except BlockingIOError:
                time.sleep(0.01)
        return self._text


def test_watch_prints_each_change_until_interrupted(watching: Watching, server: LoraServer) -> None:
    reading, writing = os.pipe()
    process = watching(writing)
    output = Output(reading)
    output.until(f"engine local is ready, holds {OLD}")
    output.until(f"{NEW} failed")

    server.versions[NEW].state = pb.ADAPTER_STATE_VALIDATING
    output.until(f"{NEW} validating")
    server.engine.resident.append(NEW)
    output.until(f"engine local is ready, holds {OLD}, {NEW}")
    del server.versions[NEW]
    output.until(f"{NEW} is gone")

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    os.close(reading)
    os.close(writing)


def test_on_a_terminal_watch_redraws_one_page(watching: Watching, server: LoraServer) -> None:
    reading, writing = pty.openpty()
    process = watching(writing)
    output = Output(reading)
    shown = output.until("in use as")
    assert "serving" in shown

    server.versions[OLD].state = pb.ADAPTER_STATE_DRAINING
    output.until("draining")

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    os.close(reading)
    os.close(writing)


def test_watch_ends_immediately_if_the_server_is_unreachable(cli: Any, tmp_path: Path) -> None:
    shown = cli("adapters", "watch", "--lora-server", "127.0.0.1:1", "--data-dir", tmp_path)

    assert shown.code == 1
    assert "cannot be reached" in shown.err
