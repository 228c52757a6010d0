"""Checks that an example that was added to a package can be used wherever extensions of its kind can.

Each check runs in a process of its own, with a folder for its files, and raises an error if the example does not work.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import retriever_pb2 as pb

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.retriever.client import Client


def _schema(entry: str) -> str:
    from pointsman_gateway.config.paths_file import PathsFile
    from pointsman_gateway.config.tasks_file import TasksFile

    definitions = PathsFile.model_json_schema()["$defs"] | TasksFile.model_json_schema()["$defs"]
    return str(definitions[entry])


def _load(folder: ConfigFolder) -> Any:
    from pointsman_gateway import bootstrap
    from pointsman_gateway.config.load import load_config

    config = load_config(folder.write(), {})
    bootstrap.check_config(config)
    return config


def _refusal(folder: ConfigFolder) -> str:
    from pointsman_gateway.config.field_types import ConfigError

    with pytest.raises(ConfigError) as refused:
        _load(folder)
    return str(refused.value)


def check_policy(work: str, model: str) -> None:
    from tests.gateway.doubles.extensions import Situation

    folder = ConfigFolder(Path(work))
    options = {"short": "triage_adapter", "long": "triage_few_shot"}
    folder.tasks["triage"]["policy"] = {"by_length": options}
    policy = _load(folder).tasks.tasks["triage"].policy
    assert policy.build().plan(Situation()).paths == ("triage_adapter",)
    assert "'by_length'" in _schema("PolicyConfig")
    folder.tasks["triage"]["policy"] = {"by_lenght": options}
    assert "use one of best_value, by_length, " in _refusal(folder)


def check_strategy(work: str, model: str) -> None:
    folder = ConfigFolder(Path(work))
    folder.paths["small_talk"]["strategies"] = [{"today": "%A"}]
    (strategy,) = _load(folder).paths.paths["small_talk"].strategies
    assert strategy.implementation.__name__ == "Today"
    assert "'today'" in _schema("StrategyConfig")


def check_validator(work: str, model: str) -> None:
    from pointsman_gateway.extensions import Choice

    folder = ConfigFolder(Path(work))
    folder.tasks["triage"]["validators"] = [{"max_words": 1}]
    (validator,) = _load(folder).tasks.tasks["triage"].validators
    assert validator.build().objection(Choice("two words"))
    assert "'max_words'" in _schema("ValidatorConfig")


def check_guardrail(work: str, model: str) -> None:
    from pointsman_gateway.bootstrap.validation import to_guardrails

    folder = ConfigFolder(Path(work))
    folder.rest_of_tasks["guardrails"] = [{"name": "words", "check": {"forbidden_words": ["x"]}, "action": "redact"}]
    (guardrail,) = to_guardrails(_load(folder), None)
    assert type(guardrail.guardrail).__name__ == "ForbiddenWords"
    assert "'forbidden_words'" in _schema("GuardrailCheck")


def check_metric(work: str, model: str) -> None:
    from pointsman_gateway.bootstrap.shadowing import ActiveShadowSettings
    from pointsman_scoring import METRICS, metric_from, spec_from_text

    folder = ConfigFolder(Path(work))
    shadow = {"paths": ["triage_few_shot"], "usd_per_day": 1.0, "rate_by": "right_answers"}
    folder.tasks["triage"] |= {"metric": {"close_to": 0.5}, "shadow": shadow}
    assert "takes request_log: {store_messages: true}" in _refusal(folder)
    folder.rest_of_tasks["request_log"] = {"store_messages": True}
    shadowing = ActiveShadowSettings()
    shadowing.apply_config(_load(folder))
    assert shadowing.scores["triage"]("4.4", "4") == 1
    assert "'close_to'" in _schema("MetricConfig")
    folder.tasks["triage"]["metric"] = {"close_to": "near"}
    assert "the metric of task 'triage': metric close_to: could not convert" in _refusal(folder)
    assert metric_from(spec_from_text("close_to=0.5")).score("4.6", "4") == 0
    assert "close_to" in METRICS


def check_training_method(work: str, model: str) -> None:
    from pointsman_lora_server.jobs.job import JobEnvironment
    from pointsman_lora_server.jobs.method import MethodFacts, describe_method
    from pointsman_lora_server.training.methods import installed_methods
    from pointsman_lora_server.training.options import parse

    environment = JobEnvironment(Path(work), Path(sys.executable), Path(work), "tiny", {}, installed_methods())
    assert asyncio.run(describe_method(environment, "gaussian_lora")) == MethodFacts(False, False)
    options = parse(
        ["--base-model", ".", "--data", "x", "--out", "out", "--name", "triage", "--method", "gaussian_lora"]
    )
    assert options.method.peft_options() == {"init_lora_weights": "gaussian"}
    assert options.recipe.learning_rate == 1e-3


def check_vector_store(work: str, model: str) -> None:
    async def search(client: Client) -> None:
        assert await client.found("kitten", dense_weight=1.0) == ["cat", "train"]

    asyncio.run(_with_documents(search, work, model, vector_store="numpy"))


def check_external_store(work: str, model: str) -> None:
    rows = Path(work) / "rows.jsonl"
    rows.write_text('{"body": "the cat", "page": "cat.md"}\n{"body": "the train", "page": "train.md"}\n')
    config = Path(work) / "pointsman.yaml"
    fields = "{text: body, source: page}"
    config.write_text(f"collections: {{pages: {{store: json_lines, url: {rows}, fields: {fields}}}}}")

    async def search(client: Client) -> None:
        assert await client.found("the train", collection="pages") == ["train.md", "cat.md"]
        assert (await client.collection("pages")).documents == 2

    asyncio.run(_with_documents(search, work, model, collections=str(config)))


def check_reranker(work: str, model: str) -> None:
    async def search(client: Client) -> None:
        request = pb.SearchRequest(collection="notes", query="the train", rerank=True, explain=True)
        passages = (await client.stub.Search(request)).passages
        assert [passage.explanation.rerank_score for passage in passages] == [2, 1]

    asyncio.run(_with_documents(search, work, model, reranker_api="word_overlap"))


async def _with_documents(search: Callable[[Client], Awaitable[None]], work: str, model: str, **settings: str) -> None:
    """Calls `search` with a client of a retriever, whose collection `notes` has two documents."""
    from pointsman_embedding import MiniLM
    from pointsman_retriever import bootstrap
    from pointsman_retriever.settings import Settings
    from pointsman_servicekit.grpc_client import open_channel

    listen = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
    own = Settings.model_validate({**listen, "data": Path(work), "embedding_model": Path(model), **settings})
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(bootstrap.run_service(own, MiniLM.load(Path(model))))
        channel = await stack.enter_async_context(open_channel(running.address))
        client = Client(running.address, running.metrics_port, channel)
        await client.create()
        await client.upsert(pb.Document(id="cat", text="the cat"), pb.Document(id="train", text="the train"))
        await search(client)
