"""Fixtures: a real gateway whose task `triage` has a metric, and whose engine answers as `engine_script` says."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import Script, ScriptedEngine, running_engine
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours
from tests.gateway.doubles.lora_server import running_lora_server
from tests.gateway.doubles.retriever import running_retriever


@pytest.fixture
async def neighbours(tmp_path: Path, model_folder: Path, engine_script: Script) -> AsyncIterator[Neighbours]:
    config = ConfigFolder(tmp_path / "config")
    config.tasks["triage"]["metric"] = {"exact": True}
    async with running_engine() as engine, running_lora_server() as lora_server, running_retriever() as retriever:
        engine.script = engine_script
        # Tests call `reload`; at the same time, a reload by the watch could put an older configuration in its place.
        settings = {"embedding_model": model_folder, "reload_seconds": 3600}
        yield Neighbours(engine, lora_server, retriever, config, settings)


@pytest.fixture
def triage() -> str:
    """The version of the adapter that answers the task."""
    return TRIAGE


@pytest.fixture
async def gateway(neighbours: Neighbours, triage: str) -> AsyncIterator[Gateway]:
    await neighbours.ready(triage)
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
def engine(neighbours: Neighbours) -> ScriptedEngine:
    return neighbours.engine
