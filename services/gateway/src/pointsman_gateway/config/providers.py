"""The presets of providers (such as OpenAI): URLs, headers, names of parameters, and the request fields they accept.

They are read from providers.yaml and request_fields.yaml in this package.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from string import Formatter
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import yaml
from pointsman_servicekit import prices
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.prices import PricedModel
from pydantic import Field

from pointsman_gateway.config.field_types import MIN_SIMILARITY, ConfigError, Strict, must_be_known

DEFAULT_PROVIDER = "openai-compatible"
VLLM = "vllm"
DEFAULT_FIELDS, EMBEDDING_FIELDS, MESSAGE_FIELDS = "compatible", "embeddings", "messages"
"""The names of three kinds in request_fields.yaml: the default, embeddings, and Anthropic's Messages API."""
MAX_NAME_CHARACTERS = 100
"""Maximum number of characters of a field's name that an error message repeats."""

MediaKind = Literal["image", "audio", "video", "file", "url"]
"""What a model may accept in addition to text; "url" means that the engine fetches media from a URL."""

LITELLM = "litellm"
LITELLM_URL = "http://litellm.invalid"
"""A placeholder: LiteLLM's SDK knows the URLs of its providers."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One URL path of an engine's API, such as that of chat completions, and the names of parameters in requests."""

    path: str
    """The path with the query, to append to the base URL."""
    max_tokens: str = "max_tokens"
    seed: str = "seed"
    stream: Mapping[str, Any] = field(
        default_factory=lambda: {"stream": True, "stream_options": {"include_usage": True}}
    )
    """The parameters that request a stream which ends with its usage."""


@dataclass(frozen=True, slots=True)
class EngineApi:
    """How to call an engine's HTTP API: its URL paths, headers, names of parameters, and limits."""

    endpoints: Mapping[str, Endpoint]
    """The paths for answers, by operation: "chat" and "completion"."""
    models_path: str = "/v1/models"
    """The path of the list of models; empty if there is none."""
    embeddings_path: str = "/v1/embeddings"
    rerank_path: str = "/v1/rerank"
    auth_header: str = ""
    """Header lines for every request, each with its line break: the API key, if there is one, and the provider's
    constant headers."""
    adapter_name: str = "{adapter}"
    """A template of an adapter's name in requests, of {adapter} and {base} (the base model)."""
    lists_adapters_by_root: bool = False
    """Whether the list of models names the base model of an adapter as `root`; otherwise as `parent`."""
    dialect: str = "openai"
    """The format of requests and answers: "openai", "anthropic" or "litellm"."""
    max_stop: int | None = None
    """The maximum number of stop sequences; None: no limit."""
    betas: frozenset[str] = frozenset()
    """The values of a client's header `anthropic-beta` that are sent to the engine."""

    def name_of_adapter(self, adapter: str, base: str) -> str:
        """Returns the name to send as `model` for an adapter of the base model `base`."""
        return adapter if self.adapter_name == "{adapter}" else self.adapter_name.format(adapter=adapter, base=base)


DEFAULT_API = EngineApi({"chat": Endpoint("/v1/chat/completions"), "completion": Endpoint("/v1/completions")})


