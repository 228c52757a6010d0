"""The further nodes of an engine: vLLM's workers with the settings of the first node."""

import sys
from pathlib import Path

import pytest
from pointsman_lora_server.engine.command import EngineSettings, build_command
from pointsman_lora_server.engine_bootstrap import command_for
from pointsman_lora_server.engine_node import headless, node_command
from pointsman_lora_server.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    return Settings(
        engine_python=python,
        base_model=tmp_path,
        held=32,
        engine_args="--nnodes=2 --node-rank=1 --master-addr=engine-0.engine.models",
    )


def test_a_node_runs_the_first_nodes_engine_without_its_api_server(settings: Settings) -> None:
    whole = command_for(settings, {})
    assert whole
    python, *_, model = whole.arguments[:5]
    made = node_command(settings).arguments
    assert made[:6] == (python, "-m", "vllm.entrypoints.cli.main", "serve", model, "--headless")
    assert made[6:] == whole.arguments[5:]
    assert {"--nnodes=2", "--node-rank=1", "--enable-lora"} <= {*made}


def test_nodes_hold_the_same_number_of_adapters(settings: Settings) -> None:
    with pytest.raises(ValueError, match="set POINTSMAN_LORA_HELD: all nodes"):
        node_command(settings.model_copy(update={"held": None}))


def test_an_attached_engine_has_no_nodes_here(settings: Settings) -> None:
    attached = {"engine_url": "http://vllm:8000", "engine_listen": "", "engine_args": ""}
    with pytest.raises(ValueError, match="it starts its nodes itself"):
        node_command(settings.model_copy(update=attached))


def test_another_command_is_refused() -> None:
    settings = EngineSettings(Path("python"), "127.0.0.1:1", Path("model"), "tiny", 4, 4, 8, 128)
    arguments = build_command(settings, {}, {0}).arguments
    with pytest.raises(ValueError, match="not that of vLLM's API server"):
        headless((arguments[0], "-m", "sglang.launch_server", *arguments[3:]))
