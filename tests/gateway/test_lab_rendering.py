"""`python -m pointsman_lab render` writes training rows with the prompts that the gateway would send for them."""

import json
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import retriever_pb2
from pointsman_gateway.bootstrap.models import EmbeddingModels
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Message, Passage, Vector
from pointsman_gateway.extensions import Found
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_lab.datasets.rendering import (
    ChosenPassages,
    PathRenderer,
    QueryEmbedding,
    RenderOrder,
    TrainingRow,
    distinct,
    read_rows,
    render,
)
from pointsman_retriever.limits import MAX_QUERY_BYTES
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_NONE, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.gateway import Neighbours, open_http_client

LATE = "The night train to Saltby was two hours late, what do I get?"
MANY = [("bicycles.md", "Bicycles ride free."), ("dogs.md", "Dogs pay half."), ("bicycles.md", "Tandems pay 10 euros.")]


@pytest.fixture
def models(model_folder: Path) -> EmbeddingModels:
    return EmbeddingModels.load(model_folder)


def row(text: str, output: str = "x", document: str = "") -> TrainingRow:
    return TrainingRow((Message("user", text),), {"output": output}, document)


@pytest.mark.parametrize("path", ["triage_few_shot", "handbook", "letter", "safe_start", "triage_adapter"])
@pytest.mark.parametrize("text", [LATE, IN_NONE])
async def test_a_rendered_row_has_the_messages_that_the_gateway_sends(
    neighbours: Neighbours, models: EmbeddingModels, path: str, text: str
) -> None:
    neighbours.retriever.passages = [retriever_pb2.Passage(document_id=d, title=d, text=t, score=0.9) for d, t in MANY]
    await neighbours.ready()
    body = {"model": f"path:{path}", "messages": [{"role": "user", "content": text}]}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        (await http.post("/v1/chat/completions", json=body)).raise_for_status()
    async with open_channel(neighbours.retriever.address) as channel:
        passages = ChosenPassages(RetrieverClient(channel, lambda: models.encoder.fingerprint), seed=7)
        config = load_config(neighbours.config.folder)
        rendered = await PathRenderer(config, path, passages, QueryEmbedding(models)).render(row(text, "an answer"))
    answer = {"role": "assistant", "content": "an answer"}
    assert rendered == {"messages": [*neighbours.engine.bodies[-1]["messages"], answer]}


class KnownPassages:
    """A retriever (implements `Search`) that finds the passages of `MANY` for every query."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        return Found(tuple(Passage(document, document, text, 0.9) for document, text in MANY[:top_k]), False)


def renderer(folder: ConfigFolder, path: str, models: EmbeddingModels, seed: int) -> tuple[PathRenderer, Any]:
    passages = ChosenPassages(KnownPassages(), seed)
    return PathRenderer(load_config(folder.write()), path, passages, QueryEmbedding(models)), passages


async def test_a_row_is_not_among_its_own_examples(config_folder: ConfigFolder, models: EmbeddingModels) -> None:
    rendering, _ = renderer(config_folder, "triage_few_shot", models, seed=7)
    messages = (await rendering.render(row(IN_TRIAGE)))["messages"]
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3]
    assert [message["content"] for message in messages].count(IN_TRIAGE) == 1


async def test_a_prompt_shows_the_documents_passage_with_the_answer_and_one_in_five_does_not(
    config_folder: ConfigFolder, models: EmbeddingModels
) -> None:
    rendering, passages = renderer(config_folder, "handbook", models, seed=7)
    asked = row("What does a tandem cost?", "10 euros", document="bicycles.md")
    systems = []
    for _ in range(100):
        passages.begin(asked)
        systems.append((await rendering.render(asked))["messages"][0]["content"])
    right = [system for system in systems if "Tandems pay 10 euros." in system]
    assert 70 < len(right) < 90
    assert all("Dogs pay half." in system for system in systems)
    assert not any("Bicycles ride free." in system for system in systems)
    assert passages.counts == {"with the right passage": len(right), "without the right passage": 100 - len(right)}


class FoundByAnswerAlone:
    """A retriever (implements `Search`) that finds the right document only by the answer, not by the question."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        assert len(query.encode()) < MAX_QUERY_BYTES
        found = MANY if "10 euros" in query else [("dogs.md", "Dogs pay half.")]
        return Found(tuple(Passage(document, document, text, 0.9) for document, text in found), True)


@pytest.mark.parametrize("ending", ["Have a good day.", "é" * MAX_QUERY_BYTES])
async def test_a_passage_that_only_the_answer_finds_is_shown(
    config_folder: ConfigFolder, models: EmbeddingModels, ending: str
) -> None:
    passages = ChosenPassages(FoundByAnswerAlone(), seed=7, share_without=0)
    rendering = PathRenderer(load_config(config_folder.write()), "handbook", passages, QueryEmbedding(models))
    asked = row("What must I pay for it?", f"Dear sir,\n\nTandems pay 10 euros. {ending}", document="bicycles.md")
    passages.begin(asked)
    system = (await rendering.render(asked))["messages"][0]["content"]
    assert "Tandems pay 10 euros." in system
    assert "Dogs pay half." in system
    assert passages.counts == {"with the right passage": 1}


