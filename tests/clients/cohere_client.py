"""Cohere's clients for both versions of its API."""

import asyncio

import cohere
from checks import DOCUMENTS, PLAIN, QUESTION, RERANK, RERANKER, run
from cohere.core.api_error import ApiError


def rerank(url: str) -> None:
    client = cohere.ClientV2(api_key="none", base_url=url)
    answer = client.rerank(model=RERANKER, query=QUESTION, documents=DOCUMENTS, top_n=2, max_tokens_per_doc=512)
    assert [each.index for each in answer.results] == [1, 2], answer
    assert answer.results[0].relevance_score > answer.results[1].relevance_score > 0, answer
    assert answer.meta.billed_units.search_units == 1, answer
    assert answer.id, answer


def rerank_asynchronously(url: str) -> None:
    client = cohere.AsyncClientV2(api_key="none", base_url=url)
    answer = asyncio.run(client.rerank(model=RERANKER, query=QUESTION, documents=DOCUMENTS))
    assert [each.index for each in answer.results] == [1, 2, 0], answer


def reason_of_refusal(url: str) -> str:
    client = cohere.ClientV2(api_key="none", base_url=url)
    try:
        client.rerank(model=RERANKER, query=QUESTION, documents=[])
    except ApiError as error:
        return f"{error.status_code}: {error.body['message']}"
    return "nothing was refused"


def rerank_v1(url: str) -> None:
    client = cohere.Client(api_key="none", base_url=url)
    documents = [DOCUMENTS[0], *({"text": text, "title": "a city"} for text in DOCUMENTS[1:])]
    answer = client.rerank(
        model=RERANKER, query=QUESTION, documents=documents, top_n=1, rank_fields=["text"], return_documents=True
    )
    assert [(each.index, each.document.text) for each in answer.results] == [(1, DOCUMENTS[1])], answer
    assert answer.meta.billed_units.search_units == 1, answer


def everything(url: str) -> None:
    rerank(url)
    rerank_asynchronously(url)
    rerank_v1(url)
    assert reason_of_refusal(url).startswith("400: 'documents' has 0 entries"), reason_of_refusal(url)


if __name__ == "__main__":
    run({RERANK: {PLAIN: everything}})
