"""Builds the redaction of what is kept."""

from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.redaction import BadHook, Redaction, load_hook


def to_redaction(name: str, registry: CollectorRegistry) -> Redaction:
    """From the setting. Raises ConfigError."""
    failures = Counter(
        "pointsman_redaction_failures", "Texts that were not kept since the redaction hook failed.", registry=registry
    )
    try:
        return Redaction(load_hook(name), failures.inc)
    except BadHook as error:
        raise ConfigError(f"POINTSMAN_GATEWAY_REDACTION: {error}") from error
