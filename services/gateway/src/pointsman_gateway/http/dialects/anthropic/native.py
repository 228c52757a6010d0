"""Keeps the fields of a Messages API request that OpenAI's chat completions lack, for engines that have Anthropic's
API.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pointsman_gateway.http.fields import bad_parameter

PASSED_FIELDS = ("cache_control", "context_management", "service_tier")
"""Undeclared fields of a body that engines with Anthropic's format get unchanged."""
NATIVE_FIELDS = frozenset({*PASSED_FIELDS, "betas"})
"""Undeclared fields of a body that only engines with Anthropic's format get."""
COMMON_OUTPUT = frozenset({"format", "effort"})
"""Fields of `output_config` in the Messages API that have an equivalent in chat completions."""
CLIENT_TOOL = re.compile(r"(bash|text_editor|computer|memory)_20\d{6}")
"""Matches the type of a tool that Anthropic has trained its models for, and that the client runs."""
COMMON_TOOL = frozenset({"type", "name", "description", "input_schema", "strict"})
"""Fields of a tool in the Messages API that have an equivalent in chat completions."""
SERVER_TOOL_FIELDS = frozenset({"defer_loading", "allowed_callers"})
"""Fields of a tool that refer to tools which Anthropic runs itself. The gateway leaves out both."""
MAX_BETAS = 32


def to_native(
    extra: Mapping[str, Any], thinking: Any, output: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Returns the fields of a Messages API body that only engines with Anthropic's API get; None if there are none.

    `extra` are the body's undeclared fields, `thinking` and `tools` its fields with these names, and `output` its
    `output_config`. `tools` is in the result, with all tools that the client runs, if chat completions cannot
    express one of them. Raises InvalidArgument if `betas` is not a list of at most `MAX_BETAS` strings.
    """
    native = {name: extra[name] for name in PASSED_FIELDS if extra.get(name) is not None}
    if thinking:
        native["thinking"] = thinking
    own_output = {name: value for name, value in output.items() if name not in COMMON_OUTPUT and value is not None}
    if own_output:
        native["output_config"] = own_output
    if any(_is_native(tool) for tool in tools):
        native["tools"] = [_without_server_fields(tool) for tool in tools if is_run_by_client(tool)]
    betas = extra.get("betas")
    if betas:
        native["betas"] = check_betas(betas)
    return native or None


def is_run_by_client(tool: Mapping[str, Any]) -> bool:
    kind = tool.get("type")
    return kind in (None, "custom") or (isinstance(kind, str) and CLIENT_TOOL.fullmatch(kind) is not None)


def _is_native(tool: Mapping[str, Any]) -> bool:
    return is_run_by_client(tool) and (
        tool.get("type") not in (None, "custom") or not tool.keys() <= COMMON_TOOL | SERVER_TOOL_FIELDS
    )


def _without_server_fields(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in tool.items() if name not in SERVER_TOOL_FIELDS}


def check_betas(betas: Any) -> list[str]:
    """Returns `betas`; raises InvalidArgument if it is not a list of at most `MAX_BETAS` strings."""
    if not isinstance(betas, list) or len(betas) > MAX_BETAS or not all(isinstance(beta, str) for beta in betas):
        raise bad_parameter(f"'betas' must be a list of at most {MAX_BETAS} strings", "betas")
    return betas
