"""The parser of tool calls with which vLLM is started, and the chat template for models whose own does not support
tools."""

import json
import logging
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import pytest
from pointsman_lora_server.engine.tool_calls import NO_TOOL_CALLING, ToolCalling, choose_tool_calling

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    '{%- if tools %}<tool_call>\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\n</tool_call>'
    "{% endif %}"
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def model(folder: Path, template: str = "", model_type: str = "llama", tokenizer: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    if tokenizer is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def render(template: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = json.dumps
    return environment.from_string(template).render(messages=messages, tools=tools, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("template", "model_type", "parser"),
    [
        (QWEN, "qwen2", "hermes"),
        ("{{ tools }}<tool_call>\n<function=name>\n<parameter=key>", "qwen3_moe", "qwen3_coder"),
        ("{% if tools %}{{ 'Environment: ipython' }}{% endif %}", "llama", "llama3_json"),
        ("[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS][TOOL_CALLS]", "mistral", "mistral"),
        ("<｜tool▁calls▁begin｜>{{ tools }}```json", "deepseek_v3", "deepseek_v3"),
        ("<｜tool▁calls▁begin｜>{{ tools }}", "deepseek_v3", "deepseek_v31"),
        ("<|start_of_role|>{{ tools }}<|tool_call|>", "granite", "granite"),
        ("<|start_of_role|>{{ tools }}<tool_call>", "granitemoehybrid", "granite4"),
        ("[gMASK]<sop>{{ tools }}<tool_call><arg_key>", "glm4_moe", "glm45"),
        ("{{ tools }}", "gpt_oss", "openai"),
    ],
)
def test_the_chat_template_determines_the_parser(tmp_path: Path, template: str, model_type: str, parser: str) -> None:
    assert choose_tool_calling(model(tmp_path, template, model_type), "auto") == ToolCalling(parser)


def test_the_tool_template_is_used_if_there_are_several(tmp_path: Path) -> None:
    invalid = ["a text", {"name": []}]
    named = [*invalid, {"name": "default", "template": CHATML}, {"name": "tool_use", "template": QWEN}]

    assert choose_tool_calling(model(tmp_path, tokenizer={"chat_template": named}), "auto").parser == "hermes"


def test_an_unknown_format_is_logged_with_the_setting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    assert choose_tool_calling(model(tmp_path, "{{ tools }}"), "auto") == NO_TOOL_CALLING

    assert "POINTSMAN_LORA_TOOL_CALL_PARSER" in caplog.text


def test_the_setting_wins_and_off_sets_nothing(tmp_path: Path) -> None:
    folder = model(tmp_path, QWEN)

    assert choose_tool_calling(folder, "pythonic") == ToolCalling("pythonic")
    assert choose_tool_calling(folder, "off").arguments == ()
    assert choose_tool_calling(tmp_path / "missing", "auto") == NO_TOOL_CALLING


def test_vllm_gets_the_parser_and_constrains_calls_to_their_schemas(tmp_path: Path) -> None:
    arguments = choose_tool_calling(model(tmp_path, QWEN), "auto").arguments

    assert arguments == (
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *("--tool-strict-level", "parameter", "--exclude-tools-when-tool-choice-none"),
    )


def test_a_chatml_template_without_tools_learns_to_render_them(tmp_path: Path) -> None:
    chosen = choose_tool_calling(model(tmp_path, CHATML), "auto")
    conversation: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    later = [
        *conversation,
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]

    assert chosen.parser == "hermes"
    assert chosen.arguments[-2:] == ("--chat-template", chosen.chat_template)
    assert render(chosen.chat_template, conversation) == render(CHATML, conversation)
    shown = render(chosen.chat_template, conversation, [WEATHER])
    assert shown.startswith("<|im_start|>system\nBe brief.\n\nYou can call these functions:\n<tools>\n")
    assert json.dumps(WEATHER) in shown
    written = render(chosen.chat_template, later, [WEATHER])
    assert written.count('<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>') == 2
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in written
    without = render(chosen.chat_template, later)
    assert "sunny" in without
    assert "You can call" not in without
