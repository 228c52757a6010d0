"""OpenAI's client: chat completions and responses."""

import json
from typing import Any

import openai
from checks import BASE_MODEL, CITIES, PERSON, QUESTION, SENTENCE, WEATHER, is_person, run

TOOL: dict[str, Any] = {"type": "function", "function": WEATHER}
TIME: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}
FORMAT: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
ASK: dict[str, Any] = {"model": BASE_MODEL, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
WEATHER_QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def call_arguments(call: Any) -> dict[str, Any]:
    arguments = json.loads(call.arguments)
    assert isinstance(arguments, dict), arguments
    return arguments


def plain(url: str) -> None:
    answer = client(url).chat.completions.create(**ASK, max_tokens=12)
    assert "Paris" in (answer.choices[0].message.content or ""), answer


def streaming(url: str) -> None:
    chunks = list(client(url).chat.completions.create(**ASK, max_tokens=12, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text, text


def structured(url: str) -> None:
    for model in (BASE_MODEL, "auto"):
        asked = {**ASK, "model": model, "messages": [{"role": "user", "content": SENTENCE}]}
        limit: Any = {"max_tokens": 200} if model == BASE_MODEL else {}  # "auto" has that of its path
        answer = client(url).chat.completions.create(**asked, **limit, response_format=FORMAT)
        choice = answer.choices[0]
        assert choice.finish_reason == "stop", answer
        assert is_person(json.loads(choice.message.content or "")), choice


def structured_responses(url: str) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}}
    response = client(url).responses.create(model="auto", input=SENTENCE, text=text, temperature=0)
    assert response.status == "completed", response
    assert is_person(json.loads(response.output_text)), response


def tools(url: str) -> None:
    asked = {**ASK, "messages": WEATHER_QUESTION, "tools": [TOOL, TIME]}
    chat = client(url).chat.completions
    chat.create(**asked, max_tokens=8)  # accepted; so small a model may or may not call a tool
    required = chat.create(**asked, tool_choice="required", parallel_tool_calls=False)
    (call,) = required.choices[0].message.tool_calls or ()
    assert call.function.name in ("get_weather", "get_time"), required
    call_arguments(call.function)
    named = chat.create(**asked, tool_choice={"type": "function", "function": {"name": "get_weather"}})
    called = [call.function for call in named.choices[0].message.tool_calls or ()]
    assert called, named
    assert all(one.name == "get_weather" and call_arguments(one)["city"] in CITIES for one in called), named
    none = chat.create(**asked, tool_choice="none", max_tokens=12)
    assert not none.choices[0].message.tool_calls, none
    assert "<tool_call>" not in (none.choices[0].message.content or ""), none


def tools_streaming(url: str) -> None:
    asked = {**ASK, "messages": WEATHER_QUESTION, "tools": [TOOL]}
    name, arguments, ids = "", "", set()
    for chunk in client(url).chat.completions.create(**asked, tool_choice="required", stream=True):
        for call in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            if call.index == 0 and call.function is not None:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
            ids |= {call.id} - {None}
    assert name == "get_weather", name
    assert json.loads(arguments)["city"] in CITIES, arguments
    assert ids


def tool_results(url: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    later = [
        *WEATHER_QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    asked = {**ASK, "messages": later}
    shown = client(url).chat.completions.create(**asked, tools=[TOOL], max_tokens=12)
    without = client(url).chat.completions.create(**asked, max_tokens=12)
    assert shown.usage is not None
    assert without.usage is not None
    assert shown.usage.prompt_tokens > without.usage.prompt_tokens > 40, (shown, without)


def tools_responses(url: str) -> None:
    tool: Any = {"type": "function", "strict": True, **WEATHER}
    question = WEATHER_QUESTION[0]["content"]
    responses = client(url).responses
    first = responses.create(model=BASE_MODEL, input=question, tools=[tool], tool_choice="required", temperature=0)
    calls = [item for item in first.output if item.type == "function_call"]
    assert calls, first
    assert call_arguments(calls[0])["city"] in CITIES, first
    given: list[Any] = [
        {"role": "user", "content": question},
        *(item.model_dump(exclude_none=True) for item in calls),
        *({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls),
    ]
    second = responses.create(model=BASE_MODEL, input=given, tools=[tool], max_output_tokens=12, temperature=0)
    assert second.status in ("completed", "incomplete"), second
    with responses.stream(
        model=BASE_MODEL, input=question, tools=[tool], tool_choice={"type": "function", "name": "get_weather"}
    ) as stream:
        kinds = {event.type for event in stream}
    assert "response.function_call_arguments.done" in kinds, kinds


if __name__ == "__main__":
    run(
        {
            "plain": plain,
            "streaming": streaming,
            "tools": tools,
            "tools, streamed": tools_streaming,
            "tool results": tool_results,
            "structured output": structured,
            "tools, responses": tools_responses,
            "structured output, responses": structured_responses,
        }
    )
