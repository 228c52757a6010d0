"""Requests of OpenAI's other endpoints, read as what they amount to: a conversation."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pointsman_gateway.domain import Request
from pointsman_gateway.http.http_errors import invalid_body
from pointsman_gateway.http.openai_requests import ChatBody


def chat_request(fields: Mapping[str, Any], deadline: float) -> Request:
    """From the fields of `POST /v1/chat/completions`. Raises InvalidArgument."""
    try:
        body = ChatBody.model_validate(fields)
    except ValidationError as error:  # by a field that the endpoint passes on without knowing it
        raise invalid_body(error.errors()[0]) from error
    return body.to_request(deadline)
