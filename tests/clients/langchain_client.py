"""LangChain's ChatOpenAI."""

from checks import BASE_MODEL, PERSON, QUESTION, SENTENCE, is_person, run
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str) -> str:
    """Returns the weather in a city."""
    return f"sunny in {city}"


def chat(url: str, model: str = BASE_MODEL, max_tokens: int = 12) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{url}/v1", api_key="none", temperature=0, max_tokens=max_tokens)


def plain(url: str) -> None:
    assert "Paris" in chat(url).invoke(QUESTION).text


def streaming(url: str) -> None:
    assert "Paris" in "".join(chunk.text for chunk in chat(url).stream(QUESTION))


def tools(url: str) -> None:
    answer = chat(url, max_tokens=200).bind_tools([get_weather], tool_choice="get_weather").invoke("Weather in Paris?")
    assert answer.tool_calls[0]["name"] == "get_weather", answer
    assert set(answer.tool_calls[0]["args"]) == {"city"}, answer


def structured(url: str) -> None:
    schema = {"title": "person", **PERSON}
    for method in ("json_schema", "function_calling"):
        answer = chat(url, "auto", 200).with_structured_output(schema, method=method).invoke(SENTENCE)
        assert is_person(answer), (method, answer)


if __name__ == "__main__":
    run({"plain": plain, "streaming": streaming, "tools": tools, "structured output": structured})
