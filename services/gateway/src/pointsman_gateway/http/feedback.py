"""`POST /v1/feedback`: what someone says of an answer."""

from typing import Protocol

from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.responses import Response

from pointsman_gateway.domain import Caller, Feedback
from pointsman_gateway.http.bounded_fields import KnownNames


class Stored(Protocol):
    """Where feedback was put."""

    @property
    def where(self) -> str:
        """ "request_log" or "wal"."""
        ...

    @property
    def known_already(self) -> bool: ...


class FeedbackBox(Protocol):
    """Takes what is said."""

    async def take(self, feedback: Feedback) -> Stored:
        """Returns once it is kept. Raises PointsmanError."""
        ...


class FeedbackBody(KnownNames):
    decision_id: str = Field(default="", description="the answer's x-pointsman-decision-id, or its id")
    id: str = Field(default="", description="names this feedback: sent twice, it counts once; empty: its content does")
    rating: float | None = Field(default=None, strict=True, description="0 (bad) to 1 (good)")
    correction: str = Field(default="", description="what was wrong, in words")
    right_task: str = Field(default="", description='the task that it should have been; "unknown": none')
    right_answer: str = Field(default="", description="what should have been answered")

    def to_feedback(self, caller: Caller) -> Feedback:
        return Feedback(**self.model_dump(), tenant=caller.tenant)


def feedback_answer(stored: Stored) -> Response:
    body = {"stored": stored.where, "known_already": stored.known_already}
    return JSONResponse(body, status_code=202 if stored.where == "wal" else 200)