async def test_an_evaluation_row_and_a_row_of_an_unknown_document_show_what_is_found(
    config_folder: ConfigFolder, models: EmbeddingModels
) -> None:
    rendering, passages = renderer(config_folder, "handbook", models, seed=7)
    for begun in (None, row("?")):
        passages.begin(begun)
        system = (await rendering.render(row("?")))["messages"][0]["content"]
        assert system == "Answer from the handbook.\n\nNothing found."  # the retriever says: not relevant


def messages_of(file: str) -> list[Any]:
    return [json.loads(line)["messages"] for line in Path(file).read_text().splitlines()]


async def test_files_are_rendered_without_rows_that_are_held_out_or_left_to_another_path(
    config_folder: ConfigFolder, models: EmbeddingModels, tmp_path: Path
) -> None:
    config_folder.paths["handbook"]["strategies"][1]["retrieval"]["on_empty"] = "next_path"
    config_folder.tasks["policy"]["fallback"] = ["small_talk"]
    data, held_out = tmp_path / "data.jsonl", tmp_path / "held.jsonl"
    lines: list[dict[str, Any]] = [
        {"text": "A tandem?", "output": {"euros": 10}, "document": "bicycles.md"},
        {"text": "A dog?", "output": "half", "document": "dogs.md"},
        {"text": " a DOG? ", "output": "half"},
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Wren."}]},
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    held_out.write_text(json.dumps({"text": "a dog?", "output": "half"}))
    rendering, passages = renderer(config_folder, "handbook", models, seed=7)
    order = RenderOrder("handbook", data, held_out, tmp_path / "out", seed=7)
    report = await render(order, rendering, passages, lambda *_: None)
    (trained,) = messages_of(report.facts["training"])
    assert [message["content"] for message in trained[1:]] == ["A tandem?", '{"euros": 10}']
    (checked,) = messages_of(report.facts["evaluation"])
    assert [message["content"] for message in checked[1:]] == ["a dog?", "half"]
    assert report.facts["counts"]["repeated or held out"] == 2
    assert report.facts["counts"]["left to the next path"] == 1


def about_tandems(folder: Path, document: str) -> RenderOrder:
    data = folder / "data.jsonl"
    data.write_text(json.dumps({"text": "A tandem?", "output": "10 euros", "document": document}) + "\n")
    return RenderOrder("handbook", data, None, folder / "out", seed=7)


async def test_documents_that_are_never_found_are_reported_with_an_id_that_is(
    config_folder: ConfigFolder, models: EmbeddingModels, tmp_path: Path
) -> None:
    order, (rendering, passages) = about_tandems(tmp_path, "bicycles"), renderer(config_folder, "handbook", models, 7)
    with pytest.raises(ConfigError, match=r"\('bicycles' in the first one\); it found only others, such as '\w+\.md'"):
        await render(order, rendering, passages, lambda *_: None)


async def test_a_document_needs_to_be_in_one_of_the_paths_collections(
    config_folder: ConfigFolder, models: EmbeddingModels, tmp_path: Path
) -> None:
    order, (rendering, passages) = (
        about_tandems(tmp_path, "bicycles.md"),
        renderer(config_folder, "handbook", models, 7),
    )
    passages.counts["right passage not found"] = 1  # by the search in another collection
    report = await render(order, rendering, passages, lambda *_: None)
    assert report.facts["counts"]["right passage not found"] == 1


def test_preference_pairs_are_rendered_and_a_prompt_may_have_several() -> None:
    pairs = [TrainingRow((Message("user", "Hi"),), {"chosen": "a", "rejected": worse}) for worse in ("b", "c", "b")]
    assert len(distinct(pairs, set())) == 2
    assert pairs[0].rendered((Message("system", "S"), Message("user", "Hi"))) == {
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
        "chosen": "a",
        "rejected": "b",
    }


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "a"}', '{"prompt": "a", "chosen": "b"}', '{"messages": 3}'])
def test_a_bad_row_is_reported_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"text": "a", "output": "b"}}\n{line}\n')
    with pytest.raises(ConfigError, match=r"rows.jsonl:2 is not a training row: {\"text\", \"output\"}"):
        read_rows(file)


def test_an_unknown_path_is_reported_with_the_known_ones(config_folder: ConfigFolder, models: EmbeddingModels) -> None:
    with pytest.raises(ConfigError, match="there is no path 'none'; known: handbook, "):
        renderer(config_folder, "none", models, seed=7)
