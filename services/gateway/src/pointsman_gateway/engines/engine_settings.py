"""The settings of an engine in one configuration: its timeouts, its circuit breaker, and the fields sent to it."""

import hashlib
from dataclasses import dataclass, replace

from pointsman_gateway.config.endpoint_picker import EndpointPickerConfig
from pointsman_gateway.config.engine_config import BreakerConfig, EngineConfig, Timeouts
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.providers import DEFAULT_FIELDS, RequestFields, request_fields
from pointsman_gateway.domain import Caller, Sampling
from pointsman_gateway.engines.engine_client import DEFAULT_TIMEOUTS


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings of one engine, or of all members of an engine group, in one configuration."""

    timeouts: Timeouts = DEFAULT_TIMEOUTS
    breaker: BreakerConfig = BreakerConfig()  # noqa: RUF009  # it is frozen
    accepted_fields: RequestFields = request_fields(DEFAULT_FIELDS)  # noqa: RUF009  # it is frozen
    sends_priority: bool = False
    separates_tenants: bool = False
    sends_caller: bool = False
    """Whether `sends_priority` or `separates_tenants` is set; if not, `with_caller` need not be called."""
    picker: EndpointPickerConfig | None = None
    """The endpoint picker, an external service that chooses among the engines; None if the gateway chooses."""

    def with_caller(self, sampling: Sampling, caller: Caller, adapter: str) -> Sampling:
        """Returns `sampling` with up to two request fields for vLLM added, which depend on the caller.

        With `sends_priority`, `priority` is the caller's priority negated; a priority of 0 is not sent. With
        `separates_tenants`, `cache_salt` is a hash of the caller's tenant and of `adapter`, the adapter version or
        ""; it is not sent if both are empty. The adapter is in the salt because the keys of some external KV caches
        lack it (vllm-project/vllm#44250), so they would serve blocks that another adapter has computed.
        """
        fields: dict[str, object] = {}
        if self.sends_priority and caller.priority:
            fields["priority"] = -caller.priority  # vLLM answers the lowest number first
        if self.separates_tenants and (caller.tenant or adapter):
            salted = f"{caller.tenant}\0{adapter}" if adapter else caller.tenant
            fields["cache_salt"] = hashlib.blake2b(salted.encode(), digest_size=16).hexdigest()
        return replace(sampling, extra={**sampling.extra, **fields}) if fields else sampling


DEFAULT_SETTINGS = EngineSettings()


def engine_settings(models: ModelsFile) -> dict[str, EngineSettings]:
    """Returns the settings of each engine and engine group, by its name in models.yaml."""
    return {name: _settings(models, name, engine) for name, engine in models.engines.items()}


def engine_pickers(models: ModelsFile) -> list[EndpointPickerConfig]:
    """Returns the configurations of all endpoint pickers, the external services that choose an engine, in
    models.yaml.
    """
    return [engine.endpoint_picker for engine in models.engines.values() if engine.endpoint_picker]


def _settings(models: ModelsFile, name: str, engine: EngineConfig) -> EngineSettings:
    return EngineSettings(
        models.timeouts_of(name),
        models.breaker_of(name),
        engine.accepted_fields,
        engine.priority_scheduling,
        engine.prefix_cache_per_tenant,
        engine.priority_scheduling or engine.prefix_cache_per_tenant,
        engine.endpoint_picker,
    )
