"""Reads LiteLLM's configuration: its providers, and advice on every value that is not translated."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

PROVIDERS = {
    "openai": ("openai", "OPENAI_API_KEY"),
    "text-completion-openai": ("openai", "OPENAI_API_KEY"),
    "azure": ("azure", "AZURE_API_KEY"),
    "gemini": ("gemini", "GEMINI_API_KEY"),
    "anthropic": ("anthropic", "ANTHROPIC_API_KEY"),
    "mistral": ("mistral", "MISTRAL_API_KEY"),
    "groq": ("groq", "GROQ_API_KEY"),
    "together_ai": ("together", "TOGETHERAI_API_KEY"),
    "openrouter": ("openrouter", "OPENROUTER_API_KEY"),
    "deepseek": ("deepseek", "DEEPSEEK_API_KEY"),
    "ollama": ("ollama", "OLLAMA_API_KEY"),
    "ollama_chat": ("ollama", "OLLAMA_API_KEY"),
    "hosted_vllm": ("vllm", "HOSTED_VLLM_API_KEY"),
    "vllm": ("vllm", "HOSTED_VLLM_API_KEY"),
    **dict.fromkeys(
        ("openai_like", "custom_openai", "litellm_proxy", "lm_studio", "llamafile"),
        ("openai-compatible", "ENGINE_API_KEY"),
    ),
}
"""LiteLLM's prefix of a model -> (Pointsman's name of the provider, the variable that has its API key in LiteLLM)."""

KEY_LIMITS = {
    "tpm_limit": "--tokens-per-minute",
    "rpm_limit": "--requests-per-minute",
    "max_parallel_requests": "--max-concurrency",
}

_METRICS = "Prometheus metrics and OpenTelemetry are built in (docs/tracing.md, docs/howto/grafana.md)"
_REDIS = "set POINTSMAN_GATEWAY_REDIS_URL (docs/resilience.md)"
_ENGINE_LIMIT = "engines have no limit of their own; a 429 is sent to another engine; limit callers with pointsman keys"
_FALLBACK = "fallback applies to every failure before the first token, and no list applies to one kind of failure"
_BUILT_IN = "not needed: built in"

ADVICE = {
    **dict.fromkeys(("callbacks", "success_callback", "failure_callback", "service_callback"), _METRICS),
    **dict.fromkeys(("redis_host", "redis_port", "redis_password", "redis_url", "redis_ssl"), _REDIS),
    **dict.fromkeys(("rpm", "tpm", "max_parallel_requests"), _ENGINE_LIMIT),
    **dict.fromkeys(("weight", "order", "routing_strategy"), "engines are balanced by prefix cache and load"),
    **dict.fromkeys(("context_window_fallbacks", "content_policy_fallbacks"), _FALLBACK),
    **dict.fromkeys(("drop_params", "modify_params"), "a parameter that an engine rejects is an error, or ignored"),
    **dict.fromkeys(("set_verbose", "json_logs", "debug"), "set POINTSMAN_GATEWAY_LOG_LEVEL, _LOG_FORMAT"),
    **dict.fromkeys(("enable_pre_call_checks", "health_check_interval", "background_health_checks"), _BUILT_IN),
    "master_key": "set POINTSMAN_GATEWAY_AUTH=on, and make keys with pointsman keys create (docs/keys.md)",
    "database_url": "keys, limits and usage are in Redis; " + _REDIS,
    "environment_variables": "export it in the gateway's environment; values are not copied",
    "guardrails": "guardrails (docs/guardrails.md)",
    "mcp_servers": "no equivalent: tools belong to the client",
    "include": "import that file too",
    "timeout": "an engine's timeouts: engines.NAME.timeouts.first_token_seconds",
    "stream_timeout": "an engine's timeouts: engines.NAME.timeouts.stream_idle_seconds",
    "provider_budget_config": "budgets belong to keys and tenants: pointsman keys limit",
    "cache_params": "answers are cached in the gateway's Redis, or POINTSMAN_GATEWAY_CACHE_REDIS_URL (docs/cache.md)",
    "max_retries": "resilience.retries.max_retries, for all engines",
    "base_model": "not needed: a model's price and context window are its own",
    "aws_region_name": "set AWS_REGION in the gateway's environment",
}
"""The name of a setting of LiteLLM -> what the user should do about it, because it is not translated.

