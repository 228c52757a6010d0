"""Checks that an engine refuses adapters that do not fit its base model, and model names that are paths of files."""

from typing import Any

from pointsman_cli.conformance.adapter_shelf import UNFIT
from pointsman_cli.conformance.answers import BASE
from pointsman_cli.conformance.bench import PROMPTS, Bench
from pointsman_cli.conformance.errors import ApiError, ControlRefused
from pointsman_cli.conformance.findings import Property

UP = "../" * 12
"""A relative path that leads to the root folder from any folder up to 12 levels deep."""


async def check_unfit_adapters(bench: Bench) -> None:
    """Checks that the engine refuses to load adapters that are made for another base model."""
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
    """Checks that the engine does not read files by a request's model name, and does not reveal its folders.

    Requests models whose names are paths of an adapter that is not loaded, looks for paths in /v1/models, and tries to
    load an adapter without a key. Raises ControlRefused if an adapter cannot be loaded, or the models cannot be listed.
    """
    version = bench.shelf.versions()[0]
    # vLLM's resolver loads adapters whose config names the base model as the server does.
    roots = [model.get("root") for model in await _models(bench) if model["id"] == bench.base_model]
    path = bench.shelf.serve(bench.name("path"), version, str(roots[0]) if roots and roots[0] else bench.base_model)
    for name in (path, f"file://{path}", f"{UP}{path.lstrip('/')}"):
        answer = await bench.ask(name, PROMPTS[2])
        if not answer.tokens and answer.status >= 500 and not answer.is_overload:
            what = f"a request for the model {_shortened(name)} fails inside of the server: {answer.error}"
            bench.findings.weak(Property.FILE_NAMES, what)
        elif not answer.tokens:
            bench.findings.passed(Property.FILE_NAMES)
        elif bench.known.compare(answer, BASE).is_same:
            bench.findings.passed(Property.FILE_NAMES)
            bench.findings.note("models that do not exist are answered by the base model")
        else:
            bench.findings.failed(Property.FILE_NAMES, f"a request for the model {_shortened(name)} is answered")
            bench.loaded.add(name)
    async with bench.holding({"shown": version}) as (name,):
        ids = (name, bench.control.model(name))
        shown = [model for model in await _models(bench) if model["id"] in ids]
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


async def _models(bench: Bench) -> list[dict[str, Any]]:
    try:
        return await bench.api.models()
    except ApiError as error:
        raise ControlRefused(f"/v1/models: {error}") from error


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
