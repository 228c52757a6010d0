"""Each kind of text is split at its structure, and every chunk fits the embedding model's window."""

import random

import pytest
from pointsman_embedding import MiniLM
from pointsman_retriever.chunking.code import CodeChunker
from pointsman_retriever.chunking.prose import CHUNK_CHARACTERS, WINDOW_TOKENS
from pointsman_retriever.chunking.sandboxed import kind_of, make_chunkers, recipe_for
from pointsman_retriever.domain import Document

from tests.retriever.chunks import chunk_document

PYTHON = '''"""Signals and lamps."""

import math


class Signal:
    """A signal beside the track."""

    def __init__(self, colour):
        self.colour = colour

    def show(self, lamp):
        """Lights the lamp."""
{body}
        return lamp


def far_away(distance):
    return math.sqrt(distance)
'''


def long_method(lines: int) -> str:
    return "\n".join(
        f"        lamp = lamp.brighter(step={n}, reason='the driver sees it from {n} metres')" for n in range(lines)
    )


def test_source_is_split_between_definitions_and_has_them_as_context(minilm: MiniLM) -> None:
    text = PYTHON.format(body=long_method(30))
    chunks = chunk_document(CodeChunker(minilm.tokenizer), Document("signal.py", "signal.py", text))
    assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(text.split())  # nothing is lost
    inner = [chunk for chunk in chunks if "brighter(step=25," in chunk.text]
    assert inner[0].context == "signal.py > class Signal: > def show(self, lamp):"
    last = chunks[-1]
    assert last.text.startswith("def far_away(distance):")
    assert last.context == "signal.py"


def test_small_adjacent_definitions_share_a_chunk(minilm: MiniLM) -> None:
    text = "".join(f"def f{n}():\n    return {n}\n\n\n" for n in range(6))
    assert len(chunk_document(CodeChunker(minilm.tokenizer), Document("f", "f", text))) == 1


def test_other_languages_are_split_the_same_way(minilm: MiniLM) -> None:
    body = "\n".join(f'\t\tlog("the lamp at platform {n} is green, and the driver has seen it")' for n in range(20))
    show = f"func Show(lamp Lamp) {{\n\tfor {{\n{body}\n\t}}\n}}"
    text = f"package signal\n\n{show}\n\ntype Lamp struct {{\n\tColour string\n}}\n"
    chunks = chunk_document(CodeChunker(minilm.tokenizer), Document("s.go", "s.go", text))
    assert [chunk.context for chunk in chunks if "platform 19" in chunk.text] == ["s.go > func Show(lamp Lamp) {"]
    assert any(chunk.text.startswith("type Lamp struct") for chunk in chunks)


def hostile_texts() -> list[str]:
    random_ = random.Random(3)
    return [
        "猫は屋根の上で眠っている。" * 400,
        "x" * 9_000,
        " ".join("".join(random_.choices("abcdefghij", k=99)) for _ in range(200)),
        "\n".join(" " * n + f"def f{n}():" for n in range(400)),
        "🐈" * 3_000,
        "\n\n" * 500 + "word",
        "# "
        + "An unusually long heading 猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫 " * 6
        + "\n\n"
        + "Text below it. " * 300,
        "a\r\nb\r\n\r\nc\u2028d\x0be" * 300,
    ]


@pytest.mark.parametrize("media_type", ["text/markdown", "text/plain", "text/x-python"])
@pytest.mark.parametrize("text", hostile_texts(), ids=range(len(hostile_texts())))
def test_every_chunk_fits_the_models_window_with_its_title_and_is_part_of_the_document(
    minilm: MiniLM, media_type: str, text: str
) -> None:
    title = "見出し " * 40
    chunker = make_chunkers(minilm.tokenizer)[kind_of(recipe_for(media_type))]
    chunks = chunk_document(chunker, Document("d", title, text))
    assert chunks
    for chunk in chunks:
        assert len(minilm.tokenizer.encode(chunk.embedded_text).ids) <= WINDOW_TOKENS
        assert 0 < len(chunk.text) <= CHUNK_CHARACTERS
        assert text[chunk.start : chunk.end] == chunk.text
    assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(text.split())


def test_the_media_type_selects_the_chunker() -> None:
    kinds = {
        "": "markdown",
        "text/markdown": "markdown",
        "text/html": "markdown",
        "text/plain": "plain",
        "application/pdf": "plain",
        "text/x-python": "code",
        "text/x-klingon": "code",
    }
    assert {media_type: kind_of(recipe_for(media_type)) for media_type in kinds} == kinds
