"""Writes the configuration of `pointsman up --engine URL`, from the models that the engine or provider lists."""

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from pointsman_servicekit.http_client import open_client
from pointsman_servicekit.yaml_variables import escape

from pointsman_cli.data_dir import DataDir, make_private
from pointsman_cli.errors import UsageError
from pointsman_cli.example import EXAMPLE_FILE

LIST_SECONDS = 10.0
MAX_LIST_BYTES = 4 * 1024 * 1024
MAX_MODELS = 200
DEFAULT_CONTEXT_WINDOW = 128_000
"""The context window, in tokens, of models for which the engine states none; clients see it, and it is not enforced."""
PREFERRED = ("gpt-4o-mini", "gpt-4.1-mini", "mistral-small-latest", "gemini-2.5-flash", "deepseek-chat")
"""Names of models by preference: the first one that the engine lists becomes the default model.

`--model` overrides this choice.
"""
_NOT_FOR_CHAT = re.compile(
    r"embed|whisper|tts|dall-e|image|audio|realtime|moderation|transcribe|sora|davinci|babbage|rerank|search", re.I
)
_NAME = re.compile(r"[!-~]{1,200}")

HEADING = """\
# Written anew by each start. To change it, copy this file to a folder and start that:
# pointsman up FOLDER
"""


@dataclass(frozen=True, slots=True)
class EngineOption:
    """The inference engine that the user names by `pointsman up --engine`: its URL, API key variable and models."""

    url: str
    key_env: str = ""
    """The name of the environment variable with the API key; empty: no key is sent."""
    models: tuple[str, ...] = ()
    """The names of the models to use; empty: the chat models that the engine lists."""


def write_engine_config(option: EngineOption, data_dir: DataDir) -> Path:
    """Lists the engine's models, and writes a configuration for them; returns the folder of the configuration.

    Raises UsageError if the URL is invalid, the variable with the API key is not set, the models cannot be listed, or
    none of them can be used; OSError if the file cannot be written.
    """
    url = base_url(option.url)
    if option.key_env and not os.environ.get(option.key_env):
        raise UsageError(f"--key-env {option.key_env}: that environment variable is not set")
    listed = list_models(url, option.key_env)
    config = engine_config(url, option, listed)
    folder = data_dir.folder / "engine"
    make_private(data_dir.folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = yaml.safe_dump(escape(config), sort_keys=False, width=120)  # the engine chose the names
    (folder / EXAMPLE_FILE).write_text(HEADING + written, encoding="utf-8")
    return folder


def base_url(url: str) -> str:
    """Returns the engine's URL without a slash or `/v1` at its end.

    Raises UsageError if the URL is not an http:// or https:// URL with a host and without a query.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query
    except ValueError:  # of its port, or of an IPv6 address
        is_valid = False
    if not is_valid:
        raise UsageError(f"--engine is '{url}'; it should be a URL such as http://localhost:8000")
    return url.rstrip("/").removesuffix("/v1")


def list_models(url: str, key_env: str) -> Sequence[Mapping[str, Any]]:
    """Returns the entries of an engine's /v1/models that have an `id`; `url` is the base URL without /v1.

    `key_env` names the environment variable with the API key, which must be set; empty: none. Raises UsageError if the
    list cannot be read within LIST_SECONDS, is a redirect or larger than MAX_LIST_BYTES, or is not in OpenAI's format.
    """
    headers = {"authorization": f"Bearer {os.environ[key_env]}"} if key_env else {}
    try:
        with (
            open_client(timeout=LIST_SECONDS, trust_env=False) as client,
            client.stream("GET", f"{url}/v1/models", headers=headers) as response,
        ):
            body, deadline = b"", time.monotonic() + LIST_SECONDS
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_LIST_BYTES:
                    raise UsageError(f"{url}/v1/models is larger than {MAX_LIST_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise UsageError(f"{url}/v1/models is not complete after {LIST_SECONDS:g} s")
            if response.status_code != 200:
                raise UsageError(_rejection(url, response))
            found = httpx.Response(200, content=body).json()["data"]
            return [dict(entry) for entry in found if isinstance(entry["id"], str)]
    except httpx.HTTPError as error:
        problem = f"{url}/v1/models cannot be read: {error or type(error).__name__}"
        raise UsageError(f"{problem}; start the engine, or check the host and port of --engine") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{url}/v1/models is no list of models in OpenAI's format") from error


def _rejection(url: str, response: httpx.Response) -> str:
    answered = f"{url}/v1/models answered {response.status_code}"
    if response.is_redirect:
        return f"{answered}, a redirect to {response.headers.get('location', '?')[:200]}, which is not followed"
    if response.status_code in (401, 403):
        return f"{answered}: name the variable with the right key with --key-env"
    return f"{answered}; is --engine an OpenAI-compatible API?"


def engine_config(url: str, option: EngineOption, listed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the content of pointsman.yaml for an engine, with at most MAX_MODELS models.

    `listed` is what `list_models` returns. Raises UsageError if the option names a model that is not listed, or names
    none and no listed model is for chat.
    """
    bases = {entry["id"]: entry for entry in listed if not entry.get("parent")}
    names = list(option.models) or chat_models(bases)
    unknown = [name for name in names if name not in bases]
    if unknown:
        raise UsageError(f"{url} lists no model '{unknown[0]}'; it lists: {', '.join(sorted(bases)[:20]) or 'none'}")
    if not names:
        raise UsageError(f"{url} lists no model for chat; name one with --model")
    names = names[:MAX_MODELS]
    default = next((name for name in PREFERRED if name in names and not option.models), names[0])
    engines: dict[str, Any] = {}
    for number, name in enumerate(names):
        key = {"api_key_env": option.key_env} if option.key_env else {}
        adapters = {"adapters": "discover"} if _may_have_adapters(bases[name], listed) else {}
        engines[f"engine-{number}"] = {"model": name, "url": url, **key, **adapters}
    return {
        "models": {
            name: {"context_window": _context_window(bases[name]), "usd_per_million_tokens": "unknown"}
            for name in names
        },
        "engines": engines,
        "paths": {"default": {"model": default}},
        "default_path": "default",
    }


def chat_models(listed: Iterable[str]) -> list[str]:
    """Returns the names of the models in `listed` that seem to be for chat.

    Leaves out names in which one of the strings of `_NOT_FOR_CHAT`, such as "embed", occurs anywhere and in any case,
    and names that are not 1 to 200 visible ASCII characters.
    """
    return [name for name in listed if _NAME.fullmatch(name) and not _NOT_FOR_CHAT.search(name)]


def _may_have_adapters(base: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> bool:
    return base.get("owned_by") == "vllm" or any(entry.get("parent") == base["id"] for entry in listed)


def _context_window(base: Mapping[str, Any]) -> int:
    length = base.get("max_model_len")
    return length if isinstance(length, int) and length > 0 else DEFAULT_CONTEXT_WINDOW
