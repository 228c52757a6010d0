"""An endpoint dialect: `POST /v1/ask` takes one question, and answers with one text.

Copy it to services/gateway/src/pointsman_gateway/http/dialects/ask.py, and add `"ask:ASK",` to DECLARED in registry.py
beside it.
"""

from collections.abc import Sequence

from fastapi import Request
from pointsman_gateway import domain
from pointsman_gateway.http.dependencies import deadline_of_request, respond
from pointsman_gateway.http.dialect import Dialect
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS, error_body
from pointsman_gateway.http.encoding import to_event, to_json
from pointsman_servicekit.errors import PointsmanError
from pydantic import BaseModel
from starlette.responses import Response


class QuestionBody(BaseModel):
    question: str
    model: str = domain.AUTO
    stream: bool = False


class QuestionEncoder:
    """Encodes the text of an answer; implements `AnswerEncoder`."""

    error_format = OPENAI_ERRORS

    def encode_start(self, started: domain.Started) -> bytes:
        return to_event({"id": f"ask-{started.decision.id}"})

    def encode_chunks(self, chunks: domain.Chunks) -> bytes:
        return b"".join(to_event({"text": chunk.content}) for chunk in chunks if chunk.content)

    def encode_end(self, finished: domain.Finished) -> bytes:
        return to_event({"usd": finished.receipt.cost_usd})

    def encode_error(self, error: PointsmanError) -> bytes:
        return to_event(error_body(error))

    def encode_whole(self, started: domain.Started, chunks: Sequence[domain.Chunk], finished: domain.Finished) -> bytes:
        text = "".join(chunk.content for chunk in chunks)
        return to_json({"id": f"ask-{started.decision.id}", "text": text, "usd": finished.receipt.cost_usd})


async def ask(body: QuestionBody, request: Request) -> Response:
    """Answers one question."""
    message = domain.Message("user", body.question)
    asked = domain.Request(body.model, (message,), deadline=deadline_of_request(request))
    return await respond(request, asked, QuestionEncoder(), body.stream)


ASK = Dialect(path="/v1/ask", handler=ask, error_format=OPENAI_ERRORS)
