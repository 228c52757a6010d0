"""Checks the variables of an engine's chat template that a request sets (`chat_template_kwargs`)."""

from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.json_body import MAX_NAME_CHARACTERS

TEMPLATE_VARIABLES = "chat_template_kwargs"
RESERVED_VARIABLES = frozenset(
    {"chat_template", "conversation", "messages", "tools", "functions", "documents", "tokenize", "tokenizer_kwargs",
     "processor_kwargs", "padding", "truncation", "max_length", "return_tensors", "return_dict",
     "return_assistant_tokens_mask", "load_audio_from_video"}
)  # fmt: skip
"""Names of parameters of Hugging Face's `apply_chat_template`, which a request's template variables must not have. Many
engines pass the variables to this function, so a request could replace the template or the conversation."""
MAX_VARIABLES = 32
MAX_TEXT_CHARACTERS = 256


def check_template_variables(variables: Any) -> None:
    """Checks a request's `chat_template_kwargs`; None stands for no variables.

    Raises InvalidArgument unless they are an object of at most `MAX_VARIABLES` entries, without names in
    `RESERVED_VARIABLES`, and each value is null, a boolean, a number, or a text of at most `MAX_TEXT_CHARACTERS`.
    """
    if variables is None:
        return
    if not isinstance(variables, dict) or len(variables) > MAX_VARIABLES:
        raise _bad(TEMPLATE_VARIABLES, f"must be an object with at most {MAX_VARIABLES} entries")
    for name, value in variables.items():
        shown = f"{TEMPLATE_VARIABLES}.{name[:MAX_NAME_CHARACTERS]}"
        if name in RESERVED_VARIABLES:
            message = f"'{shown}' cannot be set by a request: the engine's template and the request's own fields apply"
            raise InvalidArgument(message, code="unsupported_parameter", param=shown)
        is_simple = isinstance(value, bool | int | float | None)
        if not is_simple and not (isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS):
            raise _bad(shown, f"must be true, false, a number, or a text of at most {MAX_TEXT_CHARACTERS} characters")


def _bad(param: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"'{param}' {problem}", code="bad_parameter", param=param)
