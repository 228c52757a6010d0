"""Adapters of all engines: listed from each lora-server, and moved by any lora-server of the base model."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from pointsman_servicekit.errors import NotFound, PointsmanError, Unavailable

from pointsman_gateway.console.overview import EngineAdapters, ModelAdapters
from pointsman_gateway.domain.adapters import AdapterListing, Alias, AliasMove
from pointsman_gateway.domain.caller import AllowedNames
from pointsman_gateway.engines.engines import Cell


class AdapterAdmin(Protocol):
    """The adapter operations of one lora-server. Each method raises PointsmanError."""

    async def read(self) -> AdapterListing: ...

    async def point(self, move: AliasMove) -> Alias: ...

    async def try_out(self, move: AliasMove) -> Alias: ...

    async def roll_back(self, move: AliasMove) -> Alias: ...


Action = Callable[[AdapterAdmin, AliasMove], Awaitable[Alias]]


async def _point(admin: AdapterAdmin, move: AliasMove) -> Alias:
    return await admin.point(move)


async def _try_out(admin: AdapterAdmin, move: AliasMove) -> Alias:
    return await admin.try_out(move)


async def _roll_back(admin: AdapterAdmin, move: AliasMove) -> Alias:
    return await admin.roll_back(move)


ACTIONS: Mapping[str, Action] = {"alias": _point, "canary": _try_out, "rollback": _roll_back}


async def read(cells: Sequence[Cell], allowed: AllowedNames) -> list[ModelAdapters]:
    """By base model. Engines without a lora-server have no adapters. `allowed` are names of adapters."""
    with_admin = [cell for cell in cells if cell.desk is not None]
    listings = await asyncio.gather(*[_listing(cell.desk) for cell in with_admin if cell.desk is not None])
    models = dict.fromkeys(cell.engine.model for cell in with_admin)
    pairs = list(zip(with_admin, listings, strict=True))
    return [
        _model(model, [(cell, listing) for cell, listing in pairs if cell.engine.model == model], allowed)
        for model in models
    ]


async def _listing(admin: AdapterAdmin) -> AdapterListing | PointsmanError:
    try:
        return await admin.read()
    except PointsmanError as error:
        return error


def _model(
    model: str, listings: Sequence[tuple[Cell, AdapterListing | PointsmanError]], allowed: AllowedNames
) -> ModelAdapters:
    """Versions, aliases and changes are those of the first lora-server that answered, since all share one registry."""
    read = [listing for _, listing in listings if isinstance(listing, AdapterListing)]
    first = read[0] if read else AdapterListing((), (), ())
    return ModelAdapters(
        model,
        [_engine(cell.engine.name, listing, allowed) for cell, listing in listings],
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


async def move(cells: Sequence[Cell], model: str, action: str, wanted: AliasMove) -> Alias:
    """Raises NotFound if no lora-server has adapters of `model`, Unavailable if none of them answers."""
    admins = [cell.desk for cell in cells if cell.desk is not None and cell.engine.model == model]
    if not admins:
        known = sorted({cell.engine.model for cell in cells if cell.desk is not None})
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
