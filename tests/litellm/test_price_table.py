"""`pointsman prices import --from litellm` reads the table of the real package, and the price list agrees with it."""

from contextlib import suppress
from pathlib import Path

import yaml
from pointsman_gateway.config.field_types import ConfigError
from pointsman_lab.prices.litellm_table import read_table, to_prices
from pointsman_lab.prices.price_import import ImportOrder, import_prices

MODELS = {
    "openai": "gpt-5.4",
    "anthropic": "claude-haiku-5-5",
    "gemini": "gemini-2.5-pro",
    "mistral": "codestral-latest",
}


def test_the_price_list_has_the_prices_of_the_installed_table(tmp_path: Path) -> None:
    config = {
        "models": dict.fromkeys(MODELS.values()),
        "engines": {of: {"model": name, "provider": of, "api_key_env": "KEY"} for of, name in MODELS.items()},
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(config))
    report = import_prices(ImportOrder(tmp_path, "litellm"))
    assert report.facts["changed"] == {}
    assert set(report.facts["same"]) == set(MODELS.values())


def test_nearly_all_entries_of_chat_models_can_be_read() -> None:
    chat = {name: entry for name, entry in read_table("litellm").items() if entry.get("mode") == "chat"}
    read = 0
    for name, entry in chat.items():
        with suppress(ConfigError):
            to_prices(name, entry)
            read += 1
    assert read > 0.95 * len(chat) > 1000
