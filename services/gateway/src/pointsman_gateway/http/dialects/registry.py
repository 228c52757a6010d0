"""Lists the HTTP API's dialects (each is one API, such as OpenAI's chat completions), and finds the dialect of a
request.

To add a dialect, write a module that declares it, and add one line to DECLARED.
"""

from importlib import import_module

from starlette.types import Scope

from pointsman_gateway.http.dialect import Dialect
from pointsman_gateway.http.dialects.openai.chat import CHAT

DECLARED = (
    "openai.chat:CHAT",
    "openai.completions:COMPLETIONS",
    "openai.responses:RESPONSES",
    "anthropic.messages:MESSAGES",
    "rerank:RERANK",
)
"""The dialects as MODULE:NAME, with modules of this package."""

MODELS_PATH = "/v1/models"


def _declared(dialect: str) -> Dialect:
    module, _, name = dialect.partition(":")
    found = getattr(import_module(f"{__package__}.{module}"), name)
    if not isinstance(found, Dialect):
        raise TypeError(f"{dialect} is a {type(found).__name__}, not a Dialect")
    return found


DIALECTS = tuple(map(_declared, DECLARED))
_PATHS = [(tuple(route.path for route in dialect.routes), dialect) for dialect in DIALECTS]


def dialect_at(path: str) -> Dialect:
    """Returns the dialect to whose endpoints the URL path `path` belongs; OpenAI's chat completions if it belongs
    to none.
    """
    return next((dialect for paths, dialect in _PATHS if path.startswith(paths)), CHAT)


def dialect_of(scope: Scope) -> Dialect:
    """Returns the dialect of a request with this ASGI scope, by its URL path.

    Several APIs have the routes at `MODELS_PATH`; there the request's headers decide (`ModelForm.header`).
    """
    path: str = scope["path"]
    if not path.startswith(MODELS_PATH):
        return dialect_at(path)
    names = {name for name, _ in scope["headers"]}
    return next((dialect for dialect in DIALECTS if dialect.models and dialect.models.header in names), CHAT)
