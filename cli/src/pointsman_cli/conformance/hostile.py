"""Adapters that do not fit, names that are paths, and, if the caller allows it, what can stop an engine."""

from typing import Any

from pointsman_cli.conformance.adapter_shelf import NAN, UNFIT
from pointsman_cli.conformance.answers import BASE
from pointsman_cli.conformance.bench import PROMPTS, Bench, Chosen
from pointsman_cli.conformance.controls import ControlRefused
from pointsman_cli.conformance.findings import Property

ALIVE_SECONDS = 20.0
"""How long an engine may not answer before it counts as stopped."""


async def check_unfit_adapters(bench: Bench) -> None:
    """Loads adapters for another base model, which an engine should refuse: it cannot answer with them."""
    for kind in UNFIT:
        name = bench.name(kind)
        try:
            await bench.load(name, kind)
        except ControlRefused:
            bench.findings.passed(Property.NO_EFFECT)
            bench.loaded.discard(name)
            continue
        answer = await bench.ask(name, PROMPTS[0])
        if answer.error:
            bench.findings.weak(Property.NO_EFFECT, f"an adapter with {kind} is loaded, and then fails: {answer.error}")
        else:
            as_base = bench.known.compare(answer, BASE).is_same
            effect = "without any effect" if as_base else "with a wrong effect"
            bench.findings.failed(
                Property.NO_EFFECT, f"an adapter with {kind} is accepted, {effect}", len(answer.tokens)
            )
        await bench.unload(name)


async def check_file_names(bench: Bench) -> None:
    """Requests models whose names are paths to an adapter that is not loaded, and looks for paths in /v1/models."""
    version = bench.shelf.versions()[0]
    path = bench.shelf.engine_path(bench.shelf.made(version))
    for name in (path, f"file://{path}", f"../made/{version}", f"../../{bench.shelf.folder.name}/made/{version}"):
        answer = await bench.api.complete(name, PROMPTS[2], 1)
        if answer.tokens:
            bench.findings.failed(Property.FILE_NAMES, f"a request for the model {_shortened(name)} is answered")
            bench.loaded.add(name)
        else:
            bench.findings.passed(Property.FILE_NAMES)
    async with bench.holding({"shown": version}) as (name,):
        shown = [model for model in await bench.api.models() if model["id"] == bench.control.model(name)]
    if any(bench.shelf.engine_folder in text for text in _texts(shown)):
        bench.findings.weak(Property.FILE_NAMES, "/v1/models shows the folders of adapters")
    else:
        bench.findings.passed(Property.FILE_NAMES)
    if await bench.control.opens_to_anyone():
        bench.findings.weak(
            Property.FILE_NAMES, "without a key, anyone who reaches the port loads adapters from any folder"
        )
    else:
        bench.findings.passed(Property.FILE_NAMES)


async def check_harm(bench: Bench, chosen: Chosen, slots: int) -> None:
    """Loads NaN weights, and requests an adapter whose folder is gone after others have taken its slot."""
    await _check_vanished_folder(bench, chosen, slots)
    if not await bench.api.answers_within(ALIVE_SECONDS):
        return
    name = bench.name("nan")
    try:
        await bench.load(name, NAN)
    except ControlRefused:
        bench.findings.passed(Property.BASE_CHANGED)
        bench.loaded.discard(name)
    else:
        await bench.ask(name, PROMPTS[0])
        await bench.unload(name)
    await bench.check_base("the base model, after an adapter with NaN")


async def _check_vanished_folder(bench: Bench, chosen: Chosen, slots: int) -> None:
    vanished = bench.name("vanished")
    others = {bench.name(f"other-{number}"): chosen.first for number in range(slots)}
    await bench.load(vanished, chosen.second)
    bench.judge(await bench.ask(vanished, PROMPTS[0]), chosen.second, "an adapter whose folder is there")
    bench.shelf.withdraw(vanished)
    for name, version in others.items():
        try:
            await bench.load(name, version)
        except ControlRefused:
            break
        bench.judge(await bench.ask(name, PROMPTS[0]), version, "an adapter that takes another's slot")
    answer = await bench.ask(vanished, PROMPTS[1])
    if not answer.error:
        bench.judge(answer, chosen.second, "an adapter whose folder is gone")
    if not await bench.api.answers_within(ALIVE_SECONDS):
        bench.findings.failed(
            Property.FAILED_REQUESTS, "the engine stops when an adapter is requested whose folder is gone"
        )
        return
    bench.findings.passed(Property.FAILED_REQUESTS)
    for name in (vanished, *others):
        try:
            await bench.unload(name)
        except ControlRefused:
            bench.loaded.discard(name)


def _texts(value: Any) -> list[str]:
    """Returns all texts in a JSON value."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def _shortened(name: str) -> str:
    """Returns the name without the middle of its path, which is the caller's."""
    return name if len(name) <= 40 else f"{name[:8]}...{name[-24:]}"
