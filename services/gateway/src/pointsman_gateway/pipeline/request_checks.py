"""Checks of a decoded request that are the same for every API. A request that fails a check uses no slot and nothing of
the caller's limits.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.template_variables import TEMPLATE_VARIABLES, check_template_variables
from pointsman_gateway.domain import Message, Request

ROLES = frozenset({"system", "user", "assistant", "tool", "function"})
_role_of = attrgetter("role")
MAX_METADATA_ENTRIES, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
"""The limits of metadata: number of entries, characters of a key, and characters of a value. OpenAI has the same."""
MAX_USER_CHARACTERS = 512
MAX_CHOICES = 128
"""Maximum of `n`, the number of choices; OpenAI has the same limit."""


def check_request(request: Request) -> None:
    """Raises InvalidArgument if the request's fields are invalid; the same checks hold for every API.

    Checked are an empty model or no messages, roles outside `ROLES`, the size of metadata and `user`
    (`MAX_METADATA_ENTRIES` and the constants after it), `n` from 1 to `MAX_CHOICES`, and `chat_template_kwargs`.
    """
    if not request.model:
        raise InvalidArgument("'model' is empty; 'auto' lets the gateway choose", code="missing_model", param="model")
    if not request.messages:
        raise InvalidArgument("'messages' is empty; send at least one", code="empty_messages", param="messages")
    if not ROLES.issuperset(map(_role_of, request.messages)):
        raise _bad_role(request.messages)
    if request.metadata:
        _check_metadata(request.metadata)
    if len(request.user) > MAX_USER_CHARACTERS:
        raise InvalidArgument(f"'user' has over {MAX_USER_CHARACTERS} characters", code="bad_parameter", param="user")
    if extra := request.sampling.extra:
        if (choices := extra.get("n")) is not None:
            _check_choices(choices)
        check_template_variables(extra.get(TEMPLATE_VARIABLES))


def _check_choices(choices: object) -> None:
    """Raises InvalidArgument unless `n`, the number of choices, is a whole number from 1 to `MAX_CHOICES`."""
    if type(choices) is not int or not 1 <= choices <= MAX_CHOICES:
        raise InvalidArgument(
            f"'n' is {str(choices)[:50]!r}; it is a whole number from 1 to {MAX_CHOICES}",
            code="bad_parameter",
            param="n",
        )


def _bad_role(messages: Sequence[Message]) -> InvalidArgument:
    number, role = next((i, message.role) for i, message in enumerate(messages) if message.role not in ROLES)
    known = ", ".join(sorted({*ROLES, "developer"}))
    where = f"messages[{number}].role"
    return InvalidArgument(f"{where} is '{role[:50]}'; known: {known}", code="bad_role", param=where)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    too_long = any(len(k) > MAX_METADATA_KEY or len(v) > MAX_METADATA_VALUE for k, v in metadata.items())
    if len(metadata) > MAX_METADATA_ENTRIES or too_long:
        raise InvalidArgument(
            f"'metadata' may have at most {MAX_METADATA_ENTRIES} entries, "
            f"with keys of {MAX_METADATA_KEY} and values of {MAX_METADATA_VALUE} characters",
            code="bad_parameter",
            param="metadata",
        )