class Provider(Strict):
    """The preset of one provider, such as OpenAI: an entry of providers.yaml, where the keys are described."""

    url: str = ""
    prefix: str = "/v1"
    models_path: str | None = None
    query: str = ""
    options: dict[str, str] = Field(default_factory=dict)
    auth_header: str = Field(default="authorization: Bearer {key}", pattern=r"^[a-z-]+: .*\{key\}$")
    headers: dict[str, str] = Field(default_factory=dict)
    dialect: str = "openai"
    chat_path: str = "/chat/completions"
    key_env: str = ""
    parameters: dict[Literal["max_tokens", "seed"], str] = Field(default_factory=dict)
    request_usage: bool = True
    gen_ai_provider: str = "openai"
    request_fields: str = DEFAULT_FIELDS
    accepts: tuple[str, ...] = ()
    rejects: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    max_stop: int | None = None
    media: tuple[MediaKind, ...] | None = None
    betas: frozenset[str] = frozenset()
    models: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    adapters: Literal["listed", "listed_by_root", "named"] | None = None
    adapter_name: str = "{adapter}"
    base_name: str = ""
    price_list: str = ""

    def resolve_url(self, url: str, options: Mapping[str, str]) -> str:
        """Returns the base URL of an engine of this provider, to which the URL paths of `api` are appended.

        An engine's own `url` loses the provider's `prefix` at its end, and gets the path of the provider's URL if it
        has no path. If `url` is empty, it is the provider's URL, with placeholders replaced by `options`. Raises
        ValueError if an option is unknown, or is needed for the provider's URL and missing.
        """
        for name in options:
            if name not in self.options:
                raise ValueError(f"unknown option '{name}'; known: {', '.join(self.options) or 'none'}")
        if not url:
            missing = [name for name in _variables(self.url) if not {**self.options, **options}[name]]
            if missing:
                raise ValueError(f"write options: {{{missing[0]}: ...}}, or a url")
            return self.url.format_map({**self.options, **options})
        url = url.rstrip("/")
        if self.prefix and "{" not in self.prefix:
            url = url.removesuffix(self.prefix)
        is_path_missing = url.startswith(("http://", "https://")) and not urlsplit(url).path
        return url + urlsplit(self.url).path if is_path_missing else url

    def api(self, model: str, options: Mapping[str, str], auth_header: str = "") -> EngineApi:
        """Returns how to call the provider's API for a model; `model` is the provider's name of it.

        `options` replace placeholders in the provider's `query`. `auth_header` is the header line with the API key,
        with its line break; empty without a key.
        """
        query = self.query.format_map({**self.options, **options})
        prefix = self.prefix.format(model=quote(model, safe=""))
        models = f"{prefix}/models" if self.models_path is None else self.models_path

        def path(of: str) -> str:
            return f"{of}?{query}" if query and of else of

        stream = {"stream": True, "stream_options": {"include_usage": True}} if self.request_usage else {"stream": True}
        chat = Endpoint(path(prefix + self.chat_path), **self.parameters, stream=stream)
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return EngineApi(
            {"chat": chat, "completion": Endpoint(path(f"{prefix}/completions"), stream=stream)},
            path(models),
            path(f"{prefix}/embeddings"),
            path(f"{prefix}/rerank"),
            auth_header + headers,
            self.adapter_name,
            self.adapters == "listed_by_root",
            self.dialect,
            self.max_stop,
            self.betas,
        )

    def rejected_by(self, model: str) -> frozenset[str]:
        """Returns the names of the request fields that the provider rejects for `model`, which is the provider's name
        of it.
        """
        own = [fields for pattern, fields in self.models.items() if re.fullmatch(pattern, model)]
        return frozenset(self.rejects).union(*own)


def _variables(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]


@lru_cache(maxsize=1)
def providers() -> Mapping[str, Provider]:
    """Returns the presets of all providers, by the provider's name; providers.yaml is read once."""
    return {name: Provider.model_validate(provider or {}) for name, provider in _read_table("providers.yaml").items()}


def find_price(provider: str, names: Iterable[str]) -> PricedModel | None:
    """Returns the prices of a model in the provider's price list; None if the list has none of `names`.

    The first of the model's `names` that is in the list counts. Raises KeyError if the provider is unknown.
    """
    return prices.find_price(preset_of(provider).price_list or provider, names)


def preset_of(provider: str) -> Provider:
    """Returns the preset of the provider with this name; all of LiteLLM's, such as "litellm/groq", have the same one.

    Raises KeyError if the provider is unknown.
    """
    return providers()[provider.partition("/")[0]]


def provider_at(url: str) -> str:
    """Returns the name of the provider whose URL has the same host as `url`; `DEFAULT_PROVIDER` if there is none."""
    host = urlsplit(url).hostname
    return next(
        (name for name, of in providers().items() if host and urlsplit(of.url).hostname == host), DEFAULT_PROVIDER
    )


def _read_table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files(__package__).joinpath(name).read_text("utf-8"))
    return table


@lru_cache(maxsize=1)
def _request_fields_table() -> dict[str, Any]:
    return _read_table("request_fields.yaml")


@dataclass(frozen=True, slots=True)
class RejectedField:
    """A field that clients must not send in requests, with the advice for the error message."""

    advice: str
    """Says what to do instead, or why the field is not accepted."""
    neutral: Any = None
    """A value that is accepted because it means the same as a missing field; null is always accepted."""


