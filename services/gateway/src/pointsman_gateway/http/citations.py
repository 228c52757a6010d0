"""Converts the sources of an answer (the passages in its prompt) to citations in the fields of each API.

It is not known which sentence of the answer a passage supports. Each citation is therefore placed at the end of the
text, or refers to the whole text.
"""

from collections.abc import Sequence
from typing import Any

from pointsman_gateway.domain import Passage


def chat_annotations(sources: Sequence[Passage], at: int) -> list[dict[str, Any]]:
    """Returns the `annotations` of a chat completion's message: one for each source that has a URL.

    `at` is the number of characters of the message's text; all annotations refer to its end.
    """
    return [
        {"type": "url_citation", "url_citation": {**_url(source), "start_index": at, "end_index": at}}
        for source in sources
        if source.url
    ]


def response_annotations(sources: Sequence[Passage], at: int) -> list[dict[str, Any]]:
    """Returns the `annotations` of a text in the Responses API, one for each source.

    A source with a URL is a `url_citation`; any other is a `file_citation` with the document's id. `at` is the
    number of characters of the text; all annotations refer to its end.
    """
    return [
        {"type": "url_citation", **_url(source), "start_index": at, "end_index": at}
        if source.url
        else {
            "type": "file_citation",
            "file_id": source.document_id,
            "filename": source.title or source.document_id,
            "index": at,
        }
        for source in sources
    ]


def message_citations(sources: Sequence[Passage]) -> list[dict[str, Any]]:
    """Returns the `citations` of a text block in Anthropic's format: one for each source that has a text."""
    return [
        {
            "type": "search_result_location",
            "cited_text": source.text,
            "source": source.url or source.document_id,
            "title": source.title or None,
            "search_result_index": number,
            "start_block_index": 0,
            "end_block_index": 1,
        }
        for number, source in enumerate(sources)
        if source.text
    ]


def _url(source: Passage) -> dict[str, str]:
    return {"url": source.url, "title": source.title or source.document_id}
