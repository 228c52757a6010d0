"""Adapters of all engines: listed from each lora-server, and moved by any lora-server of the base model."""

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
    """By base model. Engines without a lora-server have no adapters. `allowed` are names of adapters."""
    clients = [(state, state.adapter_admin) for state in states if state.adapter_admin is not None]
    listings = await asyncio.gather(*[_listing(client) for _, client in clients])
    pairs = [(state, listing) for (state, _), listing in zip(clients, listings, strict=True)]
    models = dict.fromkeys(state.engine.model for state, _ in pairs)
    return [
        _model(model, [(state, listing) for state, listing in pairs if state.engine.model == model], allowed)
        for model in models
    ]


async def _listing(admin: AdapterAdminClient) -> AdapterListing | PointsmanError:
    try:
        return await admin.list_adapters()
    except PointsmanError as error:
        return error


def _model(
    model: str, listings: Sequence[tuple[EngineState, AdapterListing | PointsmanError]], allowed: AllowedNames
) -> ModelAdapters:
    """Versions, aliases and changes are those of the first lora-server that answered, since all share one registry."""
    read = [listing for _, listing in listings if isinstance(listing, AdapterListing)]
    first = read[0] if read else AdapterListing((), (), ())
    return ModelAdapters(
        model,
        [_engine(state.engine.name, listing, allowed) for state, listing in listings],
        [version for version in first.versions if _is_allowed(version.version, allowed)],
        [alias for alias in first.aliases if _is_allowed(alias.alias, allowed)],
        [change for change in first.changes if _is_allowed(change.subject, allowed)],
    )


def _engine(name: str, listing: AdapterListing | PointsmanError, allowed: AllowedNames) -> EngineAdapters:
    if isinstance(listing, PointsmanError):
        return EngineAdapters(name, listing.message, {})
    states = {one.version: one.state for one in listing.versions if _is_allowed(one.version, allowed)}
    return EngineAdapters(name, "", states)


def _is_allowed(name: str, allowed: AllowedNames) -> bool:
    return allowed is None or name.partition("@")[0] in allowed


async def move(states: Sequence[EngineState], model: str, action: str, wanted: AliasMove) -> Alias:
    """Raises NotFound if no lora-server has adapters of `model`, Unavailable if none of them answers."""
    clients = [(state.engine.model, state.adapter_admin) for state in states if state.adapter_admin is not None]
    admins = [client for of_model, client in clients if of_model == model]
    if not admins:
        known = sorted({of_model for of_model, _ in clients})
        raise NotFound(
            f"no lora-server has adapters of '{model[:100]}'; known: {', '.join(known) or 'none'}",
            code="unknown_model",
            param="model",
        )
    *first, last = admins
    for admin in first:
        try:
            return await ACTIONS[action](admin, wanted)
        except Unavailable as error:
            if error.code != "lora_server_unavailable":  # it did answer, and another one would answer the same
                raise
    return await ACTIONS[action](last, wanted)
