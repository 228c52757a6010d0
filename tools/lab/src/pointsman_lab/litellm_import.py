"""The `import` command: translates LiteLLM's config.yaml, and lists every value that has no equivalent."""

import re
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pointsman_gateway.config.example_files import read_text
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import SINGLE_FILE, load_config
from pointsman_gateway.config.providers import find_price, providers
from pointsman_servicekit import strict_yaml, yaml_variables

from pointsman_lab.litellm_advice import (
    KEY_LIMITS,
    NOT_UNDERSTOOD,
    PROVIDERS,
    LiteLlmConfig,
    Location,
    find_problem,
    provider_and_name,
    unknown_provider,
)
from pointsman_lab.prices.litellm_table import TOKEN_PRICES
from pointsman_lab.report import Report, Section
from pointsman_lab.starter import DEFAULT_CONTEXT_WINDOW

REPORT_FILE = "import.txt"
STARTER_TASKS = {
    "writing": ["Rewrite this paragraph in plain English", "Draft a short mail that declines an invitation"],
    "question": ["What is the capital of Norway?", "Why is the sky blue?"],
}
"""Two tasks, each with examples, for requests with `model: auto`, since LiteLLM's configuration describes no tasks."""


_VARIABLES = "Environment variables that it reads; check them if others wrote the file"


def import_litellm(file: Path, folder: Path) -> Report:
    """Translates `file`, LiteLLM's config.yaml, to pointsman.yaml in `folder`; also writes and returns the report.

    Raises ConfigError if `file` cannot be read, has no model that can be translated, or has no valid translation;
    OSError if the folder cannot be written.
    """
    source = LiteLlmConfig(_read(file))
    config = _Translation(source).config()
    written = yaml.safe_dump(config, sort_keys=False, width=120, allow_unicode=True)
    # Whatever it stands for is a text.
    written = re.sub(r"(?<=: )(\$\{\w+\})$", r'"\1"', written, flags=re.MULTILINE)
    text = f"# Translated from LiteLLM's {file.name}; {REPORT_FILE} lists what has no equivalent.\n{written}"
    _check(text)
    remaining = list(source.remaining())
    counts = f"{len(config['models'])} models on {len(config['engines'])} engines"
    page = [Section(f"{folder / SINGLE_FILE} is written", (counts,))]
    if remaining:
        rows = tuple(remaining)
        page.append(Section("Not translated, or not as it stands", (), ("value", "what to do"), rows))
    else:
        page.append(Section("Everything is translated"))
    if source.variables:
        rows = tuple((name, ", ".join(sorted(uses))) for name, uses in sorted(source.variables.items()))
        page.append(Section(_VARIABLES, (), ("environment variable", "for"), rows))
    if source.commands:
        page.append(Section("To run once the gateway runs with POINTSMAN_GATEWAY_AUTH=on", tuple(source.commands)))
    page.append(Section("To start it", (f"pointsman up {folder}",)))
    report = Report({"models": [*config["models"]], "remaining": remaining, "commands": source.commands}, tuple(page))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SINGLE_FILE).write_text(text, "utf-8")
    (folder / REPORT_FILE).write_text(report.as_text(), "utf-8")
    return report


def _read(file: Path) -> dict[str, Any]:
    try:
        content = strict_yaml.load(read_text(file))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_list"), list):
        raise ConfigError(f"{file} has no model_list, so it is no config.yaml of LiteLLM's proxy")
    escaped: dict[str, Any] = yaml_variables.escape(content)  # LiteLLM replaces no ${VARIABLE}
    return escaped


def _check(text: str) -> None:
    with tempfile.TemporaryDirectory() as trial:
        Path(trial, SINGLE_FILE).write_text(text, "utf-8")
        variables = re.findall(r"\$\{([A-Z0-9_]+)\}", text)
        try:
            load_config(
                Path(trial), {name: "2024-10-21" if "VERSION" in name else "http://host.invalid" for name in variables}
            )
        except ConfigError as error:
            raise ConfigError(f"the translation is not valid: {str(error).replace(trial, '')}") from error


