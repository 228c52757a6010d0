"""The dialects of the HTTP API, and which of them a request belongs to."""

from starlette.types import Scope

from pointsman_gateway.http.dialect import Dialect
from pointsman_gateway.http.dialects.anthropic.messages import MESSAGES
from pointsman_gateway.http.dialects.openai.chat import CHAT
from pointsman_gateway.http.dialects.openai.completions import COMPLETIONS
from pointsman_gateway.http.dialects.openai.responses import RESPONSES

DIALECTS: tuple[Dialect, ...] = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
MODELS_PATH = "/v1/models"


def dialect_at(path: str) -> Dialect:
    """Returns the dialect to whose path, or a path below it, a request was sent; OpenAI's chat for all other paths."""
    return next((dialect for dialect in DIALECTS if path.startswith(dialect.path)), CHAT)


def dialect_of(scope: Scope) -> Dialect:
    """Returns the dialect of a request by its path, and for models, which several APIs have, by its headers."""
    path: str = scope["path"]
    if not path.startswith(MODELS_PATH):
        return dialect_at(path)
    names = {name for name, _ in scope["headers"]}
    return next((dialect for dialect in DIALECTS if dialect.models and dialect.models.header in names), CHAT)
