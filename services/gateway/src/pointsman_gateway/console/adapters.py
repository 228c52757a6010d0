"""Adapters over all engines: read from each lora-server, moved through the first of the base model that answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from pointsman_servicekit.errors import NotFound, PointsmanError, Unavailable

from pointsman_gateway.console.overview import EngineAdapters, ModelAdapters
from pointsman_gateway.domain.adapters import AdapterListing, Alias, AliasMove
from pointsman_gateway.domain.caller import AllowedNames
from pointsman_gateway.engines.engines import Cell


class Desk(Protocol):
    """One lora-server's word on adapters. Each method raises PointsmanError."""

    async def read(self) -> AdapterListing: ...

    async def point(self, move: AliasMove) -> Alias: ...

    async def try_out(self, move: AliasMove) -> Alias: ...

    async def roll_back(self, move: AliasMove) -> Alias: ...


Action = Callable[[Desk, AliasMove], Awaitable[Alias]]


async def _point(desk: Desk, move: AliasMove) -> Alias:
    return await desk.point(move)


async def _try_out(desk: Desk, move: AliasMove) -> Alias:
    return await desk.try_out(move)


async def _roll_back(desk: Desk, move: AliasMove) -> Alias:
    return await desk.roll_back(move)


ACTIONS: Mapping[str, Action] = {"alias": _point, "canary": _try_out, "rollback": _roll_back}


async def read(cells: Sequence[Cell], allowed: AllowedNames) -> list[ModelAdapters]:
    """By base model; engines without a lora-server have no adapters. `allowed` are adapters' names."""
    asked = [cell for cell in cells if cell.desk is not None]
    told = await asyncio.gather(*[_ask(cell.desk) for cell in asked if cell.desk is not None])
    models = dict.fromkeys(cell.engine.model for cell in asked)
    return [
        _model(model, [(c, t) for c, t in zip(asked, told, strict=True) if c.engine.model == model], allowed)
        for model in models
    ]


async def _ask(desk: Desk) -> AdapterListing | PointsmanError:
    try:
        return await desk.read()
    except PointsmanError as error:
        return error


def _model(
    model: str, told: Sequence[tuple[Cell, AdapterListing | PointsmanError]], allowed: AllowedNames
) -> ModelAdapters:
    books = [book for _, book in told if isinstance(book, AdapterListing)]
    book = books[0] if books else AdapterListing((), (), ())
    engines = [_engine(cell.engine.name, said, allowed) for cell, said in told]
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


async def move(cells: Sequence[Cell], model: str, step: str, wanted: AliasMove) -> Alias:
    """Raises NotFound where no lora-server has adapters of `model`, Unavailable where none of them answers."""
    desks = [cell.desk for cell in cells if cell.desk is not None and cell.engine.model == model]
    if not desks:
        known = sorted({cell.engine.model for cell in cells if cell.desk is not None})
        raise NotFound(
            f"no lora-server has adapters of '{model[:100]}'; known: {', '.join(known) or 'none'}",
            code="unknown_model",
            param="model",
        )
    *first, last = desks
    for desk in first:
        try:
            return await ACTIONS[step](desk, wanted)
        except Unavailable as error:
            if error.code != "lora_server_unavailable":  # it has answered: another one would say the same
                raise
    return await ACTIONS[step](last, wanted)
