"""Discovers the adapters of an engine that has no lora-server, by polling the engine's `/v1/models`.

vLLM lists a base model without a `parent`, and a LoRA adapter with the base model's name as its `parent`. If a poll
fails, the last good list stays in use, so that requests are not affected.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from pointsman_gateway.config.providers import EngineApi
from pointsman_gateway.engines.catalog import EMPTY
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.http_post import PooledPoster
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.extensions.http_poster import HttpReply, HttpUnreachable
from pointsman_gateway.redaction import shown_error

log = logging.getLogger(__name__)

LIST_TIMEOUT_SECONDS = 5.0
"""Time limit for one request, from connecting to the last byte."""
MAX_LIST_BYTES = 4 * 1024 * 1024
"""Limit for a response body; vLLM writes about 450 bytes for each adapter."""
MAX_RETRY_AFTER_SECONDS = 60.0
"""Maximum pause after a failed request, in seconds; a longer Retry-After of the engine is cut to this."""
MAX_NAME_LENGTH = 200
MAX_LOGGED_NAMES = 10


class ListedModel(msgspec.Struct):
    """One entry of an engine's list of models, `/v1/models`."""

    id: str
    parent: str | None = None
    """The base model's id, if this is an adapter; not every engine lists it."""
    root: str | None = None
    """The folder or name of the model's weights. Engines with `EngineApi.lists_adapters_by_root` write the base model's
    name here if the model is an adapter."""


class _ModelList(msgspec.Struct):
    data: list[ListedModel]


_decode = msgspec.json.Decoder(_ModelList).decode


class NotListed(Exception):
    """The engine's list of models cannot be read, or lacks the configured base model."""

    def __init__(self, message: str, outcome: str, retry_after: float = 0.0) -> None:
        """Takes `retry_after` in seconds, 0 if the engine gave none, and `outcome`, a label of
        `pointsman_engine_model_lists`: "unreachable", "redirect", "rejected" (the key is missing or wrong), "missing"
        (no such list), "overloaded" (status 429), "error" (another status), "invalid" (the body) or "other_model".
        """
        super().__init__(message)
        self.outcome = outcome
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class DiscoveredAdapters:
    usable: frozenset[str]
    unusable: Mapping[str, str] = field(default_factory=dict)
    """The adapters that the engine lists but requests cannot use: the reason, as text, by the adapter's name."""


def find_adapters(models: Sequence[ListedModel], base: str, *, by_root: bool = False) -> DiscoveredAdapters:
    """Returns the usable and the unusable adapters in an engine's list of models.

    `base` is the base model's name at the engine. With `by_root`, a model without a `parent` whose `root` is `base`
    counts as an adapter too, unless its own name is `base`. Raises NotListed ("other_model") if the list lacks the base
    model.
    """
    if by_root:
        models = [
            msgspec.structs.replace(model, parent=base)
            if not model.parent and model.root == base != model.id
            else model
            for model in models
        ]
    bases = [model for model in models if not model.parent]
    own = [model for model in bases if model.id == base]
    if not own:
        served = _names(model.id for model in bases) or "no base model"
        raise NotListed(f"it serves {served}, not '{base}' as the configuration says", "other_model")
    # `--lora-modules` may state a base model by its path or by another of its served names.
    roots = {model.root for model in own if model.root}
    parents = {base, *roots, *(model.id for model in bases if model.root in roots)}
    usable, unusable = set[str](), dict[str, str]()
    for name, entries in _by_name(models).items():
        reason = _why_unusable(name, entries, parents)
        if reason is None:
            usable.add(name)
        elif reason:
            unusable[name] = reason
    return DiscoveredAdapters(frozenset(usable), unusable)


def _by_name(models: Iterable[ListedModel]) -> Mapping[str, list[ListedModel]]:
    by_name: dict[str, list[ListedModel]] = {}
    for model in models:
        by_name.setdefault(model.id, []).append(model)
    return by_name


def _why_unusable(name: str, entries: Sequence[ListedModel], parents: set[str]) -> str | None:
    """Returns the reason why an adapter cannot be used; None if it can be, "" if the name is a base model's."""
    first = entries[0]
    if not any(entry.parent for entry in entries):
        return ""
    if any((entry.parent, entry.root) != (first.parent, first.root) for entry in entries):
        return f"it is listed {len(entries)} times with different weights: {_names(e.root or '?' for e in entries)}"
    if first.parent not in parents:
        return f"it is listed for base model '{first.parent}'"
    if not (name.isascii() and name.isprintable() and " " not in name and 0 < len(name) <= MAX_NAME_LENGTH):
        return f"its name is not 1 to {MAX_NAME_LENGTH} printable ASCII characters without spaces"
    return None


