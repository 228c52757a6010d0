"""Markdown chunks: sizes, offsets, and the headings above."""

from pathlib import Path

import pytest
from pointsman_embedding import MiniLM
from pointsman_retriever.chunking.prose import (
    CHUNK_CHARACTERS,
    CHUNK_TOKENS,
    MarkdownChunker,
    enclosing_sections,
    find_headings,
)
from pointsman_retriever.domain import Document

from tests.retriever.chunks import chunk_document

HANDBOOK = Path(__file__).parents[2] / "examples" / "helpdesk" / "handbook"
SENTENCE = "The 7:40 to Saltby waits at Tarn Junction for the branch line. "

TEXTS = {
    "plain": SENTENCE * 80,
    "windows line ends": (f"# One\r\n\r\n{SENTENCE * 10}\r\n\r\n" * 5),
    "emoji and accents": "# É😀\n\n" + "Äpfel 🍏 e\u0301 — 猫. " * 300,
    "one endless word": "x" * 50_000,
    "spaces": "a" + " " * 50_000 + "b",
    "headings alone": "".join(f"## Heading number {n} of many that have no text\n\n" for n in range(100)),
    "long sections": "".join(f"# H{n}\n\n## Sub\n\n{SENTENCE * 30}\n\n" for n in range(5)),
    "nested quotes": ">" * 30_000,
    "a NUL": "before\x00after " * 200,
    "one letter": "a",
}


@pytest.fixture(scope="session")
def chunker(minilm: MiniLM) -> MarkdownChunker:
    return MarkdownChunker(minilm.tokenizer)


@pytest.mark.parametrize("name", TEXTS)
def test_a_chunk_matches_its_offsets_and_is_bounded(chunker: MarkdownChunker, minilm: MiniLM, name: str) -> None:
    text = TEXTS[name]
    chunks = chunk_document(chunker, Document("id", "Title", text))
    assert chunks
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert 0 < len(chunk.text) <= CHUNK_CHARACTERS
        assert (
            len(minilm.tokenizer.encode(chunk.text, add_special_tokens=False).ids) <= CHUNK_TOKENS + 20
        )  # its headings


@pytest.mark.parametrize("name", TEXTS)
def test_chunks_contain_the_whole_text_in_order_without_overlap(chunker: MarkdownChunker, name: str) -> None:
    text = TEXTS[name]
    chunks = chunk_document(chunker, Document("id", "", text))
    ends = [0, *(chunk.end for chunk in chunks)]
    starts = [*(chunk.start for chunk in chunks), len(text)]
    for end, start in zip(ends, starts, strict=True):
        assert end <= start
        assert text[end:start].strip() == ""


def test_a_chunk_is_embedded_with_its_title_and_the_headings_above_it(chunker: MarkdownChunker) -> None:
    text = f"# Handbook\n\n## Trains\n\n### Late trains\n\n{SENTENCE * 40}\n\n## Boats\n\n{SENTENCE * 8}\n"
    first, second, *_, boats = chunk_document(chunker, Document("id", "Larkmoor", text))
    assert first.context == "Larkmoor"  # the headings are in the chunk itself, before the section's first sentences
    assert first.text.startswith("# Handbook\n\n## Trains\n\n### Late trains\n\nThe 7:40")
    assert second.context == "Larkmoor > Handbook > Trains > Late trains"
    assert second.embedded_text == f"{second.context}\n\n{second.text}"
    assert boats.text.startswith("## Boats")
    assert boats.context == "Larkmoor > Handbook"


def test_a_document_that_consists_of_headings_has_a_chunk(chunker: MarkdownChunker) -> None:
    chunks = chunk_document(chunker, Document("id", "", "# One\n\n## Two\n"))
    assert [chunk.text for chunk in chunks] == ["# One\n\n## Two"]


def test_a_title_equal_to_the_first_heading_appears_once(chunker: MarkdownChunker) -> None:
    chunks = chunk_document(chunker, Document("id", "Refunds", f"# Refunds\n\n{SENTENCE * 40}"))
    assert {chunk.context for chunk in chunks} == {"Refunds"}


def test_a_chunk_without_title_or_heading_has_no_context(chunker: MarkdownChunker) -> None:
    (chunk,) = chunk_document(chunker, Document("id", "", "Just this."))
    assert chunk.embedded_text == "Just this."


def test_headings_in_code_quotes_and_lists_are_ignored() -> None:
    text = "# Real\n\n```\n# in code\n```\n\n> # in a quote\n\n- # in a list\n\nUnderlined\n----------\n\ntext"
    assert [(heading.title, heading.level) for heading in find_headings(text)] == [("Real", 1), ("Underlined", 2)]


def test_a_heading_ends_sections_of_its_level_and_below() -> None:
    text = "# A\n\n## B\n\n### C\n\n## D\n\nhere"
    headings = find_headings(text)
    assert [text[heading.start :].split("\n")[0] for heading in headings] == ["# A", "## B", "### C", "## D"]
    starts = [headings[0].start, headings[2].start, headings[3].start, text.index("here")]
    a, b, d = (1, "A"), (2, "B"), (2, "D")
    assert enclosing_sections(headings, starts) == ([(), (a, b), (a,), (a, d)], (a, d))


def test_the_path_at_the_start_encloses_sections_of_lower_levels() -> None:
    path = ((1, "A"), (2, "B"))
    assert enclosing_sections(find_headings("text\n\n### C\n\n# D\n"), [0], path) == ([path], ((1, "D"),))


def test_the_handbooks_chunks_fit_the_models_window(chunker: MarkdownChunker, minilm: MiniLM) -> None:
    for page in HANDBOOK.glob("*.md"):
        text = page.read_text()
        for chunk in chunk_document(chunker, Document(page.stem, text.splitlines()[0].lstrip("# "), text)):
            assert len(minilm.tokenizer.encode(chunk.embedded_text).ids) <= 256
