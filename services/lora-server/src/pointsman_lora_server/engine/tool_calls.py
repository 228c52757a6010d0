"""Chooses vLLM's tool-call parser for the base model, and adds a chat template that renders tools if the model's own
template does not.

A parser extracts the tool calls from the model's text, so it must match the format that the model was trained to write.
The chat template shows this format. It is a better indication than the architecture, because models of one architecture
use many formats.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

AUTO = "auto"
OFF = "off"

HERMES = "hermes"
"""The parser for models that write each tool call as one JSON object inside <tool_call></tool_call>."""

# The first row whose marks are all in the chat template applies, so a format comes before those that contain its marks.
_BY_CHAT_TEMPLATE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<｜DSML｜ calls>",), "deepseek_v41"),
    (("<｜DSML｜tool_calls>",), "deepseek_v4"),
    (("<｜DSML｜function_calls>",), "deepseek_v32"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek_v3"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v31"),
    (("<｜tool_calls_begin｜>",), "step3"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<seed:tool_call>",), "seed_oss"),
    (("<longcat_tool_call>",), "longcat"),
    (("<ifm|tool_call>",), "k2_horizon"),
    (("<dots_function_call>",), "dots"),
    (("<|plamo:begin_tool_requests:plamo|>",), "plamo3"),
    (("<start_function_call>",), "functiongemma"),
    (("<|tool_call>",), "gemma4"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<|tools_prefix|>",), "apertus"),
    (("<|START_ACTION|>",), "cohere_command3"),
    (("<|action_start|>",), "internlm"),
    (("<function_calls>",), "olmo3"),
    (("[TOOL_CALLS]",), "mistral"),
    (("[gMASK]", "<arg_key>"), "glm45"),
    (("<function=", "<parameter="), "qwen3_coder"),
    (("<|python_start|>",), "llama4_pythonic"),
    (("Environment: ipython",), "llama3_json"),
    (("<|start_of_role|>", "<tool_call>"), "granite4"),
    (("<|start_of_role|>", "tools"), "granite"),
    (("<tool_call>", "arguments"), HERMES),
)
# For models whose chat template is code of the engine, or shows no call.
_BY_MODEL_TYPE = {
    "gpt_oss": "openai",
    "mistral": "mistral",
    "mistral3": "mistral",
    "mixtral": "mistral",
    "jamba": "jamba",
    "ernie4_5_moe": "ernie45",
    "hunyuan_v1_moe": "hunyuan_a13b",
}
_CHATML = "<|im_start|>"
_TOOLS_AS_TEXT = Path(__file__).parent / "tools_as_text.jinja"


@dataclass(frozen=True, slots=True)
class ToolCalling:
    """The parser with which the engine reads tool calls, and the chat template with which it renders tools."""

    parser: str = ""
    """vLLM's name of the parser. If it is empty, the engine rejects requests with tools."""
    chat_template: str = ""
    """A chat template that replaces the model's own; empty keeps the model's own."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Returns vLLM's command-line arguments for tool calls; empty if there is no parser.

        They make vLLM enforce the schemas of functions even without `strict: true`. If a request has `tool_choice:
        none`, they keep the tools out of the prompt, because the client would receive a tool call as text.
        """
        if not self.parser:
            return ()
        template = ("--chat-template", self.chat_template) if self.chat_template else ()
        parser = ("--enable-auto-tool-choice", "--tool-call-parser", self.parser)
        return (*parser, "--tool-strict-level", "parameter", "--exclude-tools-when-tool-choice-none", *template)


NO_TOOL_CALLING = ToolCalling()


def choose_tool_calling(model: Path, setting: str) -> ToolCalling:
    """Returns the parser and the chat template for the base model in the folder `model`.

    `setting` is "off" (no parser), the name of one of vLLM's parsers, or "auto", which chooses the parser by the
    model's chat template or else by its model type. If "auto" finds no parser, it logs a warning and returns none. A
    chat template is only returned with the parser "hermes", for a ChatML model whose own template does not render
    tools.
    """
    if setting == OFF:
        return NO_TOOL_CALLING
    template = _read_chat_template(model)
    teaches = _CHATML in template and "tools" not in template
    if setting != AUTO:
        parser = setting
    elif teaches:
        parser = HERMES
    else:
        parser = _detect_parser(template, _read_json(model / "config.json").get("model_type"))
    if not parser:
        log.warning(
            "no tool-call parser is known for %s, so requests with tools are refused; set "
            "POINTSMAN_LORA_TOOL_CALL_PARSER to the one that vLLM's documentation names for the model",
            model,
        )
    return ToolCalling(parser, with_tools(template) if teaches and parser == HERMES else "")


def with_tools(template: str) -> str:
    """Returns a chat template that first converts tools, tool calls and their results into text, and then applies
    `template`.

    Conversations without tools are rendered as by `template` alone.
    """
    return _TOOLS_AS_TEXT.read_text() + template


def _detect_parser(template: str, model_type: object) -> str:
    for marks, parser in _BY_CHAT_TEMPLATE:
        if all(mark in template for mark in marks):
            return parser
    return _BY_MODEL_TYPE.get(model_type, "") if isinstance(model_type, str) else ""


def _read_chat_template(model: Path) -> str:
    """Returns the model's chat template, empty if it has none. If there are several templates, returns the one named
    "tool_use", or else "default".
    """
    try:
        return (model / "chat_template.jinja").read_text()
    except (OSError, ValueError):
        pass
    template = _read_json(model / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("tool_use") or named.get("default")
    return template if isinstance(template, str) else ""


def _read_json(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
