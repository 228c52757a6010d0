"""The console of a gateway before a provider and a vLLM of the user's, without a lora-server and with an unknown
price."""

import shutil
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.console.visitor import visiting
from tests.gateway.doubles.engine import answer, model_list, running_engine
from tests.gateway.doubles.process_gateway import process_gateway
from tests.gateway.doubles.valkey import running_valkey

MINIMAL = Path(__file__).parents[2] / "examples" / "minimal"
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_users_own_engines_are_shown_with_their_adapters_and_unknown_prices(
    browser: Browser, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shutil.copytree(MINIMAL, tmp_path / "config")
    async with running_engine() as provider, running_engine() as vllm, running_valkey(tmp_path / "valkey") as valkey:
        vllm.lists = lambda: model_list("llama-3.1-8b", {"triage": "/loras/triage"})
        vllm.script = lambda body: answer("refund")
        for name, value in {"OPENAI_URL": provider.url, "VLLM_URL": vllm.url, "OPENAI_API_KEY": "sk-test"}.items():
            monkeypatch.setenv(name, value)
        settings = {"embedding_model": model_folder, "redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
        async with (
            process_gateway(tmp_path, config=config, **settings) as gateway,
            visiting(browser, gateway.url, 1280) as visitor,
        ):
            await visitor.ask("Please refund my ticket from Monday, booking AB12", "chosen")
            reply = visitor.answer("triage")
            await expect(reply.locator(".text")).to_have_text("refund")
            await expect(reply.locator("[data-figure='dollars'] dd")).to_have_text("–")
            await expect(visitor.section("adapters")).to_contain_text("The adapters of engine mine: triage")
            await expect(visitor.page.locator("#standing")).to_contain_text("mine ready1 adapter, 0 in flight")
            await expect(visitor.page.locator("[data-decision]").first).to_contain_text("triage")
            assert await visitor.crowded() == []
