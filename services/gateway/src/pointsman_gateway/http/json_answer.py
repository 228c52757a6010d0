"""The JSON responses of the admin API and of the console, which must not be cached."""

from typing import Any

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


def json_answer(content: Any, status: int = 200) -> Response:
    """Returns a JSON response that must not be cached."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(_encode(content), status, headers, media_type="application/json")