class _Translation:
    def __init__(self, source: LiteLlmConfig) -> None:
        self._source = source
        self._models: dict[str, dict[str, Any]] = {}
        self._engines: dict[str, dict[str, Any]] = {}
        self._paths: dict[str, dict[str, Any]] = {}
        self._has_prices = False

    def config(self) -> dict[str, Any]:
        for number, entry in enumerate(self._source.content["model_list"]):
            if isinstance(entry, dict):
                self._add_entry(number)
        if not self._models:
            raise ConfigError("model_list has no chat model that can be translated; see docs/engines.md for a start")
        self._add_fallbacks()
        resilience, cache = self._resilience(), self._cache()
        self._add_commands()
        default = next(iter(self._paths))
        return {
            **({"prices_as_of": date.today()} if self._has_prices else {}),
            "models": self._models,
            "engines": self._engines,
            **({"aliases": aliases} if (aliases := self._aliases()) else {}),
            **({"resilience": resilience} if resilience else {}),
            **cache,
            "paths": self._paths,
            "default_path": default,
            "tasks": {
                name: {"policy": {"fixed": default}, "examples": [*rows]} for name, rows in STARTER_TASKS.items()
            },
        }

    # -- model_list

    def _add_entry(self, number: int) -> None:
        """Adds the engine of one entry of LiteLLM's model_list, and a model if no earlier entry has its name."""
        at, take = ("model_list", number), self._source.take
        name, upstream = take(*at, "model_name"), take(*at, "litellm_params", "model")
        mode = take(*at, "model_info", "mode", kind=str) or "chat"
        stated = take(*at, "litellm_params", "custom_llm_provider", kind=str)
        url = self._variable(take(*at, "litellm_params", "api_base", kind=str) or "", "a URL")
        prefix, bare = provider_and_name(str(upstream), stated, url)
        problem = find_problem(name, upstream, mode) or unknown_provider(prefix)
        if problem:
            self._source.notes[(*at, "model_name")] = f"{name}: {problem}"
            return
        name = re.sub(r"\s+", "-", name)
        engine = self._engine(at, prefix, bare, url)
        price = self._price(at, engine)
        model = self._models.setdefault(name, {})
        if not model:
            model |= self._model(at, engine, name, price)
            self._paths[_unique(name, self._paths)] = {"model": name, **self._sampling(at)}
        elif price and price != model.get("usd_per_million_tokens"):
            note = f"a model has one price; to keep {price}, give this engine a model name of its own"
            self._source.notes[(*at, "litellm_params", "input_cost_per_token")] = note
        self._engines[_unique(name, self._engines)] = {"model": name, **engine}

    def _engine(self, at: Location, prefix: str, upstream: str, url: str) -> dict[str, Any]:
        version = self._variable(self._source.take(*at, "litellm_params", "api_version") or "", "a version")
        provider, key_env = PROVIDERS[prefix]
        if provider == "azure" and version:
            provider = "azure-deployments"
        preset = providers()[provider]
        key = self._source.take(*at, "litellm_params", "api_key", kind=str)
        engine = {"provider": provider, "upstream": upstream}
        if url or not preset.url:
            engine["url"] = url or "http://localhost:11434"
        if provider == "azure-deployments":
            engine["api_version"] = version
        if key or preset.key_env:
            engine["api_key_env"] = variable = self._key_variable(at, key, key_env)
            self._source.add_variable(variable, f"the key that is sent to {url or provider}")
        return engine

    def _variable(self, text: Any, use: str) -> str:
        """Returns a text in which LiteLLM's reference to an environment variable has Pointsman's form, `${NAME}`."""
        found = re.fullmatch(r"os\.environ/([A-Za-z0-9_]+)", str(text))
        if not found:
            return str(text)
        self._source.add_variable(found[1], use)
        return f"${{{found[1]}}}"

    def _key_variable(self, at: Location, key: str | None, usual: str) -> str:
        found = re.fullmatch(r"os\.environ/(\w+)", key or "")
        if found:
            return found[1]
        if key:
            note = f"the key itself is not copied: set the environment variable {usual} to it"
            self._source.notes[(*at, "litellm_params", "api_key")] = note
        return usual

    def _price(self, at: Location, engine: Mapping[str, Any]) -> dict[str, float] | None:
        """Returns the prices per million tokens in a model's entry of LiteLLM's configuration; None if it has none."""
        sections = ("litellm_params", "model_info")
        taken = [[self._source.take(*at, of, name, kind=float) for of in sections] for name in TOKEN_PRICES]
        stated = [next((cost for cost in both if cost is not None), None) for both in taken]
        costs = dict(zip(TOKEN_PRICES.values(), stated, strict=True))
        if costs["prompt"] is None or costs["completion"] is None:
            return None
        self._has_prices = True
        if costs["cached"] is None:
            costs["cached"] = costs["prompt"]
        return {kind: round(cost * 1e6, 6) for kind, cost in costs.items() if cost is not None}

    def _model(
        self, at: Location, engine: Mapping[str, Any], name: str, price: dict[str, float] | None
    ) -> dict[str, Any]:
        info = (*at, "model_info")
        windows = [self._source.take(*info, key, kind=float) for key in ("max_input_tokens", "max_tokens")]
        takes_images = self._source.take(*info, "supports_vision")
        listed = find_price(engine["provider"], (engine["upstream"], name))
        model: dict[str, Any] = {"input": ["text", "image"]} if takes_images else {}
        window = next((int(window) for window in windows if window), None)
        if window or not listed:
            model["context_window"] = window or DEFAULT_CONTEXT_WINDOW
        if not window and not listed:
            self._source.notes[(*info, "max_input_tokens")] = f"not stated: {DEFAULT_CONTEXT_WINDOW} is written"
        if price or not listed:
            model["usd_per_million_tokens"] = price or "unknown"
        return model

    def _sampling(self, at: Location) -> dict[str, Any]:
        """Returns the default parameters of the path; a model that is named directly has none."""
        note = "applies to path:NAME; a request that names the model itself states its own"
        names = ("temperature", "max_tokens", "top_p", "seed", "stop")
        found = {name: self._source.take(*at, "litellm_params", name, note=note) for name in names}
        if isinstance(found["stop"], str):
            found["stop"] = [found["stop"]]
        return {name: value for name, value in found.items() if value is not None}

    # -- the other sections

    def _first(self, *names: str, kind: type) -> Any:
        """Returns the first of several alternative settings of LiteLLM, and counts all of them as translated."""
        sections = ("router_settings", "litellm_settings")
        found = [self._source.take(of, name, kind=kind) for name in names for of in sections]
        return next((value for value in found if value is not None), None)

    def _add_fallbacks(self) -> None:
        for row in self._first("fallbacks", kind=list) or []:
            if not isinstance(row, dict) or not all(isinstance(others, list) for others in row.values()):
                self._source.notes["fallbacks", str(row)] = f"{NOT_UNDERSTOOD}: {{MODEL: [OTHER MODELS]}} is expected"
                continue
            for name, others in row.items():
                self._add_fallback(name, others)
        for name in self._models:
            others = self._first("default_fallbacks", kind=list) or []
            if "fallback" not in self._models[name]:
                self._add_fallback(name, [other for other in others if other != name])

    def _add_fallback(self, name: str, others: list[Any]) -> None:
        known = [other for other in others if isinstance(other, str) and other in self._models and other != name]
        if len(known) < len(others) or name not in self._models:
            note = f"{name} -> {others}: only models that are translated can be fallbacks"
            self._source.notes["fallbacks", name] = note
        if known and name in self._models:
            self._models[name]["fallback"] = known

    def _resilience(self) -> dict[str, Any]:
        retries, fails, cooldown, first_token, idle = (
            self._first(*names, kind=float)
            for names in (
                ("num_retries",),
                ("allowed_fails",),
                ("cooldown_time",),
                ("timeout", "request_timeout"),
                ("stream_timeout",),
            )
        )
        breaker: dict[str, Any] = {}
        if fails is not None:
            breaker["consecutive_failures"] = int(fails) + 1
        if cooldown:
            breaker["open_duration_seconds"] = min(cooldown, 600.0)
            breaker["max_open_duration_seconds"] = max(min(cooldown, 3600.0), 30.0)
        timeouts = {
            name: min(seconds, 3600.0)
            for name, seconds in (("first_token_seconds", first_token), ("stream_idle_seconds", idle))
            if seconds
        }
        parts = {
            "timeouts": timeouts,
            "breaker": breaker,
            "retries": {} if retries is None else {"max_retries": min(int(retries), 10)},
        }
        return {name: part for name, part in parts.items() if part}

    def _cache(self) -> dict[str, Any]:
        if not self._source.take("litellm_settings", "cache"):
            return {}
        note = "the answers of paths are cached (path:NAME and auto), those of models that are named directly are not"
        self._source.notes["litellm_settings", "cache"] = note
        ttl = self._source.take("litellm_settings", "cache_params", "ttl", kind=float)
        for path in self._paths.values():
            path["cache"] = {"exact": True, **({"ttl_seconds": int(ttl)} if ttl else {})}
        self._has_prices = True
        return {"cache": {"usd_per_hit": 0}}

    def _aliases(self) -> dict[str, str]:
        written = self._source.take("router_settings", "model_group_alias", kind=dict) or {}
        aliases = {}
        for alias, target in written.items():
            name = target.get("model") if isinstance(target, dict) else target
            if name in self._models and alias not in self._models:
                aliases[alias] = name
            else:
                self._source.notes["router_settings", "model_group_alias", alias] = f"{name} is not translated"
        return aliases

    def _add_commands(self) -> None:
        for section in ("default_key_generate_params", "default_team_params", "default_internal_user_params"):
            self._add_limits(("litellm_settings", section), "keys create NAME --tenant TEAM")
        self._add_limits(("litellm_settings",), "keys limit --tenant TEAM")

    def _add_limits(self, at: Location, command: str) -> None:
        """Adds a `pointsman keys` command that sets the limits of one section of LiteLLM's configuration."""
        options = [
            f"{option} {value:.12g}"
            for name, option in KEY_LIMITS.items()
            if (value := self._source.take(*at, name, kind=float)) is not None
        ]
        per = str(self._source.take(*at, "budget_duration") or "30d")
        budget = self._source.take(*at, "max_budget", kind=float)
        if budget is not None:
            monthly = re.fullmatch(r"30d|1mo|\d+mo", per)
            options.append(f"--dollars-per-{'month' if monthly else 'day'} {budget:.12g}")
            if not monthly and per not in ("1d", "24h"):
                self._source.notes[(*at, "budget_duration")] = f"{per}: budgets are by day or month, UTC"
        if options:
            self._source.commands.append(f"pointsman {command} {' '.join(options)}")


def _unique(name: str, others: Mapping[str, Any]) -> str:
    """Returns a name for a model's path or engine that differs from the others."""
    short = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:56] or "model"
    names = (short, *(f"{short}-{number}" for number in range(2, len(others) + 3)))
    return next(candidate for candidate in names if candidate not in others)
