"""Files of each kind become texts; a file that cannot be read says why, and harms nobody."""

import asyncio
import json
from contextlib import aclosing

import pytest
from ingests import WRITTEN, ingest, pdf
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.loaders.apart import SandboxedReader
from pointsman_retriever.loaders.html import read_html
from pointsman_retriever.loaders.jsonl import read_lines
from pointsman_retriever.loaders.pdf import read_pdf
from pointsman_retriever.loaders.unreadable import UnreadableFile

PAGE = """<!doctype html><html><head><title>Lost &amp; found</title><style>p { color: red }</style></head>
<body><nav><a href="/">Home</a></nav><h1>Lost property</h1><p>Kept for <b>30</b> days, see <a href="/x">here</a>.</p>
<h2>Fees</h2><table><tr><th>What</th><th>Fee</th></tr><tr><td>Umbrella</td><td>3</td></tr></table>
<pre><code>lookup --id 7</code></pre><script>alert("no")</script><footer>Imprint</footer></body></html>"""


def test_html_becomes_markdown_with_its_headings_and_without_its_furniture():
    read = read_html(PAGE.encode())
    assert read.title == "Lost & found"
    assert "# Lost property" in read.text
    assert "## Fees" in read.text
    assert "| Umbrella | 3 |" in read.text
    assert "lookup --id 7" in read.text
    for furniture in ("Home", "Imprint", "alert", "color", "/x", "Lost & found"):
        assert furniture not in read.text, furniture


def test_html_in_another_encoding_says_so_itself():
    assert "für" in read_html('<meta charset="iso-8859-1"><p>für'.encode("iso-8859-1")).text


def test_a_pdf_gives_its_pages_and_its_title():
    read = read_pdf(pdf("The heron waits.", "The otter swims.", title="Birds"))
    assert (read.title, read.text) == ("Birds", "The heron waits.\n\nThe otter swims.")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_a_line_of_json_lines_ends_at_a_line_feed_and_nowhere_else(separator):
    text = f"first{separator}second"
    lines = [json.dumps({"text": text}, ensure_ascii=False), "", '{"text": "third"}', ""]
    assert [(number, line["text"]) for number, line in read_lines("\r\n".join(lines).encode("utf-8-sig"))] == [
        (1, text),
        (3, "third"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"%PDF-1.4 and no more", "is no PDF"), (b"", "is no PDF"), (pdf(""), "has no text")],
    ids=["torn", "empty", "a scan"],
)
def test_a_pdf_that_cannot_be_read_says_why(content, told):
    with pytest.raises(UnreadableFile, match=told):
        read_pdf(content)


def test_html_nested_without_end_is_refused():
    with pytest.raises(UnreadableFile, match="nested too deeply"):
        read_html(b"<div>" * 20_000 + b"x")


async def test_files_are_found_by_what_they_say(client):
    await client.upsert(
        pb.Document(id="page", content=PAGE.encode(), media_type="text/html"),
        pb.Document(id="birds", content=pdf("The heron waits for hours."), media_type="application/pdf"),
        pb.Document(id="note", content="\ufeffPlain text.".encode(), media_type="text/plain"),
    )
    passage = (await client.search("how much to get my umbrella back?")).passages[0]
    assert (passage.document_id, passage.title) == ("page", "Lost & found")
    assert (await client.found("heron"))[0] == "birds"
    assert (await client.search("Plain")).passages[0].text == "Plain text."


async def test_a_media_type_is_known_with_parameters_and_in_capitals_too(client):
    content = b"<p>The kettle.</p><script>let it = 1</script>"
    await client.upsert(pb.Document(id="page", content=content, media_type="Text/HTML; charset=utf-8"))
    assert (await client.search("kettle")).passages[0].text == "The kettle."
    lines = pb.Document(
        id="f", content=b'{"id": "x", "text": "The ladder."}', media_type="application/jsonl;charset=utf-8"
    )
    assert (await ingest(client, lines)).states == {"x": WRITTEN}


async def test_a_file_that_cannot_be_read_keeps_an_upsert_out(client, refusal):
    error = await refusal(
        client.upsert(
            pb.Document(id="a", text="Fine."), pb.Document(id="b", content=b"%PDF", media_type="application/pdf")
        )
    )
    assert error.code == "unreadable_document"
    assert "'b'" in error.message
    assert (await client.collection()).documents == 0


async def test_a_file_too_large_and_a_document_with_text_and_file_are_refused(client, refusal):
    large = pb.Document(id="a", content=b"x" * (32 * 1024 * 1024 + 1), media_type="text/plain")
    assert (await refusal(client.upsert(large))).code == "document_too_large"
    both = pb.Document(id="a", text="x", content=b"y", media_type="text/plain")
    assert (await refusal(client.upsert(both))).code == "text_and_content"


async def test_a_file_that_kills_its_reader_or_takes_too_long_harms_no_other():
    async with aclosing(_Closing(SandboxedReader())) as reader:
        with pytest.raises(UnreadableFile, match="ended the process"):
            await reader.apart.read("no/reader", b"x")  # the worker knows no such type, and dies of it
        assert (await reader.apart.read("text/html", b"<p>Fine.")).text == "Fine."
    async with aclosing(_Closing(SandboxedReader(seconds=0.01))) as reader:
        with pytest.raises(UnreadableFile, match=r"within 0\.01 seconds"):
            await reader.apart.read("text/html", b"<p>" * 100_000)


async def test_a_file_with_more_text_than_is_taken_says_so_and_harms_no_other():
    async with aclosing(_Closing(SandboxedReader(answer_bytes=2_000))) as reader:
        assert (await reader.apart.read("text/html", page("д" * 900))).text == "д" * 900
        with pytest.raises(UnreadableFile, match="more than 2,000 bytes of text"):
            await reader.apart.read("text/html", page("д" * 1_000))
        assert (await reader.apart.read("text/html", page("Fine."))).text == "Fine."


async def test_a_reader_that_answers_with_more_than_is_taken_is_ended():
    async with aclosing(_Closing(SandboxedReader(answer_bytes=10))) as reader:
        for _ in range(2):
            with pytest.raises(
                UnreadableFile, match="ended the process"
            ):  # to say that it is too much is too much, too
                await reader.apart.read("text/html", page("Fine."))


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("text/html", b'<meta charset="utf-7"><p>half +2D0- of a pair'),
        ("application/pdf", pdf("half A of a pair", meaning="1 beginbfchar <41> <D83D> endbfchar")),
    ],
    ids=["HTML", "PDF"],
)
async def test_half_a_surrogate_pair_in_a_file_is_told_as_no_character(media_type, content):
    async with aclosing(_Closing(SandboxedReader())) as reader:
        assert (await reader.apart.read(media_type, content)).text == "half \ufffd of a pair"


def page(text: str) -> bytes:
    return f'<meta charset="utf-8"><p>{text}'.encode()


class _Closing:
    def __init__(self, apart: SandboxedReader) -> None:
        self.apart = apart

    async def aclose(self) -> None:
        await self.apart.close()


async def test_a_reader_given_up_in_the_middle_gives_its_answer_to_nobody_else():
    async with aclosing(_Closing(SandboxedReader())) as reader:
        first = asyncio.create_task(reader.apart.read("text/html", b"<p>first" + b"<b>x</b>" * 50_000))
        await asyncio.wait([first], timeout=0.2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await reader.apart.read("text/html", b"<p>second")).text == "second"
