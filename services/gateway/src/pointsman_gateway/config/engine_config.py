"""The schema of one engine in models.yaml: its provider or address, its adapters, timeouts and circuit breaker."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pointsman_gateway.config.endpoint_picker import EndpointPickerConfig
from pointsman_gateway.config.engine_groups import GroupName, parse_group
from pointsman_gateway.config.field_types import Dollars, Strict
from pointsman_gateway.config.providers import (
    LITELLM,
    VLLM,
    Provider,
    RequestFields,
    check_provider,
    preset_of,
    provider_at,
    providers,
    request_fields,
)

DEFAULT_MAX_ENDPOINTS = 64

_CALLER_SETTINGS = ("priority_scheduling", "prefix_cache_per_tenant")

ProviderName = Annotated[str | None, AfterValidator(check_provider)]
"""The name of a provider, as `check_provider` accepts it."""

UrlPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
URL_PARTS = ("resource", "region", "api_version")
UPSTREAM_PATTERN = r"^[!-~]{0,200}$"


def name_providers(schema: dict[str, Any]) -> None:
    """Changes the JSON Schema of `provider` to the allowed values: a known name, "litellm/NAME", or null."""
    known = [name for name in sorted(providers()) if name != LITELLM]
    schema["anyOf"] = [{"enum": known}, {"pattern": f"^{LITELLM}/.+"}, {"type": "null"}]


class Timeouts(Strict):
    """Limits for the parts of one answer. The request's own deadline applies in addition.

    `HttpEngineClient` keeps all of them, `LiteLLMClient` all but `connect_seconds`.
    """

    connect_seconds: float = Field(default=2.0, gt=0, le=60)
    first_token_seconds: float = Field(default=60.0, gt=0, le=3600, description="from sending the request")
    stream_idle_seconds: float = Field(default=60.0, gt=0, le=3600, description="between two chunks of the answer")


class BreakerConfig(Strict):
    """The circuit breaker of each engine: when it opens, and for how long."""

    enabled: bool = True
    consecutive_failures: int = Field(default=5, ge=1, le=1000, description="that open it")
    failure_rate: float = Field(default=0.5, gt=0, le=1, description="share of failures in the window that opens it")
    window_seconds: float = Field(default=10.0, gt=0, le=600)
    min_requests: int = Field(default=20, ge=1, description="in the window; with fewer the failure rate is ignored")
    open_duration_seconds: float = Field(
        default=5.0, gt=0, le=600, description="until one request probes the engine; doubled after each failed probe"
    )
    max_open_duration_seconds: float = Field(default=30.0, gt=0, le=3600, description="upper limit of the doubling")


def _check_adapters(written: object) -> object:
    names = written if isinstance(written, list | tuple) else ()
    if written not in (None, "discover") and not names:
        raise ValueError("write discover, or a list of the adapters' names")
    for name in names:
        if not (isinstance(name, str) and re.fullmatch(r"[!-~]{1,200}", name)):
            raise ValueError(f"{name!r} is no name of an adapter: 1 to 200 printable ASCII characters without spaces")
    return tuple(names) or written


class EngineConfig(Strict):
    """An engine: a vLLM with a lora-server, a provider, or another OpenAI-compatible endpoint; or a group of them."""

    model: str
    upstream: str = Field(
        default="",
        pattern=UPSTREAM_PATTERN,
        description="the engine's name for the model, or a deployment's name; empty: the model's `upstream`",
    )
    lora_server: str = Field(
        default="", description="HOST:PORT, or of a group dns:///NAME:PORT or inferencepool://NAMESPACE/NAME:PORT"
    )
    url: str = Field(
        default="",
        description="http://HOST:PORT, or of a group dns+http://NAME:PORT or inferencepool://NAMESPACE/NAME; "
        "unset: that of the provider",
    )
    adapters: Annotated[Literal["discover"] | tuple[str, ...] | None, BeforeValidator(_check_adapters)] = Field(
        default=None,
        description="discover: read the adapters of an engine with a url from its list of models; or their names, for "
        "an engine that lists none; unset: it has none",
    )
    max_endpoints: int | None = Field(
        default=None, ge=1, le=1000, description=f"members of a group that are used; unset: {DEFAULT_MAX_ENDPOINTS}"
    )
    api_key_env: str = Field(default="", description="the environment variable with the API key")
    provider: ProviderName = Field(
        default=None,
        description="a preset for URL, key and parameters; unset: vllm if it has adapters, else by the URL's host",
        json_schema_extra=name_providers,
    )
    resource: UrlPart | None = Field(default=None, description="of Azure: the resource's name")
    region: UrlPart | None = Field(default=None, description="of Bedrock: the AWS region")
    api_version: UrlPart | None = Field(default=None, description="of azure-deployments")
    timeouts: Timeouts | None = Field(default=None, description="unset keys are taken from `resilience`")
    breaker: BreakerConfig | None = Field(default=None, description="unset keys are taken from `resilience`")
    usd_per_hour: Annotated[Dollars, Field(gt=0)] | None = Field(
        default=None,
        description="of an engine that you run, or of each member; divided among the paths by the engine's busy time",
    )
    request_fields: tuple[str, ...] = Field(
        default=(), description="fields that requests may have in addition to those in docs/api.md"
    )
    priority_scheduling: bool = Field(
        default=False, description="send the key's priority: of a vLLM with --scheduling-policy priority"
    )
    prefix_cache_per_tenant: bool = Field(
        default=False,
        description="send a cache_salt of tenant and adapter version: no tenant can find out what others have asked",
    )

    endpoint_picker: EndpointPickerConfig | None = Field(
        default=None, description="a service that chooses among the engines that have the adapter version"
    )

    @model_validator(mode="after")
    def _has_one_address(self) -> "EngineConfig":
        preset = self.preset
        if (self.lora_server and self.url) or not (self.lora_server or self.url or preset.url):
            raise ValueError("an engine has either a lora_server (HOST:PORT) or a url (http://HOST:PORT)")
        if self.lora_server and self.provider not in (None, VLLM, "sglang"):
            raise ValueError(f"the engine of a lora_server is a vLLM or an SGLang, and no {self.provider}")
        if not self.lora_server:
            preset.resolve_url(self.url, self.url_parts)
        if preset.key_env and not self.url and not self.api_key_env:
            raise ValueError(
                f"provider '{self.provider}' needs an API key: write api_key_env: {preset.key_env}, "
                "and set that variable"
            )
        if self.group is None and self.max_endpoints is not None:
            raise ValueError("'max_endpoints' is for groups of engines (dns:///, dns+http://, inferencepool://) alone")
        if self.endpoint_picker and self.uses_litellm:
            raise ValueError(
                "'endpoint_picker' is for engines with an address; "
                f"remove it, since LiteLLM's SDK calls {self.provider}"
            )
        return self

    @model_validator(mode="after")
    def _has_adapters_as_its_provider(self) -> "EngineConfig":
        if not self.adapters:
            return self
        if self.lora_server:
            raise ValueError("'adapters' is for engines with a url; a lora_server reports the adapters itself")
        if self.preset.adapters is None:
            raise ValueError(f"provider '{self.preset_name}' has no adapters; configure each as a model of its own")
        if self.discovers_adapters and self.preset.adapters == "named":
            raise ValueError(f"provider '{self.preset_name}' lists no adapters: write their names, adapters: [NAME]")
        return self

    @property
    def preset_name(self) -> str:
        if self.provider:
            return self.provider
        return VLLM if self.lora_server or self.adapters else provider_at(self.url)

    @property
    def preset(self) -> Provider:
        return preset_of(self.preset_name)

    @property
    def url_parts(self) -> dict[str, str]:
        """Returns what replaces the placeholders in the URL of the provider, such as "region": name -> value."""
        return {name: value for name in URL_PARTS if (value := getattr(self, name)) is not None}

    @property
    def base_url(self) -> str:
        """Returns the engine's URL without the path of a request, such as "https://api.openai.com".

        Empty if the engine has a lora-server, which reports the URL.
        """
        return "" if self.lora_server else self.preset.resolve_url(self.url, self.url_parts)

    @property
    def upstream_name(self) -> str:
        """Returns the engine's name for the base model; "PROVIDER/NAME" if LiteLLM's SDK calls the engine."""
        name = self.upstream or self.preset.base_name or self.model
        return f"{self.preset_name.partition('/')[2]}/{name}" if self.uses_litellm else name

    @property
    def uses_litellm(self) -> bool:
        return self.preset.dialect == LITELLM

    @property
    def discovers_adapters(self) -> bool:
        return self.adapters == "discover"

    @property
    def named_adapters(self) -> frozenset[str]:
        """Returns the names of the adapters that the configuration lists; empty if it lists none or says `discover`."""
        return frozenset(self.adapters) if isinstance(self.adapters, tuple) else frozenset()

    @property
    def has_adapters(self) -> bool:
        """Returns whether paths with adapters may use this engine."""
        return bool(self.lora_server or self.adapters)

    @property
    def is_watched(self) -> bool:
        """Returns whether the engine gets no requests until a report says that it is ready.

        The report comes from its lora-server, its list of models or, for a group, from DNS or Kubernetes.
        """
        return bool(self.lora_server) or self.discovers_adapters or self.group is not None

    @property
    def group(self) -> GroupName | None:
        """Returns the DNS name or InferencePool with the engines of the group; None for a single engine."""
        return parse_group(self.lora_server, self.url)

    @property
    def endpoint_limit(self) -> int:
        return self.max_endpoints or DEFAULT_MAX_ENDPOINTS

    @property
    def identity(self) -> "EngineConfig":
        """Returns a copy with only the settings that identify the engine, such as the URL; all other settings have
        their defaults.

        If the identity is the same after a reload of the configuration, the gateway keeps the engine's runtime state.
        """
        others = ("timeouts", "breaker", "usd_per_hour", "request_fields", "endpoint_picker", *_CALLER_SETTINGS)
        return self.model_copy(update={name: type(self).model_fields[name].default for name in others})

    @property
    def rejected_fields(self) -> frozenset[str]:
        """Returns the names of the request fields that the engine's provider rejects, for any model or for this one."""
        return self.preset.rejected_by(self.upstream_name) | self.preset.rejected_by(self.model)

    @property
    def accepted_fields(self) -> RequestFields:
        """Returns which fields of requests are sent to the engine, which are dropped, and which are rejected with an
        error.
        """
        preset = self.preset
        kind = request_fields(preset.request_fields).with_forwarded(preset.accepts)
        advice = f"engine provider '{self.preset_name}' does not accept it"
        return kind.without(self.rejected_fields, preset.ignores, advice).with_forwarded(self.request_fields)
