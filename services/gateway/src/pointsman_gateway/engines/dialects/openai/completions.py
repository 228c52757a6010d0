"""Writes request bodies of chat and text completions in OpenAI's format. `events` parses the answers."""

from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.config.providers import Endpoint
from pointsman_gateway.engines.dialects.openai.events import EventReader
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.engines.engine_dialect import EngineDialect


def openai_body(request: EngineRequest, endpoint: Endpoint) -> dict[str, Any]:
    """Returns the body of a chat or text completion in OpenAI's format.

    `endpoint` says how the engine names some of the fields. Raises InvalidArgument if the request has more stop
    sequences than the provider accepts (`request.api.max_stop`).
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        **sampling.extra,
        "model": request.model,
        **_prompt(request),
        **endpoint.stream,
    }
    if sampling.max_tokens is not None:
        body[endpoint.max_tokens] = sampling.max_tokens
    if sampling.temperature is not None:
        body["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if sampling.seed is not None:
        body[endpoint.seed] = sampling.seed
    if sampling.stop:
        most = request.api.max_stop
        if most is not None and len(sampling.stop) > most:
            message = f"engine '{request.engine}' accepts {most} stop sequences; the request has {len(sampling.stop)}"
            raise InvalidArgument(message, code="bad_parameter", param="stop")
        body["stop"] = sampling.stop
    return body


def _prompt(request: EngineRequest) -> dict[str, Any]:
    if request.operation == "completion":
        # Several prompts and token ids are among the parameters, in the form that the client has sent.
        return {} if "prompt" in request.sampling.extra else {"prompt": request.messages[-1].content}
    return {"messages": [{"role": m.role, "content": m.content, **m.extra} for m in request.messages]}


OPENAI = EngineDialect(name="openai", to_body=openai_body, reader=EventReader)
