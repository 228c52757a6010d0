"""LangChain's ChatOpenAI, AzureChatOpenAI, their embeddings, and an agent, which LangGraph runs."""

from collections.abc import Callable
from functools import partial
from typing import Any

from checks import (
    AGENT,
    BASE_MODEL,
    CHAT,
    CITIES,
    EMBEDDING_MODEL,
    EMBEDDINGS,
    PERSON,
    PLAIN,
    QUESTION,
    RESPONSES,
    SENTENCE,
    STREAMED_TOOLS,
    STREAMING,
    STRUCTURED,
    TOOL_RESULTS,
    TOOLS,
    WEATHER_QUESTION,
    is_person,
    parallel_calls,
    run,
)
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI, OpenAIEmbeddings

AZURE = {"api_key": "none", "api_version": "2025-04-01-preview", "max_retries": 0}
AZURE_CHAT = f"{CHAT}, with Azure's URLs"
AZURE_RESPONSES = f"{RESPONSES}, with Azure's URLs"
AZURE_EMBEDDINGS = f"{EMBEDDINGS}, with Azure's URLs"
Model = Callable[..., ChatOpenAI]


@tool
def get_weather(city: str) -> str:
    """Returns the weather in a city."""
    return f"sunny in {city}"


def chat(url: str, model: str = BASE_MODEL, max_tokens: int = 12, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        base_url=f"{url}/v1",
        api_key="none",
        temperature=0,
        max_tokens=max_tokens,
        max_retries=0,
        **options,
    )


def azure(url: str, model: str = BASE_MODEL, max_tokens: int = 12, **options: Any) -> ChatOpenAI:
    """Returns a client that names the model only in the URL; the body has `model: null`."""
    return AzureChatOpenAI(
        azure_endpoint=url, azure_deployment=model, temperature=0, max_tokens=max_tokens, **AZURE, **options
    )


def checks_of(chat: Model) -> dict[str, Callable[[str], None]]:
    def plain(url: str) -> None:
        assert "Paris" in chat(url).invoke(QUESTION).text

    def streaming(url: str) -> None:
        assert "Paris" in "".join(chunk.text for chunk in chat(url).stream(QUESTION))

    def tools(url: str) -> None:
        assert_called(forecaster(chat, url).invoke("Weather?"))

    def streamed_tools(url: str) -> None:
        first, *chunks = forecaster(chat, url).stream("Weather?")
        for chunk in chunks:
            first += chunk
        assert_called(first)

    def tool_results(url: str) -> None:
        question = HumanMessage(WEATHER_QUESTION)
        call = forecaster(chat, url).invoke([question])
        result = get_weather.invoke(call.tool_calls[0])
        assert isinstance(result, ToolMessage), result
        answer = chat(url).bind_tools([get_weather]).invoke([question, call, result])
        assert answer.usage_metadata["input_tokens"] > call.usage_metadata["input_tokens"] + 20, (call, answer)

    def structured(url: str) -> None:
        schema = {"title": "person", **PERSON}
        for method in ("json_schema", "function_calling"):
            answer = chat(url, "auto", 200).with_structured_output(schema, method=method).invoke(SENTENCE)
            assert is_person(answer), (method, answer)

    return {
        PLAIN: plain,
        STREAMING: streaming,
        TOOLS: tools,
        STREAMED_TOOLS: streamed_tools,
        TOOL_RESULTS: tool_results,
        STRUCTURED: structured,
    }


def forecaster(chat: Model, url: str) -> Any:
    return chat(url, max_tokens=200).bind_tools([get_weather], tool_choice="get_weather")


def assert_called(answer: Any) -> None:
    assert answer.tool_calls[0]["name"] == "get_weather", answer
    assert set(answer.tool_calls[0]["args"]) == {"city"}, answer


def agent(url: str) -> None:
    """Checks an agent: its model calls the tool twice, and the agent sends the results to the model."""
    answers = create_agent(chat(url, max_tokens=100), [get_weather]).stream(
        {"messages": parallel_calls()}, stream_mode="updates"
    )
    called, results, _ = (next(answers) for _ in range(3))
    assert [call["args"]["city"] for call in called["model"]["messages"][0].tool_calls] == list(CITIES), called
    assert results["tools"], results


def embeddings(url: str) -> None:
    model = OpenAIEmbeddings(
        model=EMBEDDING_MODEL, base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert [len(vector) for vector in model.embed_documents([QUESTION, SENTENCE])] == [384, 384]


def azure_embeddings(url: str) -> None:
    model = AzureOpenAIEmbeddings(
        azure_endpoint=url, azure_deployment=EMBEDDING_MODEL, check_embedding_ctx_length=False, **AZURE
    )
    assert [len(vector) for vector in model.embed_documents([QUESTION, SENTENCE])] == [384, 384]


def only(checks: dict[str, Callable[[str], None]], *names: str) -> dict[str, Callable[[str], None]]:
    return {name: checks[name] for name in names}


if __name__ == "__main__":
    run(
        {
            CHAT: checks_of(chat),
            RESPONSES: checks_of(partial(chat, use_responses_api=True)),
            EMBEDDINGS: {PLAIN: embeddings},
            AGENT: {TOOL_RESULTS: agent},
            AZURE_CHAT: checks_of(azure),
            AZURE_RESPONSES: only(checks_of(partial(azure, use_responses_api=True)), PLAIN, STREAMING),
            AZURE_EMBEDDINGS: {PLAIN: azure_embeddings},
        }
    )
