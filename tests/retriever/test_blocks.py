"""Large documents are chunked in parts and blocks: nothing is lost, contexts continue, and the time is linear."""

import gc
import random
import time
from collections.abc import Callable, Mapping

import pytest
from pointsman_embedding import MiniLM
from pointsman_retriever.chunking import blocks
from pointsman_retriever.chunking.blocks import (
    MAX_BLOCK_CHARACTERS,
    MAX_LINE_CHARACTERS,
    MAX_PART_CHARACTERS,
    TextChunker,
    break_long_lines,
    split_blocks,
)
from pointsman_retriever.chunking.code import CodeChunker
from pointsman_retriever.chunking.prose import MarkdownChunker
from pointsman_retriever.chunking.sandboxed import make_chunkers
from pointsman_retriever.domain import Document

from tests.retriever.chunks import chunk_document

SENTENCE = "The 7:40 to Saltby waits at Tarn Junction for the branch line. "


@pytest.fixture(scope="session")
def chunkers(minilm: MiniLM) -> Mapping[str, TextChunker]:
    return make_chunkers(minilm.tokenizer)


@pytest.mark.parametrize("kind", ["markdown", "code", "plain"])
def test_blocks_are_bounded_and_cover_the_text_without_gaps(
    chunkers: Mapping[str, TextChunker], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(blocks, "MAX_BLOCK_CHARACTERS", 40)
    monkeypatch.setattr(blocks, "MAX_LINE_CHARACTERS", 10)
    for seed in range(2_000):
        source = random.Random(seed)
        pieces = ["a", "b. ", "\n", "\n\n", "\n# ", " ", "\n```\n", "\ndef x", "\n  "]
        weights = source.choices([1, 3, 5], k=len(pieces))
        text = "".join(source.choices(pieces, weights, k=source.randint(0, 120)))
        spans = list(split_blocks(text, chunkers[kind]))
        assert "".join(text[span.start : span.end] for span in spans) == text, seed
        assert all(0 < span.end - span.start <= 40 for span in spans), seed


def test_a_block_ends_before_a_heading_and_never_inside_a_short_code_fence(chunkers: Mapping[str, TextChunker]) -> None:
    section = f"# Section\n\n{SENTENCE}\n\n```\n\n# no heading\n\n```\n\n{SENTENCE}\n\n"
    spans = list(split_blocks(section * 400, chunkers["markdown"]))
    assert len(spans) > 2
    assert all((section * 400)[span.start :].startswith("# Section") for span in spans)
    assert not any(span.fence for span in spans)


def test_a_long_code_fence_is_plain_text_until_it_ends(chunkers: Mapping[str, TextChunker]) -> None:
    fence = "```python\n" + "# a comment\n\n" * 6_000 + "```\n"
    text = f"# Before\n\n{fence}\n# After\n\n{SENTENCE}\n"
    assert len(fence) > MAX_PART_CHARACTERS
    chunks = chunk_document(chunkers["markdown"], Document("d", "", text))
    assert {chunk.context for chunk in chunks[1:-1]} == {"Before"}
    assert chunks[-1].text == f"# After\n\n{SENTENCE.strip()}"
    assert chunks[-1].context == ""


@pytest.mark.parametrize("kind", ["markdown", "plain", "code"])
def test_a_document_of_many_parts_keeps_its_whole_text(chunkers: Mapping[str, TextChunker], kind: str) -> None:
    lines = [f"{number} {SENTENCE * (number % 4)}" for number in range(2_000)] + ["y" * 150_000, "z " * 40_000]
    text = "\n\n".join(lines)
    assert len(text) > 5 * MAX_PART_CHARACTERS
    chunks = chunk_document(chunkers[kind], Document("d", "", text))
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(text.split())


def test_headings_enclose_the_chunks_of_later_parts(minilm: MiniLM) -> None:
    text = f"# Handbook\n\n## Trains\n\n{SENTENCE * 2_000}\n\n### Late trains\n\n{SENTENCE * 30}"
    assert len(text) > MAX_PART_CHARACTERS
    chunks = chunk_document(MarkdownChunker(minilm.tokenizer), Document("d", "", text))
    assert chunks[-2].context == "Handbook > Trains > Late trains"
    assert {chunk.context for chunk in chunks[1:-12]} == {"Handbook > Trains"}


def test_definitions_enclose_the_chunks_of_later_parts(minilm: MiniLM) -> None:
    body = "\n".join(f"        self.speed = limit({number}, 'between two stations')" for number in range(1_500))
    text = f"class Train:\n    def brake(self):\n{body}\n\n    def stop(self):\n        self.doors.open()\n"
    assert len(text) > MAX_PART_CHARACTERS
    chunks = chunk_document(CodeChunker(minilm.tokenizer), Document("d", "", text))
    assert chunks[-2].context == "class Train: > def brake(self):"
    assert chunks[-1].text.startswith("    def stop(self):")
    assert chunks[-1].context == "class Train:"


def test_a_long_line_is_broken_after_a_sentence() -> None:
    text = f"{SENTENCE * 100}\n\nA short line.\n"
    broken, inserted = break_long_lines(text)
    assert all(len(line) <= MAX_LINE_CHARACTERS for line in broken.split("\n"))
    assert all(broken[:place].endswith("line. ") and broken[place] == "\n" for place in inserted)
    assert "".join(part for place, part in enumerate(broken) if place not in inserted) == text


def test_a_heading_stays_with_a_long_paragraph(minilm: MiniLM) -> None:
    first, second, *_ = chunk_document(
        MarkdownChunker(minilm.tokenizer), Document("d", "", f"# Trains\n\n{SENTENCE * 90}")
    )
    assert first.text.startswith("# Trains\n\nThe 7:40")
    assert second.context == "Trains"


# The kind of text, a number of repetitions, and the text with this many.
HOSTILE: dict[str, tuple[str, int, Callable[[int], str]]] = {
    "characters of Markdown": ("markdown", 20_000, lambda n: "#" * n + "`" * n + "|" * 2 * n + "> " * (n // 2)),
    "one word": ("plain", 96_000, lambda n: "a" * n),
    "one word in Markdown": ("markdown", 96_000, lambda n: "a" * n),
    "one word in code": ("code", 96_000, lambda n: "a" * n),
    "one line of Chinese": ("markdown", 32_000, lambda n: "猫" * n),
    "emphasis": ("markdown", 70, lambda n: ("*a_" * 600 + "\n") * n),
    "links": ("markdown", 70, lambda n: ("[a](" * 450 + "\n") * n),
    "a wide table": ("markdown", 70, lambda n: "|a" * 900 + "\n" + "|-" * 900 + "\n" + ("|1" * 900 + "\n") * n),
    "list items": ("markdown", 10_000, lambda n: "- a\n" * n),
    "definitions": ("code", 4_000, lambda n: "def f():\n\n" * n),
    "blank lines": ("markdown", 100_000, lambda n: "a" + "\n" * n + "b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_time_of_chunking_is_linear_in_the_size_of_hostile_texts(
    chunkers: Mapping[str, TextChunker], name: str
) -> None:
    """Four times the size may take eight times the CPU time; quadratic time would multiply it by sixteen.

    The garbage collector is off, because it would also scan the objects of earlier tests.
    """
    kind, repetitions, make = HOSTILE[name]

    def seconds(count: int) -> float:
        document = Document("d", "", make(count))
        gc.collect()
        started = time.process_time()
        chunk_document(chunkers[kind], document)
        return time.process_time() - started

    gc.disable()
    try:
        small, large = seconds(repetitions // 2), seconds(2 * repetitions)
    finally:
        gc.enable()
    assert large < 8 * max(small, 0.01)


def test_the_limits_of_parts_blocks_and_lines_fit_each_other() -> None:
    """A part that is not the last must have at least two blocks, because the last one waits for the next part."""
    assert MAX_PART_CHARACTERS > 2 * MAX_BLOCK_CHARACTERS > 4 * MAX_LINE_CHARACTERS
