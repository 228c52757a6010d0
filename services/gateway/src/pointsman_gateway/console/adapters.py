"""Adapters over all engines: read from each lora-server, moved through the first of the base model that answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pointsman_servicekit.errors import NotFound, PointsmanError, Unavailable

from pointsman_gateway.console.overview import EngineAdapters, ModelAdapters
from pointsman_gateway.domain.adapters import AdapterListing, Alias, AliasMove
from pointsman_gateway.domain.caller import AllowedNames
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient
from pointsman_gateway.engines.engine_state import EngineState

Action = Callable[[AdapterAdminClient, AliasMove], Awaitable[Alias]]


ACTIONS: Mapping[str, Action] = {
    "alias": AdapterAdminClient.set_alias,
    "canary": AdapterAdminClient.set_canary,
    "rollback": AdapterAdminClient.roll_back,
}


async def read(states: Sequence[EngineState], allowed: AllowedNames) -> list[ModelAdapters]:
    """By base model; engines without a lora-server have no adapters. `allowed` are adapters' names."""
    asked = [state for state in states if state.adapter_admin is not None]
    told = await asyncio.gather(*[_ask(state.adapter_admin) for state in asked if state.adapter_admin is not None])
    models = dict.fromkeys(state.engine.model for state in asked)
    return [
        _model(model, [(c, t) for c, t in zip(asked, told, strict=True) if c.engine.model == model], allowed)
        for model in models
    ]


async def _ask(adapter_admin: AdapterAdminClient) -> AdapterListing | PointsmanError:
    try:
        return await adapter_admin.list_adapters()
    except PointsmanError as error:
        return error


def _model(
    model: str, told: Sequence[tuple[EngineState, AdapterListing | PointsmanError]], allowed: AllowedNames
) -> ModelAdapters:
    books = [book for _, book in told if isinstance(book, AdapterListing)]
    book = books[0] if books else AdapterListing((), (), ())
    engines = [_engine(state.engine.name, said, allowed) for state, said in told]
    return ModelAdapters(
        model,
        engines,
        [version for version in book.versions if _open(version.version, allowed)],
        [alias for alias in book.aliases if _open(alias.alias, allowed)],
        [change for change in book.changes if _open(change.subject, allowed)],
    )


def _engine(name: str, said: AdapterListing | PointsmanError, allowed: AllowedNames) -> EngineAdapters:
    if isinstance(said, PointsmanError):
        return EngineAdapters(name, said.message, {})
    return EngineAdapters(name, "", {v.version: v.state for v in said.versions if _open(v.version, allowed)})


def _open(name: str, allowed: AllowedNames) -> bool:
    return allowed is None or name.partition("@")[0] in allowed


async def move(states: Sequence[EngineState], model: str, step: str, wanted: AliasMove) -> Alias:
    """Raises NotFound where no lora-server has adapters of `model`, Unavailable where none of them answers."""
    clients = [
        state.adapter_admin for state in states if state.adapter_admin is not None and state.engine.model == model
    ]
    if not clients:
        known = sorted({state.engine.model for state in states if state.adapter_admin is not None})
        raise NotFound(
            f"no lora-server has adapters of '{model[:100]}'; known: {', '.join(known) or 'none'}",
            code="unknown_model",
            param="model",
        )
    *first, last = clients
    for adapter_admin in first:
        try:
            return await ACTIONS[step](adapter_admin, wanted)
        except Unavailable as error:
            if error.code != "lora_server_unavailable":  # it has answered: another one would say the same
                raise
    return await ACTIONS[step](last, wanted)
