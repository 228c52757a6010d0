"""The tables of `import litellm`: providers by their prefix, and advice on settings without an equivalent."""

from collections.abc import Iterable

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
"""By LiteLLM's prefix: our name of the provider, and the variable from which LiteLLM reads its API key."""

KEY_LIMITS = {
    "tpm_limit": "--tokens-per-minute",
    "rpm_limit": "--requests-per-minute",
    "max_parallel_requests": "--max-concurrency",
}

_METRICS = "Prometheus metrics and OpenTelemetry are built in (docs/tracing.md, docs/operations.md)"
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
    "guardrails": "validators check answers (docs/routing.md); nothing checks prompts",
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
"""Advice by setting. If several names on the way to a setting have advice, the innermost one counts."""

_SECRET = ("key", "secret", "password", "token", "credential", "database_url", "redis_url", "environment_variables")


def is_secret(names: Iterable[str]) -> bool:
    """Whether the value of a setting must not be shown."""
    return any(part in name.lower() for name in names for part in _SECRET)