class AdapterDiscovery:
    """Polls one engine's list of models, and stores the adapters in the engine's state."""

    def __init__(
        self, engines: Engines, name: str, http: PooledPoster, metrics: EngineMetrics, interval_seconds: float
    ) -> None:
        """Takes the engine's `name` in `engines`, and the seconds between two polls."""
        self._engines = engines
        self._name = name
        self._http = http
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._has_listed = False
        self._logged_problem = ""
        self._logged_unusable: Mapping[str, str] = {}

    async def watch(self) -> None:
        """Polls the engine until cancelled, with a pause of `interval_seconds` after each poll.

        The pause is longer if the engine's response asked for it with a Retry-After.
        """
        while True:
            wait = 0.0
            try:
                wait = await self.poll()
            except Exception:  # a bug must not end the loop: the engine keeps its last state
                log.exception("engine %s: its models cannot be listed", self._name)
            await asyncio.sleep(max(wait, self._interval_seconds))

    async def poll(self) -> float:
        """Reads the engine's list of models once, and updates the engine's state.

        If the list cannot be read, the engine keeps its state; it is marked as not ready if no list was read before.
        The engine is also marked as not ready if its list lacks the configured base model. Returns the seconds of a
        failed response's Retry-After, at most `MAX_RETRY_AFTER_SECONDS`; 0 without a failure or a Retry-After.
        """
        before = self._engines.get(self._name)
        try:
            listed = await list_models(self._http, before.url, before.api)
            found = find_adapters(listed, before.upstream_model, by_root=before.api.lists_adapters_by_root)
        except NotListed as error:
            self._metrics.models_listed(self._name, error.outcome)
            self._on_problem(str(error), serves_other_model=error.outcome == "other_model")
            return min(error.retry_after, MAX_RETRY_AFTER_SECONDS)
        self._metrics.models_listed(self._name, "listed")
        self._apply(found)
        return 0.0

    def _on_problem(self, problem: str, *, serves_other_model: bool) -> None:
        if serves_other_model or not self._has_listed:
            engine = self._engines.get(self._name)
            self._engines.update(replace(engine, ready=False, detail=problem))
        if problem != self._logged_problem:
            kept = "; its last known adapters stay in use" if self._has_listed and not serves_other_model else ""
            log.warning("engine %s: %s%s", self._name, problem, kept)
        self._logged_problem = problem

    def _apply(self, found: DiscoveredAdapters) -> None:
        engine = self._engines.get(self._name)
        # An adapter whose entry has become ambiguous or invalid is not dropped: the engine still has it.
        kept = engine.resident & found.unusable.keys()
        resident = found.usable | kept
        self._log_changes(engine, resident, found.unusable)
        self._has_listed, self._logged_problem = True, ""
        self._engines.update(
            replace(engine, ready=True, resident=resident, catalog=EMPTY, detail="", unusable=dict(found.unusable))
        )

    def _log_changes(self, engine: Engine, resident: frozenset[str], unusable: Mapping[str, str]) -> None:
        if self._logged_problem:
            log.info("engine %s: its models are listed again", self._name)
        came, went = resident - engine.resident, engine.resident - resident
        self._metrics.adapters_changed(self._name, len(came), len(went))
        if came:
            log.info("engine %s: has %d more adapters: %s", self._name, len(came), _names(came))
        if went:
            log.warning("engine %s: has %d adapters less: %s", self._name, len(went), _names(went))
        for name, reason in list(unusable.items())[:MAX_LOGGED_NAMES]:
            if self._logged_unusable.get(name) != reason:
                log.warning("engine %s: adapter %r is ignored: %s", self._name, name[:MAX_NAME_LENGTH], reason)
        self._logged_unusable = unusable


async def list_models(http: PooledPoster, url: str, api: EngineApi) -> Sequence[ListedModel]:
    """Requests the list of models of an engine; `url` is the engine's base URL. Follows no redirects.

    Raises NotListed if the provider has no such list, if the response does not arrive within `LIST_TIMEOUT_SECONDS`,
    has more than `MAX_LIST_BYTES` or a status other than 200, or if its body is not in OpenAI's format.
    """
    if not api.models_path:
        raise NotListed("its provider lists no models", "missing")
    deadline, listing = asyncio.get_running_loop().time() + LIST_TIMEOUT_SECONDS, url + api.models_path
    try:
        reply = await http.get(listing, api.auth_header, deadline, MAX_LIST_BYTES)
    except HttpUnreachable as error:
        raise NotListed(f"{listing} cannot be read: {error}", "unreachable") from error
    body = b"".join(reply.pieces)
    if reply.status != 200:
        raise _rejection(listing, reply, body)
    try:
        return _decode(body).data
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        start = shown_error(body.decode("utf-8", "replace"), 60)
        raise NotListed(f"{listing} is no list of models in OpenAI's format; it begins {start!r}", "invalid") from error


def _rejection(listing: str, reply: HttpReply, body: bytes) -> NotListed:
    answered = f"{listing} answered {reply.status}"
    if 300 <= reply.status < 400:
        target = f" to {shown_error(reply.location, 200)!r}" if reply.location else ""
        return NotListed(f"{answered}, a redirect{target}, which is not followed: correct the url", "redirect")
    if reply.status in (401, 403):
        return NotListed(f"{answered}: the key is missing or rejected, check api_key_env and provider", "rejected")
    if reply.status in (404, 405):
        return NotListed(f"{answered}: `adapters: discover` needs an engine that lists its models", "missing")
    if reply.status == 429:
        return NotListed(f"{answered}: too many requests", "overloaded", reply.retry_after or 0.0)
    start = shown_error(body.decode("utf-8", "replace"), 200)
    return NotListed(f"{answered}: {start!r}", "error", reply.retry_after or 0.0)


def _names(names: Iterable[str]) -> str:
    found = sorted({name[:MAX_NAME_LENGTH] for name in names})
    more = f" and {len(found) - MAX_LOGGED_NAMES} more" if len(found) > MAX_LOGGED_NAMES else ""
    return ", ".join(map(repr, found[:MAX_LOGGED_NAMES])) + more
