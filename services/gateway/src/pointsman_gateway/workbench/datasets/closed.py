"""The rows that decide on a new adapter: what is asked in them must not be learnt."""

import json
from pathlib import Path

from pointsman_gateway.config.json_lines import numbered
from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.workbench.datasets.rows import key_of, texts_of


def closed_keys(file: Path) -> set[str]:
    """Of lines with "text" or "messages", as `pointsman eval` reads them. Raises ConfigError."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the held-out rows {file} cannot be read: {error}") from error
    return {_key(f"{file}:{number}", line) for number, line in numbered(text)}


def _key(where: str, line: str) -> str:
    try:
        read = json.loads(line)
        messages = texts_of(read["messages"] if "messages" in read else [{"role": "user", "content": read["text"]}])
    except (ValueError, KeyError, TypeError, AttributeError):
        messages = None
    if messages is None:
        raise ConfigError(
            f'{where} is no held-out row: an object with a "text", or "messages" that end with the user\'s'
        )
    return key_of(messages)
