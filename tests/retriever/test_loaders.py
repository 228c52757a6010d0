"""Files of each format become text; an unreadable file is refused with a reason and affects no other call."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.loaders.formats import UnreadableFile, read_lines
from pointsman_retriever.loaders.html_pdf import read_html, read_pdf
from pointsman_retriever.sandbox import Sandbox, SandboxError

from tests.retriever.client import Client, Refusal
from tests.retriever.ingests import WRITTEN, ingest, pdf

PAGE = """<!doctype html><html><head><title>Lost &amp; found</title><style>p { color: red }</style></head>
<body><nav><a href="/">Home</a></nav><h1>Lost property</h1><p>Kept for <b>30</b> days, see <a href="/x">here</a>.</p>
<h2>Fees</h2><table><tr><th>What</th><th>Fee</th></tr><tr><td>Umbrella</td><td>3</td></tr></table>
<pre><code>lookup --id 7</code></pre><script>alert("no")</script><footer>Imprint</footer></body></html>"""


def test_html_becomes_markdown_without_navigation_and_scripts() -> None:
    read = read_html(PAGE.encode())
    assert read.title == "Lost & found"
    assert "# Lost property" in read.text
    assert "## Fees" in read.text
    assert "| Umbrella | 3 |" in read.text
    assert "lookup --id 7" in read.text
    for furniture in ("Home", "Imprint", "alert", "color", "/x", "Lost & found"):
        assert furniture not in read.text, furniture


def test_html_is_read_in_the_encoding_it_declares() -> None:
    assert "für" in read_html('<meta charset="iso-8859-1"><p>für'.encode("iso-8859-1")).text


def test_a_pdf_yields_its_pages_and_title() -> None:
    read = read_pdf(pdf("The heron waits.", "The otter swims.", title="Birds"))
    assert (read.title, read.text) == ("Birds", "The heron waits.\n\nThe otter swims.")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_json_lines_end_at_line_feeds_only(separator: str) -> None:
    text = f"first{separator}second"
    lines = [json.dumps({"text": text}, ensure_ascii=False), "", '{"text": "third"}', ""]
    assert list(read_lines("\r\n".join(lines).encode("utf-8-sig"))) == [(1, {"text": text}), (3, {"text": "third"})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"%PDF-1.4 and no more", "is not a readable PDF"), (b"", "is not a readable PDF"), (pdf(""), "has no text")],
    ids=["torn", "empty", "a scan"],
)
def test_an_unreadable_pdf_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read_pdf(content)


def test_deeply_nested_html_is_refused() -> None:
    with pytest.raises(UnreadableFile, match="nested too deeply"):
        read_html(b"<div>" * 20_000 + b"x")


async def test_files_are_found_by_their_text(client: Client) -> None:
    await client.upsert(
        pb.Document(id="page", content=PAGE.encode(), media_type="text/html"),
        pb.Document(id="birds", content=pdf("The heron waits for hours."), media_type="application/pdf"),
        pb.Document(id="note", content="\ufeffPlain text.".encode(), media_type="text/plain"),
    )
    passage = (await client.search("how much to get my umbrella back?")).passages[0]
    assert (passage.document_id, passage.title) == ("page", "Lost & found")
    assert (await client.found("heron"))[0] == "birds"
    assert (await client.search("Plain")).passages[0].text == "Plain text."


async def test_a_media_type_may_have_parameters_and_capitals(client: Client) -> None:
    content = b"<p>The kettle.</p><script>let it = 1</script>"
    await client.upsert(pb.Document(id="page", content=content, media_type="Text/HTML; charset=utf-8"))
    assert (await client.search("kettle")).passages[0].text == "The kettle."
    lines = pb.Document(
        id="f", content=b'{"id": "x", "text": "The ladder."}', media_type="application/jsonl;charset=utf-8"
    )
    assert (await ingest(client, lines)).states == {"x": WRITTEN}


@pytest.mark.parametrize("identifier", ["true", "1.5", "null", "[]"])
def test_an_id_that_is_neither_text_nor_integer_is_refused(identifier: str) -> None:
    ((number, error),) = read_lines(f'{{"id": {identifier}, "text": "x"}}'.encode())
    assert (number, str(error)[:50]) == (1, "has an 'id' that is not a string or integer, or a ")
    assert list(read_lines(b'{"id": 1, "text": "x"}')) == [(1, {"id": 1, "text": "x"})]


async def test_an_unreadable_file_refuses_the_upsert(client: Client, refusal: Refusal) -> None:
    error = await refusal(
        client.upsert(
            pb.Document(id="a", text="Fine."), pb.Document(id="b", content=b"%PDF", media_type="application/pdf")
        )
    )
    assert error.code == "unreadable_document"
    assert "'b'" in error.message
    assert (await client.collection()).documents == 0


async def test_a_large_file_and_a_document_with_both_text_and_file_are_refused(
    client: Client, refusal: Refusal
) -> None:
    large = pb.Document(id="a", content=b"x" * (32 * 1024 * 1024 + 1), media_type="text/plain")
    assert (await refusal(client.upsert(large))).code == "document_too_large"
    both = pb.Document(id="a", text="x", content=b"y", media_type="text/plain")
    assert (await refusal(client.upsert(both))).code == "text_and_content"


async def test_a_file_that_kills_the_sandbox_or_takes_too_long_affects_no_other() -> None:
    async with running(Sandbox()) as reader:
        with pytest.raises(SandboxError, match="ended the process"):
            await read(reader, b"x", "no/reader")  # the worker does not know this type and dies
        assert await read(reader, b"<p>Fine.") == "Fine."
    async with running(Sandbox(seconds=0.01)) as reader:
        with pytest.raises(SandboxError, match=r"more than 0\.01 seconds"):
            await read(reader, b"<p>" * 100_000)


async def test_a_file_with_too_much_text_is_refused_and_affects_no_other() -> None:
    async with running(Sandbox(answer_bytes=2_000)) as reader:
        assert await read(reader, page("д" * 900)) == "д" * 900
        with pytest.raises(SandboxError, match="more than 2,000 bytes of text"):
            await read(reader, page("д" * 1_000))
        assert await read(reader, page("Fine.")) == "Fine."


async def test_a_sandbox_whose_answer_is_too_large_is_killed() -> None:
    async with running(Sandbox(answer_bytes=10)) as reader:
        for _ in range(2):
            with pytest.raises(SandboxError, match="ended the process"):  # even the message exceeds the limit
                await read(reader, page("Fine."))


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("text/html", b'<meta charset="utf-7"><p>half +2D0- of a pair'),
        ("application/pdf", pdf("half A of a pair", meaning="1 beginbfchar <41> <D83D> endbfchar")),
    ],
    ids=["HTML", "PDF"],
)
async def test_a_lone_surrogate_in_a_file_becomes_the_replacement_character(media_type: str, content: bytes) -> None:
    async with running(Sandbox()) as reader:
        assert await read(reader, content, media_type) == "half \ufffd of a pair"


def page(text: str) -> bytes:
    return f'<meta charset="utf-8"><p>{text}'.encode()


async def read(sandbox: Sandbox, content: bytes, media_type: str = "text/html") -> str:
    text: str = (await sandbox.call("read", content, media_type=media_type))["text"]
    return text


@asynccontextmanager
async def running(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def test_the_answer_to_a_cancelled_read_reaches_no_other_call() -> None:
    async with running(Sandbox()) as reader:
        first = asyncio.create_task(read(reader, b"<p>first" + b"<b>x</b>" * 50_000))
        await asyncio.wait([first], timeout=0.2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await read(reader, b"<p>second") == "second"
