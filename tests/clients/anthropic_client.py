"""Anthropic's client for Python."""

import json
from typing import Any

import anthropic
from checks import (
    BASE_MODEL,
    CITIES,
    MESSAGES,
    PERSON,
    PLAIN,
    QUESTION,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    WEATHER,
    WEATHER_QUESTION,
    is_person,
    parallel_calls,
    run,
)

TOOL: dict[str, Any] = {
    "name": WEATHER["name"],
    "description": WEATHER["description"],
    "input_schema": WEATHER["parameters"],
}
CAPITAL: dict[str, Any] = {
    "model": BASE_MODEL,
    "extra_body": {"temperature": 0},  # this version has no parameter for it
    "max_tokens": 12,
    "messages": [{"role": "user", "content": QUESTION}],
}
FORECAST: dict[str, Any] = {
    **CAPITAL,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": WEATHER_QUESTION}],
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "get_weather"},
}


def messages(url: str) -> Any:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0).messages


def assert_weather(answer: Any, cities: tuple[str, ...] = ()) -> None:
    called = [(block.name, block.input["city"]) for block in answer.content if block.type == "tool_use"]
    assert called, answer
    assert answer.stop_reason == "tool_use", answer
    assert all(name == "get_weather" and city in CITIES for name, city in called), called
    assert not cities or tuple(city for _, city in called) == cities, called


def parallel_blocks() -> list[dict[str, Any]]:
    """Returns the conversation of `parallel_calls` in Anthropic's format."""
    converted: list[dict[str, Any]] = []
    for message in parallel_calls():
        calls = [
            {
                "type": "tool_use",
                "id": call["id"],
                "name": call["function"]["name"],
                "input": json.loads(call["function"]["arguments"]),
            }
            for call in message.get("tool_calls", ())
        ]
        converted.append({"role": message["role"], "content": calls or message["content"]})
    return converted


def plain(url: str) -> None:
    answer = messages(url).create(**CAPITAL, system=[{"type": "text", "text": "Be brief."}])
    assert answer.content[0].text, answer
    counted = messages(url).count_tokens(model=BASE_MODEL, messages=CAPITAL["messages"])
    assert counted.input_tokens > 5, counted


def streaming(url: str) -> None:
    with messages(url).stream(**CAPITAL) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert "Paris" in text, text
    assert answer.usage.output_tokens > 0, answer


def tools(url: str) -> None:
    assert_weather(messages(url).create(**FORECAST))
    assert_weather(
        messages(url).create(**FORECAST | {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}})
    )
    assert_weather(
        messages(url).create(**FORECAST | {"messages": parallel_blocks(), "tool_choice": {"type": "auto"}}), CITIES
    )


def streamed_tools(url: str) -> None:
    for request, cities in (
        (FORECAST, ()),
        (FORECAST | {"messages": parallel_blocks(), "tool_choice": {"type": "auto"}}, CITIES),
    ):
        with messages(url).stream(**request) as stream:
            assert_weather(stream.get_final_message(), cities)


def tool_results(url: str) -> None:
    first = messages(url).create(**FORECAST)
    call = next(block for block in first.content if block.type == "tool_use")
    later = [
        *FORECAST["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    second = messages(url).create(**CAPITAL | {"messages": later, "tools": [TOOL]})
    assert second.usage.input_tokens > first.usage.input_tokens + 20, (first, second)
    tool_runner(url)


def tool_runner(url: str) -> None:
    """Checks the SDK's tool runner: it calls the function, and sends the function's result with the whole
    conversation.
    """
    cities: list[str] = []

    @anthropic.beta_tool(input_schema=TOOL["input_schema"])
    def get_weather(city: str) -> str:
        """The weather of a city"""
        cities.append(city)
        return "sunny"

    runner = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0).beta.messages.tool_runner(
        **FORECAST | {"tools": [get_weather]}, max_iterations=2
    )
    first, second = runner
    assert cities, first  # the second one calls it again, since `tool_choice` names it
    assert second.usage.input_tokens > first.usage.input_tokens + 20, (first, second)


def structured(url: str) -> None:
    tool = {"name": "person", "description": "A person", "input_schema": PERSON}
    request = {**FORECAST, "model": "auto", "messages": [{"role": "user", "content": SENTENCE}], "max_tokens": 200}
    answer = messages(url).create(**request | {"tools": [tool], "tool_choice": {"type": "tool", "name": "person"}})
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert is_person(call.input), answer
    answer = messages(url).create(
        model="auto",
        extra_body={"temperature": 0},
        max_tokens=200,
        messages=request["messages"],
        output_config={"format": {"type": "json_schema", "schema": PERSON}},
    )
    assert is_person(json.loads(answer.content[0].text)), answer


if __name__ == "__main__":
    run(
        {
            MESSAGES: {
                PLAIN: plain,
                STREAMING: streaming,
                TOOLS: tools,
                STREAMED_TOOLS: streamed_tools,
                TOOL_RESULTS: tool_results,
                STRUCTURED: structured,
            }
        }
    )
