"""Provider presets: doubles that follow each provider's documented protocol accept the gateway's requests, and their
errors are converted to the gateway's matching errors."""

import importlib.util
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiohttp import web
from pointsman_gateway import bootstrap
from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.config.providers import providers
from pointsman_gateway.engines.dialects.openai.schema import parse_error
from pointsman_gateway.engines.litellm_client import load_litellm
from pydantic import ValidationError

from tests.gateway.doubles.config_folder import PRICES, ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, answer, model_card, running_engine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.http_server import serving
from tests.gateway.doubles.providers import KEY, SHAPES, TEXT, ProviderDouble, running_provider
from tests.gateway.doubles.waiting import until

NAMES = sorted(SHAPES)
LOCAL_KEYS = {"context_window": 4096, "usd_per_million_tokens": PRICES}


@dataclass
class Site:
    """A gateway with one model for each provider, named after the provider, and an engine of the user's own as the
    fallback.
    """

    providers: Mapping[str, ProviderDouble]
    http: httpx.AsyncClient
    gateway: Gateway

    async def ask(self, model: str, **more: Any) -> httpx.Response:
        return await ask(self.http, f"path:{model}", **more)


@asynccontextmanager
async def opened(neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, key: str = KEY) -> AsyncIterator[Site]:
    monkeypatch.setenv("CLOUD_KEY", key)
    async with AsyncExitStack() as stack:
        doubles = {name: await stack.enter_async_context(running_provider(name)) for name in NAMES}
        models, tasks = neighbours.config.models, neighbours.config.tasks
        for name, provider in doubles.items():
            models["models"][name] = {**LOCAL_KEYS, "upstream": provider.shape.model}
            models["engines"][name] = {
                "model": name, "provider": name, "url": provider.url, "api_key_env": "CLOUD_KEY",
                **provider.shape.engine,
            }  # fmt: skip
            neighbours.config.paths[name] = {"model": name, "max_tokens": 60, "seed": 5, "temperature": 0.5}
        tasks["chat"] |= {"policy": {"fixed": "groq"}, "fallback": ["small_talk"]}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            yield Site(doubles, http, gateway)


