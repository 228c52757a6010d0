"""The hot route: `POST /v1/chat/completions`, from the bytes of a body to the line, without a framework between."""

import asyncio

from pointsman_gateway.http.asgi_answer import AsgiAnswer, send_error
from pointsman_gateway.http.cache_control import wish_of
from pointsman_gateway.http.callers import caller_of
from pointsman_gateway.http.edge import Call
from pointsman_gateway.http.hang_up import ClientGone
from pointsman_gateway.http.http_door import HttpDoor, deadline_after
from pointsman_gateway.http.openai_answers import ChatEncoder
from pointsman_gateway.http.openai_requests import ChatBody, includes_usage, read_chat
from pointsman_gateway.pipeline.run import to_public_error


class ChatRoute:
    """Answers one conversation."""

    def __init__(self, door: HttpDoor) -> None:
        self._door = door

    async def __call__(self, call: Call) -> None:
        try:
            answer = await self._answer(call)
        except (ClientGone, asyncio.CancelledError) as gone:
            self._door.pipeline.turned_away("chat", None, call.arrived)
            if isinstance(gone, ClientGone):
                return
            raise
        except Exception as error:
            refusal = to_public_error(error)
            self._door.pipeline.turned_away("chat", refusal, call.arrived)
            await send_error(call.send, refusal, call.sent_beside)
            return
        await answer(call.scope, call.receive, call.send)

    async def _answer(self, call: Call) -> AsgiAnswer:
        door = self._door
        caller = await caller_of(door.tenancy, call.headers.get(b"authorization", b"").decode("latin-1"))
        body = read_chat(await call.body())
        deadline = deadline_after(call.headers.get(b"x-request-timeout"), door.request_timeout)
        asked = body.to_request(deadline, caller, wish_of(call.headers.get(b"cache-control")), call.arrived)
        return AsgiAnswer(door.pipeline, asked, encoder_of(body), bool(body.stream), call.sent_beside)


def encoder_of(body: ChatBody) -> ChatEncoder:
    return ChatEncoder(includes_usage(body.stream_options))
