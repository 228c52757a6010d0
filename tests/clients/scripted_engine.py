"""A gateway with the model names of the help desk, in front of a scripted engine that calls tools and fills in schemas.

`python -m tests.clients.scripted_engine FOLDER` prints its addresses, and stops when its input ends. Agents need a
model that chooses tools by itself and reads their long prompts, which no small model does. Tests with this engine check
the gateway's protocol, not the quality of answers.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pointsman_embedding.prepare import prepare

from tests.clients.checks import BASE_MODEL, CITIES, EMBEDDING_MODEL, RERANKER
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import DONE, ScriptedEngine, Step, answer, chunk, running_engine, usage
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.running_example import ROOT

MODEL = ROOT / ".pointsman/models/minilm"
VALUES = {"age": 30, "city": "Paris", "command": "echo sunny", "name": "Ann", "path": "picture.png"}
"""The values that the engine fills in, by the name of the argument or field; other names get the first valid value of
their type."""


@asynccontextmanager
async def scripted_help_desk(folder: Path) -> AsyncIterator[tuple[ProcessGateway, ScriptedEngine]]:
    """Yields the gateway and its engine, which stores the requests that it gets."""
    prepare(MODEL)
    async with running_engine() as engine:
        engine.script = reply
        config = configure(folder / "config", engine.url)
        async with process_gateway(folder, config=config.write(), embedding_model=MODEL) as gateway:
            yield gateway, engine


def configure(folder: Path, engine: str) -> ConfigFolder:
    """Returns a configuration without tasks, in which every unknown model name means the help desk's base model."""
    config = ConfigFolder(folder)
    price = config.models["models"].pop("tiny")
    config.models["models"][BASE_MODEL] = price | {"context_window": 32_768, "input": ["text", "image", "file"]}
    config.models["engines"] = {"local": {"model": BASE_MODEL, "url": engine}}
    config.models["embeddings"] = {EMBEDDING_MODEL: {"local": True, "usd_per_million_tokens": 0}}
    config.models["rerankers"] = {RERANKER: {"url": engine, "usd_per_search": 0.002}}
    config.models["catch_all"] = BASE_MODEL
    config.paths = {"safe_start": {"model": BASE_MODEL}}
    config.tasks = {}
    return config


def reply(body: Mapping[str, Any]) -> Sequence[Step]:
    """Returns the engine's answer to a request: calls of a tool, a document in the requested schema, or a sentence."""
    messages = body["messages"]
    prompt_tokens = len(json.dumps(messages)) // 4
    calls = choose_calls(body)
    if calls:
        return [chunk(tool_calls=calls), chunk(finish="tool_calls"), usage(prompt_tokens, 20), DONE]
    form = (body.get("response_format") or {}).get("json_schema")
    if form:
        return answer(json.dumps(fill(form["schema"])), prompt_tokens=prompt_tokens)
    results = [text_of(message) for message in after_question(messages) if message["role"] == "tool"]
    text = f"The tool says: {', '.join(results)}" if results else "The capital of France is Paris."
    return answer(*(f"{word} " for word in text.split()), prompt_tokens=prompt_tokens)


def choose_calls(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns calls of the required tool, or of the tool that the last question names, unless it was called for that
    question already.

    There is one call for each city in the question.
    """
    question, *later = after_question(body["messages"])
    text = text_of(question).lower()
    called = {call["function"]["name"] for message in later for call in message.get("tool_calls") or ()}
    tools = [tool["function"] for tool in body.get("tools") or () if tool["function"]["name"] not in called]
    wanted = [tool for tool in tools if may_call(body.get("tool_choice") or "auto", tool["name"], text)]
    if not wanted:
        return []
    arguments = [fill(wanted[0].get("parameters", {}))]
    if "city" in arguments[0]:
        arguments = [{"city": city} for city in CITIES if city.lower() in text] or arguments
    return [
        {
            "index": index,
            "id": f"call_{len(body['messages'])}{index}",
            "type": "function",
            "function": {"name": wanted[0]["name"], "arguments": json.dumps(given)},
        }
        for index, given in enumerate(arguments)
    ]


def may_call(choice: Any, name: str, question: str) -> bool:
    match choice:
        case "none":
            return False
        case "required":
            return True
        case "auto":
            return name.rpartition("_")[2] in question
        case named:
            return bool(named["function"]["name"] == name)


def after_question(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Returns the last message of the user and all later ones."""
    return messages[max(index for index, message in enumerate(messages) if message["role"] == "user") :]


def text_of(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def fill(schema: Mapping[str, Any], name: str = "", definitions: Mapping[str, Any] | None = None) -> Any:
    """Returns a value that is valid for the schema and has all required properties."""
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return fill(definitions[schema["$ref"].rpartition("/")[2]], name, definitions)
    if "anyOf" in schema:
        return fill(schema["anyOf"][0], name, definitions)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "object":
            properties = schema.get("properties", {})
            return {name: fill(properties[name], name, definitions) for name in schema.get("required", properties)}
        case "array":
            return [fill(schema["items"], name, definitions)]
        case kind:
            return VALUES.get(name, {"string": "some", "integer": 1, "number": 0.5, "boolean": True}.get(kind))


async def serve(folder: Path) -> None:
    async with scripted_help_desk(folder) as (gateway, _):
        print(json.dumps({"url": gateway.url, "grpc": gateway.grpc_address}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
