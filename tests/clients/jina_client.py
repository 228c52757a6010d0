"""LlamaIndex's client of Jina's rerankers."""

from checks import DOCUMENTS, PLAIN, QUESTION, RERANK, RERANKER, run
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank


def nodes(texts: tuple[str, ...]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text)) for text in texts]


def rerank(url: str) -> None:
    client = JinaRerank(top_n=2, model=RERANKER, base_url=f"{url}/v1", api_key="none")
    found = client.postprocess_nodes(nodes(DOCUMENTS), query_str=QUESTION)
    assert [each.node.get_content() for each in found] == [DOCUMENTS[1], DOCUMENTS[2]], found
    assert found[0].score > found[1].score > 0, found
    assert reason_of_refusal(url).startswith("unknown reranker 'other'"), reason_of_refusal(url)


def reason_of_refusal(url: str) -> str:
    client = JinaRerank(model="other", base_url=f"{url}/v1", api_key="none")
    try:
        client.postprocess_nodes(nodes(DOCUMENTS), query_str=QUESTION)
    except RuntimeError as error:  # it has the answer's `detail`
        return str(error)
    return "nothing was refused"


if __name__ == "__main__":
    run({RERANK: {PLAIN: rerank}})
