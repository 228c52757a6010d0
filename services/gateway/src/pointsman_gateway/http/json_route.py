"""A class of FastAPI routes that decode bodies with `decode_json`, or with another function that a subclass names,
instead of Starlette's slower decoder.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from pointsman_gateway.codec.json_body import decode_json

Decode = Callable[[bytes], Any]
"""Decodes the JSON of a body. Raises InvalidArgument if it is invalid; FastAPI wraps the error in an HTTPException."""


class JsonRoute(APIRoute):
    decode: Decode = staticmethod(decode_json)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def decode_and_handle(request: Request) -> Response:
            return await handle(_JsonRequest(request, self.decode))

        return decode_and_handle


class _JsonRequest(Request):
    def __init__(self, request: Request, decode: Decode) -> None:
        super().__init__(request.scope, request.receive)
        self._decode = decode

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = self._decode(await self.body())
        return self._json