async def ask(http: httpx.AsyncClient, model: Any, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello, how are you today?"}], **more}
    return await http.post("/v1/chat/completions", json=body)


async def test_a_request_is_written_as_its_provider_documents_it(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(neighbours, monkeypatch) as site:
        for name, provider in site.providers.items():
            plain = await site.ask(name, logprobs=False, n=1, prompt_cache_key=None)
            assert plain.status_code == 200, (name, plain.text)
            body, cached = plain.json(), provider.shape.cached
            assert body["choices"][0]["message"]["content"] == TEXT, name
            assert (body["model"], provider.bodies[0]["model"]) == (name, provider.shape.model)
            usage = body["usage"]
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (20, 2), name
            assert usage["prompt_tokens_details"]["cached_tokens"] == cached, name
            cost = (20 - cached) * 1e-6 + cached * 0.25e-6 + 2 * 4e-6
            assert body["pointsman"]["cost_usd"] == pytest.approx(cost), name
            streamed = await site.ask(name, stream=True, stream_options={"include_usage": True})
            assert streamed.text.endswith("data: [DONE]\n\n"), (name, streamed.text)
            assert '"prompt_tokens":20' in streamed.text.replace(" ", ""), name
            assert "there" in streamed.text, name
            assert provider.urls == [provider.shape.chat] * 2, name
            sent = provider.bodies[0]
            assert 60 in (sent.get("max_tokens"), sent.get("max_completion_tokens")), name
            assert 5 in (sent.get("seed"), sent.get("random_seed")), name
            assert site.gateway.metric("pointsman_engine_attempts_total", engine=name, outcome="ok") == 2


async def test_a_wrong_key_is_named_and_the_fallback_answers(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(neighbours, monkeypatch, key="sk-wrong") as site:
        for name, provider in site.providers.items():
            refused = await site.ask(name)
            assert refused.status_code == 503, (name, refused.text)
            message = refused.json()["error"]["message"]
            assert f"engine '{name}' answered {provider.shape.unauthorized.status}" in message
            assert "check its api_key_env and provider" in message, name
        assert (await ask(site.http, "auto")).headers["x-pointsman-path"] == "small_talk"


async def test_a_provider_that_is_busy_is_left_alone_for_the_time_that_it_names(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(neighbours, monkeypatch) as site:
        for name, provider in site.providers.items():
            provider.is_busy = True
            refused = await site.ask(name)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_overloaded"), (
                name,
                refused.text,
            )
            left = site.gateway.components.engines.state(name).cooldown_left
            assert left == pytest.approx(provider.shape.wait or 0, abs=1), name
            assert site.gateway.metric("pointsman_engine_breaker_open", engine=name) == 0
        asked = len(site.providers["groq"].bodies)
        assert (await ask(site.http, "auto")).headers["x-pointsman-path"] == "small_talk"
        assert len(site.providers["groq"].bodies) == asked


async def test_a_field_that_a_provider_rejects_is_rejected_before_it_is_sent(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(neighbours, monkeypatch) as site:
        fields = [(name, "top_k") for name in NAMES if name not in ("together", "openrouter")] + [("groq", "n")]
        for name, field in fields:
            refused = await site.ask(name, **{field: 2})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter"), name
            assert site.providers[name].bodies == []


async def test_one_model_on_two_providers_is_balanced_and_outlives_one_of_them(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_KEY", KEY)
    async with running_provider("azure-deployments") as azure, running_provider("openai") as openai:
        models, key = neighbours.config.models, {"model": "cloud", "api_key_env": "CLOUD_KEY"}
        models["models"]["cloud"] = {**LOCAL_KEYS, "upstream": "gpt-4o-mini"}
        models["engines"] |= {
            "openai": {**key, "provider": "openai", "url": openai.url},
            "azure": {**key, "provider": "azure-deployments", "upstream": "my-deployment", "url": azure.url},
        }
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            for number in range(24):
                text = [{"role": "user", "content": f"{number} is a number"}]
                assert (await ask(http, "cloud", messages=text)).status_code == 200
            assert openai.bodies
            assert {body["model"] for body in azure.bodies} == {"my-deployment"}
            openai.is_down = True
            for number in range(8):
                text = [{"role": "user", "content": f"{number} is a number"}]
                answered = await ask(http, "cloud", messages=text)
                assert answered.json()["model"] == "cloud", answered.text


async def test_a_prompt_that_azures_filter_rejects_is_not_too_long(
    neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    neighbours.config.models["engines"]["cloud"] = {"model": "tiny", "url": engine.url}
    filtered = {"message": "The response was filtered", "type": None, "param": "prompt", "code": "content_filter"}
    engine.refuses(400, {"error": {**filtered, "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}}})
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        refused = (await ask(http, "tiny")).json()["error"]
        assert (refused["code"], refused["message"]) == ("engine_refused", "The response was filtered")


def loaded(folder: ConfigFolder, **engine: Any) -> Any:
    folder.models["engines"]["cloud"] = {"model": "tiny", **engine}
    return load_config(folder.write(), {}).models.engines["cloud"]


URLS = [
    ({"provider": "openai"}, "https://api.openai.com/v1/chat/completions"),
    ({"provider": "gemini"}, "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"),
    ({"provider": "mistral"}, "https://api.mistral.ai/v1/chat/completions"),
    ({"provider": "groq"}, "https://api.groq.com/openai/v1/chat/completions"),
    ({"provider": "together"}, "https://api.together.xyz/v1/chat/completions"),
    ({"provider": "openrouter"}, "https://openrouter.ai/api/v1/chat/completions"),
    ({"provider": "deepseek"}, "https://api.deepseek.com/v1/chat/completions"),
    (
        {"provider": "bedrock", "region": "eu-central-1"},
        "https://bedrock-runtime.eu-central-1.amazonaws.com/openai/v1/chat/completions",
    ),
    ({"provider": "azure", "resource": "acme"}, "https://acme.openai.azure.com/openai/v1/chat/completions"),
    (
        {"provider": "azure", "url": "https://acme.openai.azure.com/"},
        "https://acme.openai.azure.com/openai/v1/chat/comp",
    ),
    (
        {"provider": "azure-deployments", "resource": "acme", "upstream": "a b".replace(" ", "/")},
        "https://acme.openai.azure.com/openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21",
    ),
    (
        {"provider": "azure-deployments", "resource": "acme", "api_version": "2025-01-01-preview"},
        "https://acme.openai.azure.com/openai/deployments/tiny/chat/completions?api-version=2025-01-01-preview",
    ),
    ({"url": "https://api.openai.com/v1"}, "https://api.openai.com/v1/chat/completions"),
    ({"url": "http://host:8000/v1/"}, "http://host:8000/v1/chat/completions"),
    ({"url": "http://host:8000/base"}, "http://host:8000/base/v1/chat/completions"),
]


@pytest.mark.parametrize(("engine", "url"), URLS)
def test_the_url_is_that_of_the_provider_or_the_own_one(
    config_folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any], url: str
) -> None:
    monkeypatch.setenv("CLOUD_KEY", KEY)
    made = bootstrap.to_engine("cloud", loaded(config_folder, api_key_env="CLOUD_KEY", **engine))
    assert (made.url + made.api.endpoints["chat"].path).startswith(url)


def test_openais_host_is_recognized_without_its_name(config_folder: ConfigFolder) -> None:
    engine = loaded(config_folder, url="https://api.openai.com")
    assert (engine.preset_name, engine.preset.parameters) == ("openai", {"max_tokens": "max_completion_tokens"})
    assert loaded(config_folder, url="https://proxy.example").preset_name == "openai-compatible"
    assert loaded(config_folder, url="https://proxy.example", adapters="discover").preset_name == "vllm"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            {"provider": "azur", "url": "http://x"},
            "unknown provider 'azur'; did you mean 'azure'? known: anthropic, azur",
        ),
        ({"provider": "grok"}, "unknown provider 'grok'; did you mean 'groq'?"),
        (
            {"provider": "groq"},
            "provider 'groq' needs an API key: write api_key_env: GROQ_API_KEY, and set that variable",
        ),
        ({"provider": "sglang"}, "an engine has either a lora_server"),
        ({"provider": "azure", "api_key_env": "K"}, "write options: {resource: ...}, or a url"),
        ({"provider": "openai", "api_key_env": "K", "region": "x"}, "unknown option 'region'; known: none"),
        ({"provider": "azure", "api_key_env": "K", "resource": "a/b"}, "'engines.cloud.resource'"),
        (
            {"provider": "ollama", "url": "http://x", "adapters": "discover"},
            "'ollama' has no adapters; configure each as a model",
        ),
        ({"provider": "tgi", "url": "http://x", "adapters": "discover"}, "'tgi' lists no adapters: write their names"),
        ({"provider": "tgi", "lora_server": "h:1"}, "the engine of a lora_server is a vLLM or an SGLang, and no tgi"),
        ({"url": "http://x", "adapters": ["a b"]}, "'a b' is no name of an adapter"),
        ({"url": "http://x", "adapters": "find"}, "write discover, or a list of the adapters' names"),
    ],
)
def test_what_is_wrong_with_an_engine_is_named(
    config_folder: ConfigFolder, engine: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(config_folder, **engine)
    assert message in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://me:secret@host"])
def test_a_url_that_is_none_is_named_without_its_password(config_folder: ConfigFolder, url: str) -> None:
    engine = loaded(config_folder, url=url)
    with pytest.raises(ConfigError, match="engine 'cloud': ") as error:
        bootstrap.to_engine("cloud", engine)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("upstream", "is_accepted"),
    [("gpt-5-mini", False), ("o3", False), ("gpt-5-2025-08-07", False), ("gpt-4o", True), ("gpt-5-chat-latest", True)],
)
def test_a_reasoning_model_gets_no_sampling_parameters(upstream: str, is_accepted: bool) -> None:
    engine = EngineConfig(model="m", provider="openai", api_key_env="K", upstream=upstream)
    assert ("logprobs" in engine.accepted_fields.forwarded) is is_accepted
    assert ("temperature" not in engine.rejected_fields) is is_accepted
    assert "reasoning_effort" in engine.accepted_fields.forwarded


HINTS = {"service_tier": "flex", "store": True, "prompt_cache_retention": "24h", "prompt_cache_options": {"ttl": "1h"}}


@pytest.mark.parametrize(
    ("provider", "sent"),
    [
        ("openai", HINTS.keys()),
        ("azure", HINTS.keys() - {"prompt_cache_options"}),
        ("groq", {"service_tier"}),
        ("anthropic", {"service_tier"}),
        ("mistral", set()),
        ("vllm", set()),
        ("openai-compatible", set()),
    ],
)
def test_a_providers_own_fields_are_sent_to_it_alone(provider: str, sent: Any) -> None:
    fields = EngineConfig(model="m", provider=provider, url="http://127.0.0.1:1").accepted_fields
    assert fields.select(HINTS) == {name: HINTS[name] for name in sent}


def test_each_preset_is_well() -> None:
    for name, provider in providers().items():
        assert provider.api("m", {"resource": "r", "region": "r"} if provider.options else {}).endpoints["chat"], name


def test_a_provider_of_litellm_needs_its_name_and_the_extra() -> None:
    engine = EngineConfig(model="m", provider="litellm/cohere", upstream="command-r")
    assert (engine.upstream_name, engine.uses_litellm) == ("cohere/command-r", True)
    with pytest.raises(ValidationError, match="write provider: litellm/NAME"):
        EngineConfig(model="m", provider="litellm")
    with pytest.raises(ValidationError, match="did you mean 'groq'"):
        EngineConfig(model="m", provider="grog")
    if importlib.util.find_spec("litellm") is None:
        with pytest.raises(ConfigError, match=re.escape("pip install 'pointsman-gateway[litellm]'")):
            load_litellm()
    assert "litellm" not in sys.modules


async def test_sglangs_adapters_are_discovered_and_named_as_it_wants(neighbours: Neighbours) -> None:
    async with running_engine() as sglang:
        cards = [model_card("qwen", "qwen"), model_card("sql", "/loras/sql", "qwen")]
        sglang.lists = lambda: model_cards(cards)
        sglang.script = lambda body: answer(body["model"])
        models = neighbours.config.models
        models["models"]["base"] = {**LOCAL_KEYS, "upstream": "qwen"}
        models["engines"]["own"] = {"model": "base", "provider": "sglang", "url": sglang.url, "adapters": "discover"}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            await until(lambda: gateway.components.engines.get("own").ready)
            for model, sent in (("base", "qwen"), ("sql", "qwen:sql")):
                answered = (await ask(http, model)).json()
                assert (answered["model"], answered["choices"][0]["message"]["content"]) == (model, sent)


async def test_nims_adapters_are_those_with_its_model_as_their_root(neighbours: Neighbours) -> None:
    async with running_engine() as nim:
        nim.lists = lambda: model_cards([model_card("llama", "llama"), model_card("squad", "llama")])
        models = neighbours.config.models
        models["models"]["llama"] = LOCAL_KEYS
        models["engines"]["own"] = {"model": "llama", "provider": "nim", "url": nim.url, "adapters": "discover"}
        await neighbours.ready()
        async with neighbours.gateway() as gateway:
            await until(lambda: gateway.components.engines.get("own").resident == {"squad"})


async def test_adapters_of_a_server_that_lists_none_are_named_in_the_configuration(neighbours: Neighbours) -> None:
    async with running_engine() as tgi:
        tgi.script = lambda body: answer(body["model"])
        models = neighbours.config.models
        models["models"]["llama"] = LOCAL_KEYS
        models["engines"]["own"] = {"model": "llama", "provider": "tgi", "url": tgi.url, "adapters": ["a/sql"]}
        neighbours.config.paths["sql"] = {"model": "llama", "adapter": "a/sql"}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            for model, sent in (("llama", "tgi"), ("a/sql", "a/sql"), ("path:sql", "a/sql")):
                answered = await ask(http, model)
                assert answered.json()["choices"][0]["message"]["content"] == sent
            assert answered.headers["x-pointsman-kind"] == "lora"
            tgi.refuses(404, {"error": "no such adapter"})
            assert (await ask(http, "path:sql")).json()["error"]["code"] == "adapter_not_resident"
            tgi.script = lambda body: answer("back")
            assert (await ask(http, "path:sql")).status_code == 200


def test_an_adapter_that_no_engine_names_is_refused(config_folder: ConfigFolder) -> None:
    config_folder.models["models"]["llama"] = LOCAL_KEYS
    config_folder.paths["sql"] = {"model": "llama", "adapter": "sqll"}
    config_folder.models["engines"]["own"] = {"model": "llama", "url": "http://x", "adapters": ["sql"]}
    with pytest.raises(ConfigError, match="path 'sql': no engine for 'llama' has adapter 'sqll'; did you mean 'sql'"):
        load_config(config_folder.write(), {})


def model_cards(cards: list[dict[str, Any]]) -> web.Response:
    return web.json_response({"object": "list", "data": cards})


async def test_a_paths_own_parameters_apply_to_what_a_request_leaves_out(
    neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    form = {"type": "json_object"}
    neighbours.config.paths["small_talk"] |= {
        "top_p": 0.9, "seed": 7, "response_format": form, "extra_body": {"top_k": 20, "min_p": 0.1},
    }  # fmt: skip
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        await ask(http, "path:small_talk")
        given = {"top_p": 0.5, "seed": 1, "response_format": {"type": "text"}, "top_k": 3}
        await ask(http, "path:small_talk", **given)
    first, second = engine.bodies
    assert {**first, "top_p": 0.9, "seed": 7, "response_format": form, "top_k": 20, "min_p": 0.1} == first
    assert {**second, **given, "min_p": 0.1} == second


async def test_a_path_restricts_its_answers_unless_the_client_requires_another_form(
    neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    neighbours.config.paths["small_talk"] |= {"answers": ["lost_item", "refund"], "extra_body": {"top_k": 20}}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        await ask(http, "path:small_talk")
        await ask(http, "path:small_talk", response_format={"type": "json_object"})
    first, second = engine.bodies
    assert first["structured_outputs"] == {"choice": ["lost_item", "refund"]}
    assert ("structured_outputs" in second, second["top_k"]) == (False, 20)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            {"answers": ["a", "b"], "response_format": {"type": "json_object"}},
            "answers cannot be combined with response_format",
        ),
        ({"answers": ["a", "a"]}, "answers has one of them twice"),
        ({"model": "gpt", "answers": ["a"]}, "path 'p' has answers, which 'o4-mini' of provider 'openai' cannot"),
        ({"extra_body": {"topk": 2}}, "path 'p': its engines do not accept the field 'topk'; did you mean 'top_k'?"),
        ({"extra_body": {"model": "x"}}, "its engines do not accept the field 'model'"),
        ({"extra_body": {"stream": False}}, "its engines do not accept the field 'stream'"),
        ({"extra_body": {"n": 2}}, "its engines do not accept the field 'n'"),
        ({"top_p": 0}, "'paths.p.top_p'"),
        ({"model": "gpt", "temperature": 0}, "path 'p' has temperature, which 'o4-mini' of provider 'openai' does not"),
        ({"model": "gpt", "extra_body": {"top_k": 2}}, "its engines do not accept the field 'top_k'"),
    ],
)
def test_a_paths_parameter_that_its_engines_do_not_accept_is_refused(
    config_folder: ConfigFolder, path: dict[str, Any], message: str
) -> None:
    config_folder.models["models"]["gpt"] = {**LOCAL_KEYS, "upstream": "o4-mini"}
    config_folder.models["engines"]["gpt"] = {"model": "gpt", "provider": "openai", "api_key_env": "K"}
    config_folder.paths["p"] = {"model": "tiny", **path}
    with pytest.raises(ConfigError) as error:
        load_config(config_folder.write(), {})
    assert message in str(error.value)


async def test_an_answer_that_is_no_stream_is_named(neighbours: Neighbours, engine: ScriptedEngine) -> None:
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        engine.says(b"<!doctype html><title>Sign in</title>")
        message = (await ask(http, "tiny")).json()["error"]["message"]
        assert "its answer has no event of a stream" in message


async def test_a_redirect_of_a_request_is_never_followed(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_KEY", KEY)
    async with running_engine() as elsewhere, running_redirect(f"{elsewhere.url}/v1/chat/completions") as url:
        neighbours.config.models["models"]["cloud"] = LOCAL_KEYS
        neighbours.config.models["engines"]["cloud"] = {"model": "cloud", "url": url, "api_key_env": "CLOUD_KEY"}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            refused = await ask(http, "cloud")
            message = refused.json()["error"]["message"]
            assert refused.status_code == 503
            assert (
                f"answered 307, a redirect to '{elsewhere.url}/v1/chat/completions', which is not followed" in message
            )
        assert (elsewhere.bodies, elsewhere.headers) == ([], [])


@asynccontextmanager
async def running_redirect(target: str) -> AsyncIterator[str]:
    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": target})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", redirect)
    async with serving(app) as url:
        yield url


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "<html><title>Bad gateway</title>",
            "an HTML page, which begins '<html><title>Bad gateway</title>'; is its url",
        ),
        ({"detail": "no"}, '{"detail": "no"}'),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "Model is overloaded"),
        ({"object": "error", "message": "broken", "type": "internal"}, "broken"),
        ([{"error": {"message": "quota", "details": "many"}}], "quota"),
        ([], "[]"),
    ],
)
def test_an_errors_message_is_found_in_each_format(body: Any, message: str) -> None:
    written = body if isinstance(body, str) else json.dumps(body)
    assert parse_error(written.encode()).message.startswith(message)
