"""With a stored classifier, the classifier and the configuration change together, or not at all."""

import asyncio
from pathlib import Path

import pytest
from pointsman_gateway.bootstrap.models import EmbeddingModels
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import AUTO, Message, Request
from pointsman_lab.fit import fit

from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.waiting import until


@pytest.fixture(scope="module")
def models(model_folder: Path) -> EmbeddingModels:
    return EmbeddingModels.load(model_folder)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return tmp_path / "classifier.artifact"


@pytest.fixture
def neighbours(neighbours: Neighbours, artifact: Path, models: EmbeddingModels) -> Neighbours:
    neighbours.settings |= {"reload_seconds": 0.05, "classifier": artifact}
    learn(neighbours, artifact, models)
    return neighbours


def learn(neighbours: Neighbours, artifact: Path, models: EmbeddingModels) -> None:
    fit(load_config(neighbours.config.write()), models, artifact, lambda phase, done, total: None)


def spoil(artifact: Path, content: bytes | None) -> None:
    artifact.unlink()
    if content is not None:
        artifact.write_bytes(content)


async def task_of(gateway: Gateway, text: str) -> str:
    return (await gateway.components.pipeline.decide(Request(AUTO, (Message("user", text),)))).decision.task


async def test_new_examples_wait_for_the_classifier_that_knows_them(
    gateway: Gateway, neighbours: Neighbours, artifact: Path, models: EmbeddingModels
) -> None:
    before = gateway.components.reloader.current.revision
    assert await task_of(gateway, IN_CHAT) == "chat"
    neighbours.config.examples["sql"] = [
        (IN_NONE, None),
        ("SELECT name FROM customer WHERE id = 7", None),
        ("DELETE FROM ticket WHERE expired", None),
        ("SELECT count(*) FROM trains GROUP BY line", None),
    ]
    neighbours.config.tasks["sql"] = {"examples": "tasks/sql.jsonl", "policy": {"fixed": "small_talk"}}
    neighbours.config.write()

    await until(lambda: "was fitted from something else" in gateway.components.reloader.status.problem)
    assert f"{artifact}" in gateway.components.reloader.status.problem
    assert "`pointsman classifier fit`" in gateway.components.reloader.status.problem
    assert gateway.components.reloader.current.revision == before
    assert await task_of(gateway, IN_CHAT) == "chat"

    await asyncio.to_thread(learn, neighbours, artifact, models)
    await until(lambda: gateway.components.reloader.current.revision != before)
    assert gateway.components.reloader.status.problem == ""
    assert await task_of(gateway, IN_NONE) == "sql"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "there is no classifier"), (b"PK\x03\x04 nonsense", "is damaged")]
)
async def test_an_invalid_classifier_file_prevents_the_start(
    neighbours: Neighbours, artifact: Path, content: bytes | None, message: str
) -> None:
    spoil(artifact, content)
    with pytest.raises(ConfigError, match=message):
        async with neighbours.gateway():
            pass
