"""OpenAI's client for Python."""

import json
from collections.abc import Iterable
from typing import Any

import openai
from checks import (
    BASE_MODEL,
    CHAT,
    CITIES,
    EMBEDDING_MODEL,
    EMBEDDINGS,
    OPENAI_FORMAT,
    OPENAI_TOOL,
    PERSON,
    PLAIN,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TIME,
    TOOL_RESULTS,
    TOOLS,
    WEATHER,
    WEATHER_QUESTION,
    is_person,
    parallel_calls,
    run,
    weather_call,
)

CAPITAL: dict[str, Any] = {"model": BASE_MODEL, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
FORECAST: dict[str, Any] = {**CAPITAL, "messages": [{"role": "user", "content": WEATHER_QUESTION}]}
PARALLEL: dict[str, Any] = {**CAPITAL, "messages": parallel_calls(), "tools": [OPENAI_TOOL], "max_tokens": 100}
RESPONSES_TOOL: dict[str, Any] = {"type": "function", "strict": True, **WEATHER}


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def assert_weather(calls: Iterable[Any], cities: tuple[str, ...] = ()) -> None:
    """Checks that there are calls, all of `get_weather` for a city of the question; with `cities`, for exactly these in
    this order.
    """
    called = [(call.name, json.loads(call.arguments)["city"]) for call in calls]
    assert called, "no call"
    assert all(name == "get_weather" and city in CITIES for name, city in called), called
    assert not cities or tuple(city for _, city in called) == cities, called


# -- chat completions


def plain(url: str) -> None:
    answer = client(url).chat.completions.create(**CAPITAL, max_tokens=12)
    assert "Paris" in (answer.choices[0].message.content or ""), answer


def streaming(url: str) -> None:
    chunks = list(client(url).chat.completions.create(**CAPITAL, max_tokens=12, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text, text


def structured(url: str) -> None:
    for model in (BASE_MODEL, "auto"):
        request = {**CAPITAL, "model": model, "messages": [{"role": "user", "content": SENTENCE}]}
        limit: Any = {"max_tokens": 200} if model == BASE_MODEL else {}  # "auto" has that of its path
        answer = client(url).chat.completions.create(**request, **limit, response_format=OPENAI_FORMAT)
        choice = answer.choices[0]
        assert choice.finish_reason == "stop", answer
        assert is_person(json.loads(choice.message.content or "")), choice


def tools(url: str) -> None:
    chat = client(url).chat.completions
    request = {**FORECAST, "tools": [OPENAI_TOOL, {"type": "function", "function": TIME}]}
    required = chat.create(**request, tool_choice="required", parallel_tool_calls=False, max_tokens=100)
    (call,) = required.choices[0].message.tool_calls or ()
    assert call.function.name in ("get_weather", "get_time"), required
    json.loads(call.function.arguments)
    named = chat.create(**request, tool_choice={"type": "function", "function": {"name": "get_weather"}})
    assert_weather(call.function for call in named.choices[0].message.tool_calls or ())
    none = chat.create(**request, tool_choice="none", max_tokens=12)
    assert not none.choices[0].message.tool_calls, none
    assert "<tool_call>" not in (none.choices[0].message.content or ""), none
    auto = chat.create(**PARALLEL)
    assert auto.choices[0].finish_reason == "tool_calls", auto
    assert_weather((call.function for call in auto.choices[0].message.tool_calls or ()), CITIES)


def streamed_tools(url: str) -> None:
    for request, cities in (
        (
            {
                **FORECAST,
                "tools": [OPENAI_TOOL],
                "tool_choice": "required",
                "parallel_tool_calls": False,
                "max_tokens": 100,
            },
            (),
        ),
        ({**FORECAST, "tools": [OPENAI_TOOL], "tool_choice": OPENAI_TOOL | {"function": {"name": "get_weather"}}}, ()),
        (PARALLEL, CITIES),
    ):
        with client(url).chat.completions.stream(**request) as stream:
            answer = stream.get_final_completion()
        assert answer.choices[0].finish_reason in ("tool_calls", "stop"), answer
        calls = answer.choices[0].message.tool_calls or ()
        assert all(call.id for call in calls), answer
        assert_weather((call.function for call in calls), cities)


def tool_results(url: str) -> None:
    later = [
        *FORECAST["messages"],
        {"role": "assistant", "content": None, "tool_calls": [weather_call("call_1", "Paris")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    request = {**FORECAST, "messages": later, "max_tokens": 12}
    shown = client(url).chat.completions.create(**request, tools=[OPENAI_TOOL])
    without = client(url).chat.completions.create(**request)
    assert shown.usage is not None
    assert without.usage is not None
    assert shown.usage.prompt_tokens > without.usage.prompt_tokens > 40, (shown, without)


# -- responses


def response(url: str) -> None:
    answer = client(url).responses.create(model=BASE_MODEL, input=QUESTION, max_output_tokens=12, temperature=0)
    assert "Paris" in answer.output_text, answer


def streamed_response(url: str) -> None:
    with client(url).responses.stream(model=BASE_MODEL, input=QUESTION, max_output_tokens=12, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert "Paris" in text, text


def structured_response(url: str) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}}
    answer = client(url).responses.create(model="auto", input=SENTENCE, text=text, temperature=0)
    assert answer.status == "completed", answer
    assert is_person(json.loads(answer.output_text)), answer


def calls_of(answer: Any) -> list[Any]:
    return [item for item in answer.output if item.type == "function_call"]


def parallel_items() -> list[Any]:
    """Returns the conversation of `parallel_calls` as items of the Responses API."""
    items: list[Any] = []
    for message in parallel_calls():
        if "tool_calls" in message:
            items += [
                {"type": "function_call", "call_id": call["id"], **call["function"]} for call in message["tool_calls"]
            ]
        else:
            items.append(message)
    return items


def response_tools(url: str) -> None:
    request: dict[str, Any] = {"model": BASE_MODEL, "tools": [RESPONSES_TOOL], "temperature": 0}
    responses = client(url).responses
    named = responses.create(**request, input=WEATHER_QUESTION, tool_choice={"type": "function", "name": "get_weather"})
    assert_weather(calls_of(named))
    none = responses.create(**request, input=WEATHER_QUESTION, tool_choice="none", max_output_tokens=12)
    assert not calls_of(none), none
    auto = responses.create(**request, input=parallel_items(), max_output_tokens=100)
    assert_weather(calls_of(auto), CITIES)


def streamed_response_tools(url: str) -> None:
    for input, choice, cities in (
        (WEATHER_QUESTION, {"type": "function", "name": "get_weather"}, ()),
        (parallel_items(), "auto", CITIES),
    ):
        with client(url).responses.stream(
            model=BASE_MODEL,
            input=input,
            tools=[RESPONSES_TOOL],
            tool_choice=choice,
            temperature=0,
            max_output_tokens=100,
        ) as stream:
            done = [event for event in stream if event.type == "response.function_call_arguments.done"]
            answer = stream.get_final_response()
        assert [event.arguments for event in done] == [call.arguments for call in calls_of(answer)], answer
        assert_weather(calls_of(answer), cities)


def response_tool_results(url: str) -> None:
    question: Any = {"role": "user", "content": WEATHER_QUESTION}
    request: dict[str, Any] = {"model": BASE_MODEL, "tools": [RESPONSES_TOOL], "temperature": 0}
    first = client(url).responses.create(
        **request, input=[question], tool_choice="required", parallel_tool_calls=False, max_output_tokens=100
    )
    (call,) = calls_of(first)
    assert_weather([call])
    second = client(url).responses.create(
        **request,
        input=[
            question,
            call.model_dump(exclude_none=True),
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ],
        max_output_tokens=12,
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + 20, (first, second)


# -- embeddings


def embeddings(url: str) -> None:
    answer = client(url).embeddings.create(model=EMBEDDING_MODEL, input=[QUESTION, SENTENCE])
    assert [len(one.embedding) for one in answer.data] == [384, 384], answer


if __name__ == "__main__":
    run(
        {
            CHAT: {
                PLAIN: plain,
                STREAMING: streaming,
                TOOLS: tools,
                STREAMED_TOOLS: streamed_tools,
                TOOL_RESULTS: tool_results,
                STRUCTURED: structured,
            },
            RESPONSES: {
                PLAIN: response,
                STREAMING: streamed_response,
                TOOLS: response_tools,
                STREAMED_TOOLS: streamed_response_tools,
                TOOL_RESULTS: response_tool_results,
                STRUCTURED: structured_response,
            },
            EMBEDDINGS: {PLAIN: embeddings},
        }
    )
