"""Follows the state of the engines, and the members of the groups of engines, that a configuration names.

After a reload, engines that both configurations have keep their state.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pointsman_servicekit.grpc_client import Interceptors, Token
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.config.engine_config import DnsName, EngineConfig
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.providers import auth_header
from pointsman_gateway.engines.adapter_discovery import AdapterDiscovery
from pointsman_gateway.engines.aliases import Aliases
from pointsman_gateway.engines.connection_pool import origin_of
from pointsman_gateway.engines.dns_groups import EngineGroup, Resolver
from pointsman_gateway.engines.engine_settings import engine_settings
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.http_post import PooledPoster
from pointsman_gateway.engines.lora_server import watch_engine
from pointsman_gateway.engines.metrics import EngineMetrics

POLL_INTERVAL_SECONDS = 0.02

_Key = tuple[str, EngineConfig]
"""The name and the identity of an engine or group."""


def to_engine(name: str, config: EngineConfig) -> Engine:
    """Returns an engine as it is known at the start.

    Raises ConfigError if its URL is invalid or the environment lacks its API key.
    """
    what = f"engine '{name}'"
    header = auth_header(what, config.preset, config.api_key_env)
    api = config.preset.api(config.upstream_name, config.url_parts, header)
    url, adapters = config.base_url, config.named_adapters
    if url and not config.group:
        check_url(what, url)
    return Engine(
        name,
        config.model,
        url,
        ready=bool(url) and not config.is_watched,
        resident=adapters,
        api=api,
        upstream="" if config.upstream_name == config.model else config.upstream_name,
        has_fixed_adapters=bool(adapters),
    )


def check_url(what: str, url: str) -> None:
    """Raises ConfigError if `url` is not an http(s) URL; `what` names it in the message."""
    try:
        origin_of(url)
    except ValueError as error:
        raise ConfigError(f"models.yaml: {what}: {error}") from error


class TrackedEngines(Protocol):
    """An engine, or a group of engines, that is watched."""

    @property
    def states(self) -> Sequence[EngineState]: ...

    def stop(self) -> None:
        """Stops watching the engine or the group."""
        ...


@dataclass(frozen=True, slots=True)
class _TrackedEngine:
    """One watched engine; implements `TrackedEngines`, and the groups' `TrackedMember`."""

    state: EngineState
    task: asyncio.Task[None] | None
    """Follows its lora-server or its list of models; None for an engine of which only the URL is known."""
    aliases: Aliases | None = None
    """Set for a member of a group: its reports are forgotten, because another member may get its name."""

    @property
    def states(self) -> Sequence[EngineState]:
        return [self.state]

    def stop(self) -> None:
        if self.task:
            self.task.cancel()
        if self.aliases:
            self.aliases.forget(self.state.engine.name)


@dataclass(frozen=True, slots=True)
class _TrackedGroup:
    """One watched group of engines; implements `TrackedEngines`."""

    group: EngineGroup
    task: asyncio.Task[None]

    @property
    def states(self) -> Sequence[EngineState]:
        return self.group.states

    def stop(self) -> None:
        self.task.cancel()
        self.group.stop()


class EngineDiscovery:
    """Keeps the engines' states up to date, and the members of the groups in the active configuration's `Engines`."""

    def __init__(
        self,
        metrics: EngineMetrics,
        *,
        resolver: Resolver,
        http: PooledPoster,
        poll_seconds: float,
        tls: ClientTls | None = None,
        interceptors: Interceptors = (),
        token: Token | None = None,
    ) -> None:
        """Takes `http`, which reads engines' lists of models every `poll_seconds`. `tls`, `interceptors` and `token`
        are for the connections to the lora-servers.
        """
        self.aliases = Aliases()
        self._metrics = metrics
        self._resolver = resolver
        self._http, self._poll_seconds = http, poll_seconds
        self._tls = tls
        self._interceptors = interceptors
        self._token = token
        self._tracked: dict[_Key, TrackedEngines] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._active: tuple[Engines, Sequence[_Key]] | None = None

    async def engines(self, models: ModelsFile, wait_seconds: float = 0.0) -> Engines:
        """Returns the engines of a configuration; new ones are watched from now on.

        Waits up to `wait_seconds` for the first report of each new engine: without it, the new configuration would
        reject requests that the active one can answer. Raises ConfigError if a URL or an API key is missing or invalid.
        """
        keys = _keys(models.engines)
        added = {key: to_engine(*key) for key in keys if key not in self._tracked}
        for key, engine in added.items():
            self._tracked[key] = self._track(key, engine)
        reporting = [self._tracked[key] for key in added if key[1].is_watched]
        if reporting and wait_seconds:
            await _wait_for_reports(reporting, wait_seconds)
        return Engines(self._states(keys), engine_settings(models), self.aliases)

    def activate(self, engines: Engines, models: ModelsFile) -> None:
        """Makes `engines` the active ones: their groups are kept up to date, and other engines are not watched.

        Requests that still use an engine that is no longer watched keep its last state.
        """
        keys = _keys(models.engines)
        for key in [key for key in self._tracked if key not in keys]:
            name, config = key
            self._tracked.pop(key).stop()
            if config.lora_server and (name not in models.engines or not models.engines[name].lora_server):
                self.aliases.forget(name)
        self._active = engines, keys
        engines.set_states(self._states(keys))

    def _states(self, keys: Sequence[_Key]) -> list[EngineState]:
        return [state for key in keys for state in self._tracked[key].states]

    def _update_active(self) -> None:
        if self._active:
            engines, keys = self._active
            engines.set_states(self._states(keys))

    def _track(self, key: _Key, engine: Engine) -> TrackedEngines:
        _, config = key
        if config.group:
            return self._track_group(engine, config, config.group)
        state = EngineState(engine)
        return _TrackedEngine(state, self._watch(state, config, config.lora_server, self._tls))

    def _track_group(self, engine: Engine, config: EngineConfig, name: DnsName) -> _TrackedGroup:
        tls = self._tls and replace(self._tls, server_name=self._tls.server_name or name.host)

        def track(member: Engine) -> _TrackedEngine:
            state = EngineState(replace(member, ready=member.ready and not config.discovers_adapters))
            return _TrackedEngine(state, self._watch(state, config, member.endpoint, tls), self.aliases)

        group = EngineGroup(engine, name, config.endpoint_limit, track, self._update_active, self._metrics)
        return _TrackedGroup(group, self._start(group.watch(self._resolver), f"look up {engine.name}"))

    def _watch(
        self, state: EngineState, config: EngineConfig, address: str, tls: ClientTls | None
    ) -> asyncio.Task[None] | None:
        """Starts to follow an engine, by its lora-server at `address` or its list of models, in the returned task.

        None if the configuration names neither.
        """
        name, engines = state.engine.name, Engines([state], aliases=self.aliases)
        if config.lora_server:
            watching = watch_engine(
                engines,
                name,
                address=address,
                metrics=self._metrics,
                tls=tls,
                interceptors=self._interceptors,
                token=self._token,
            )
        elif config.discovers_adapters:
            watching = AdapterDiscovery(engines, name, self._http, self._metrics, self._poll_seconds).watch()
        else:
            return None
        return self._start(watching, f"watch {name}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> "EngineDiscovery":
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _keys(engines: Mapping[str, EngineConfig]) -> list[_Key]:
    return [(name, config.identity) for name, config in engines.items()]


async def _wait_for_reports(tracked: Sequence[TrackedEngines], wait_seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + wait_seconds

    def is_any_missing() -> bool:
        return any(not state.engine.has_reported for one in tracked for state in one.states)

    while is_any_missing() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # a state is a value, no event
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
