"""The lora-server reads its settings from environment variables, and rejects invalid ones."""

from pathlib import Path

import pytest
from pointsman_lora_server.engine.vllm_client import EngineFacts
from pointsman_lora_server.engine_bootstrap import adapter_limit, with_context_window
from pointsman_lora_server.machine import MAX_DEFAULT_HELD, default_held
from pointsman_lora_server.settings import Settings
from pydantic import ValidationError


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_LORA_PROTECTED_ALIASES", "prod, live,")
    monkeypatch.setenv("POINTSMAN_LORA_DATA_ROOTS", "/srv/data:/home/ann")

    settings = Settings()

    assert settings.protected_aliases == {"prod", "live"}
    assert settings.data_roots == (Path("/srv/data"), Path("/home/ann"))


def test_protected_aliases_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_LORA_PROTECTED_ALIASES", "")

    assert Settings().protected_aliases == frozenset()


def test_by_default_prod_is_protected_and_versions_are_smoke_tested() -> None:
    assert (Settings().protected_aliases, Settings().smoke_test) == ({"prod"}, "process")


@pytest.mark.parametrize(
    ("key", "value"), [("SMOKE_TEST", "perhaps"), ("MAX_LORAS", "0"), ("HELD", "0"), ("PROBE_INTERVAL_SECONDS", "0")]
)
def test_invalid_settings_are_rejected(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    monkeypatch.setenv(f"POINTSMAN_LORA_{key}", value)

    with pytest.raises(ValidationError, match=key.lower()):
        Settings()


@pytest.mark.parametrize("listen", ["0.0.0.0:8101", "[::]:8101", ":8101"])
def test_an_engine_on_all_interfaces_needs_a_public_url(listen: str) -> None:
    with pytest.raises(ValueError, match="POINTSMAN_LORA_ENGINE_URL is needed"):
        Settings(engine_listen=listen)
    assert Settings(engine_listen=listen, engine_url="http://10.0.0.5:8101").public_url == "http://10.0.0.5:8101"


def test_fewer_held_versions_than_a_batch_can_use_are_refused() -> None:
    with pytest.raises(
        ValueError, match="POINTSMAN_LORA_HELD \\(3\\) must be at least POINTSMAN_LORA_MAX_LORAS \\(4\\)"
    ):
        Settings(held=3, max_loras=4)
    assert Settings(held=4, max_loras=4).held == 4


@pytest.mark.parametrize(
    ("free_gib", "held"),
    [
        (0, 4),  # at least as many as in one batch
        (4, 102),
        (16, 409),
        (512, MAX_DEFAULT_HELD),
    ],
)
def test_by_default_a_quarter_of_the_free_memory_holds_adapters(free_gib: int, held: int) -> None:
    assert default_held(adapter_bytes=10 << 20, max_loras=4, free_bytes=free_gib << 30) == held


@pytest.mark.parametrize(
    ("held", "facts", "limit"),
    [
        (1000, None, 1000),
        (1000, EngineFacts(frozenset()), 1000),
        (1000, EngineFacts(frozenset(), held=800), 800),
        (100, EngineFacts(frozenset(), held=800), 100),
        (None, EngineFacts(frozenset(), held=800), MAX_DEFAULT_HELD),
        (None, EngineFacts(frozenset(), max_loras=8), 8),
        (None, None, 4),
    ],
)
def test_an_attached_engine_holds_as_many_versions_as_settings_and_engine_allow(
    held: int | None, facts: EngineFacts | None, limit: int
) -> None:
    assert adapter_limit(Settings(engine_url="http://10.0.0.5:8101", held=held, max_loras=4), facts) == limit


def test_the_context_window_may_be_the_base_models_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 131072}}')
    unset = Settings(base_model=tmp_path, max_model_len=0)

    assert with_context_window(unset).max_model_len == 131072
    assert with_context_window(Settings(base_model=tmp_path)).max_model_len == 4096


def test_a_context_window_that_nothing_states_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ValueError, match=r"MAX_MODEL_LEN is 0, but .*config\.json states no context window"):
        with_context_window(Settings(base_model=tmp_path, max_model_len=0))
    with pytest.raises(ValueError, match="state the context window of the attached engine"):
        with_context_window(Settings(engine_url="http://10.0.0.5:8101", max_model_len=0))
