"""The gateway's adapter admin client for the console, with a complete lora-server and a real Valkey."""

import pytest
from pointsman_gateway.domain.path import AliasMove
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient
from pointsman_servicekit.errors import FailedPrecondition, NotFound, Unavailable
from pointsman_servicekit.grpc_client import open_channel

from tests.lora_server.server_process import MakeAdapter, RunLoraServer


async def test_adapters_are_listed_promoted_given_a_canary_and_rolled_back(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora, open_channel(lora.address) as channel:
        await lora.until_ready()
        desk = AdapterAdminClient(channel)
        first = (await lora.register("triage", make_adapter(), "prod")).version
        second = (await lora.register("triage", make_adapter("other", seed=1))).version
        states = {version.version: version.state for version in (await desk.list_adapters()).versions}
        assert states == {first: "serving", second: "warm"}

        tried = await desk.set_canary(AliasMove("triage@prod", second, first, "console", weight=0.25))
        assert (tried.version, tried.canary_version, tried.canary_weight) == (first, second, 0.25)
        with pytest.raises(FailedPrecondition) as late:
            await desk.set_alias(AliasMove("triage@prod", first, "triage@000000000000", "console"))
        assert late.value.code == "alias_moved"
        moved = await desk.set_alias(AliasMove("triage@prod", second, first, "console"))
        assert (moved.version, moved.canary_version, moved.previous) == (second, "", first)
        back = await desk.roll_back(AliasMove("triage@prod", "", second, "console", reason="worse on refunds"))
        assert back.version == first
        with pytest.raises(NotFound):
            await desk.set_alias(AliasMove("triage@prod", "triage@000000000000", "", "console"))

        book = await desk.list_adapters()
        assert [(change.kind, change.author) for change in book.changes][:3] == [
            ("rollback", "console"), ("alias", "console"), ("canary", "console")
        ]  # fmt: skip
        assert (book.changes[0].reason, book.changes[0].after) == ("worse on refunds", first)
        assert [(alias.alias, alias.version) for alias in book.aliases] == [("triage@prod", first)]


async def test_an_unreachable_lora_server_is_unavailable() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable) as away:
            await AdapterAdminClient(channel).list_adapters()
    assert away.value.code == "lora_server_unavailable"