If several names on the way to a nested setting are here, the innermost name counts.
"""

_SECRET = ("key", "secret", "password", "token", "credential", "database_url", "redis_url", "environment_variables")

Location = tuple[str | int, ...]

_KINDS = {float: "a number", str: "a text", dict: "a mapping", list: "a list"}

NO_EQUIVALENT, NOT_UNDERSTOOD = "no equivalent", "not understood"


def is_secret(names: Iterable[str]) -> bool:
    """Returns whether a setting of LiteLLM's configuration may be a secret, whose value must not be shown.

    `names` are the keys that lead to the setting; the result is True if one has a word such as "key" or "password".
    """
    return any(part in name.lower() for name in names for part in _SECRET)


@dataclass
class LiteLlmConfig:
    """LiteLLM's configuration, with a record of the values that have been translated to Pointsman's configuration.

    A location is a tuple of keys and list indexes that lead to a value.
    """

    content: dict[str, Any]
    """The parsed content of LiteLLM's config.yaml."""
    taken: set[Location] = field(default_factory=set)
    """The locations of the values that `take` has returned."""
    notes: dict[Location, str] = field(default_factory=dict)
    """Location of a value that could not be translated unchanged -> what the user should do about it."""
    commands: list[str] = field(default_factory=list)
    """Commands that the user must run in addition to the translated configuration."""
    variables: dict[str, set[str]] = field(default_factory=dict)
    """The environment variables that the translated configuration reads, each with its purposes."""

    def add_variable(self, name: str, use: str) -> None:
        self.variables.setdefault(name, set()).add(use)

    def take(self, *location: str | int, note: str = "", kind: type = object) -> Any:
        """Returns the value at a location of LiteLLM's configuration, and marks the value as translated.

        `location` are the keys and list indexes that lead to the value. A `note` is shown with the value in the report.
        Returns None if there is no value, or if it is not of the type `kind`, which is noted in the report. If `kind`
        is float, a text with a number is converted.
        """
        found: Any = self.content
        for part in location:
            found = found[part] if isinstance(part, int) else found.get(part) if isinstance(found, dict) else None
        if found is None:
            return None
        self.taken.add(location)
        if kind is float:
            found = _number(found)
        if not isinstance(found, kind):
            found, note = None, f"{NOT_UNDERSTOOD}: {_KINDS[kind]} is expected"
        if note:
            self.notes[location] = note
        return found

    def remaining(self) -> Iterator[tuple[str, str]]:
        """Yields (location as text, advice) for each value that is not translated or only in part."""
        for location, value in _leaves(self.content, ()):
            whole = next((location[:end] for end in range(1, len(location) + 1) if location[:end] in self.taken), None)
            if whole is not None:
                continue
            names = [part for part in reversed(location) if isinstance(part, str)]
            advice = next((ADVICE[name] for name in names if name in ADVICE), NO_EQUIVALENT)
            shown = "" if is_secret(names) else f" = {str(value)[:60]}"
            yield f"{_dotted(location)}{shown}", advice
        yield from ((_dotted(location), note) for location, note in self.notes.items())


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _leaves(value: Any, at: Location) -> Iterator[tuple[Location, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items:
        yield at, value
    for key, inner in items:
        yield from _leaves(inner, (*at, key))


def _dotted(location: Location) -> str:
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(map(str, location)))


def find_problem(name: Any, upstream: Any, mode: str) -> str:
    """Returns why an entry of LiteLLM's model_list cannot be translated; empty if it can be.

    The arguments are values of the entry: `name` is its `model_name`, `upstream` its `litellm_params.model`, and `mode`
    its `model_info.mode` ("chat" if it has none).
    """
    if not isinstance(name, str) or not isinstance(upstream, str):
        return "needs model_name and litellm_params.model"
    if "*" in name or "*" in upstream:
        return "wildcards have no equivalent: list the models, and name one as catch_all"
    if mode == "embedding":
        return "an embedding model needs its price: embeddings: {NAME: {url or provider, usd_per_million_tokens}}"
    if mode not in ("chat", "completion", "responses"):
        return f"mode {mode}: {NO_EQUIVALENT}"
    if upstream.startswith("auto_router/"):
        return "write tasks with examples and a policy (docs/routing.md)"
    return ""


def unknown_provider(prefix: str) -> str:
    if prefix in PROVIDERS:
        return ""
    return f"provider '{prefix}' has no preset; add an engine with provider: litellm/{prefix} (docs/engines.md)"


def provider_and_name(upstream: str, stated: str | None, url: str) -> tuple[str, str]:
    """Returns LiteLLM's name of a model's provider, and the provider's name of the model.

    The arguments are values of LiteLLM's entry: `upstream` is `model` ("PROVIDER/MODEL"), `stated` is
    `custom_llm_provider` (None if missing), and `url` is `api_base` (empty if missing).
    """
    prefix, slash, bare = upstream.partition("/")
    if stated:
        return stated, bare if slash and prefix == stated else upstream
    if slash and (prefix in PROVIDERS or not url):
        return prefix, bare
    if url:
        return "openai_like", upstream
    return ("anthropic" if upstream.startswith("claude") else "openai"), upstream