@dataclass(frozen=True, slots=True)
class RequestFields:
    """Which fields of requests one kind of engine accepts, besides those that the gateway reads itself."""

    kind: str
    """The kind of engine: a key of request_fields.yaml, such as "vllm" or "openai"."""
    forwarded: frozenset[str]
    """Fields that are sent to the engine."""
    ignored: frozenset[str]
    """Fields that are accepted and not sent to the engine."""
    rejected: Mapping[str, RejectedField]
    """Fields with their own error message. All others that are neither forwarded nor ignored are rejected too."""
    own: frozenset[str] = frozenset()
    """Fields that the gateway itself reads, which an error about an unknown field may suggest."""

    def with_forwarded(self, names: Iterable[str]) -> "RequestFields":
        return replace(self, forwarded=self.forwarded.union(names))

    def without(self, rejected: Iterable[str], ignored: Iterable[str], advice: str) -> "RequestFields":
        """Returns a copy by which some fields are not sent to the engine any more.

        A request with one of `rejected` is an error with this `advice`; fields in `ignored` are dropped without an
        error.
        """
        neutral = _request_fields_table()["neutral"]
        messages = {name: RejectedField(advice, neutral.get(name)) for name in rejected}
        return replace(
            self,
            forwarded=self.forwarded - messages.keys() - {*ignored},
            ignored=self.ignored.union(ignored),
            rejected={**self.rejected, **messages},
        )

    def select(self, fields: Mapping[str, Any], path: str = "") -> Mapping[str, Any]:
        """Returns those fields of a request that are sent to the engine: field name -> value.

        Ignored fields are left out, as are rejected ones with the value null or `RejectedField.neutral`, and unknown
        ones with the value null. Raises InvalidArgument ("unsupported_parameter") for any other field; `path` precedes
        its name in the message.
        """
        if fields.keys() <= self.forwarded:
            return fields
        return {name: value for name, value in fields.items() if self._is_forwarded(name, value, path)}

    def _is_forwarded(self, name: str, value: Any, path: str) -> bool:
        if name in self.forwarded:
            return True
        rejected = self.rejected.get(name)
        if name in self.ignored or value is None or (rejected and value == rejected.neutral):
            return False
        shown = path + name[:MAX_NAME_CHARACTERS]
        if rejected is not None:
            message = f"'{shown}' cannot be set by a request: {rejected.advice}"
        else:
            candidates = (self.forwarded | self.own) - {name}
            similar = get_close_matches(name[:MAX_NAME_CHARACTERS], candidates, 1, MIN_SIMILARITY)
            known = f"known: {', '.join(sorted(self.forwarded))}, and those of the API itself"
            message = f"unknown field '{shown}'; " + (f"did you mean '{similar[0]}'?" if similar else known)
        raise InvalidArgument(message, code="unsupported_parameter", param=shown)


@lru_cache(maxsize=8)
def request_fields(kind: str) -> RequestFields:
    """Returns which request fields a kind of engine accepts; `kind` is a key of request_fields.yaml, such as "vllm".

    Raises KeyError if the file lacks the kind.
    """
    table = _request_fields_table()
    names = {use: frozenset(_flatten(lists)) for use, lists in table["kinds"][kind].items()}
    rejected = {name: RejectedField(**field) for name, field in table["rejected"].items()}
    own = names.get("own", frozenset(table["own"]))
    return RequestFields(kind, names["forwarded"], names["ignored"], rejected, own)


def _flatten(names: Iterable[Any]) -> Iterable[str]:
    for name in names:
        yield from [name] if isinstance(name, str) else name


def check_provider(name: str | None) -> str | None:
    """Returns `name` if it is None, a known provider, or "litellm/NAME"; otherwise raises ConfigError."""
    if name == LITELLM:
        raise ConfigError("write provider: litellm/NAME, with LiteLLM's name of the provider, such as litellm/cohere")
    if name is not None and not re.fullmatch(f"{LITELLM}/[a-z0-9_.-]+", name):
        must_be_known("unknown provider", name, providers())
    return name


def auth_header(what: str, provider: Provider, variable: str, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the HTTP header line, with its line break, with the API key that is in the environment variable
    `variable`.

    Empty if `variable` is empty. Raises ConfigError if the variable is not set; `what` names the engine or model in the
    message.
    """
    if not variable:
        return ""
    key = environment.get(variable, "")
    if not key:
        raise ConfigError(
            f"models.yaml: {what} needs the environment variable {variable}, which is not set; set it to the key, or "
            "leave out api_key_env if no key is needed"
        )
    return provider.auth_header.format(key=key) + "\r\n"
