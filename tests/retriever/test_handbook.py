"""The labelled questions of the helpdesk example find their handbook page."""

import json
from pathlib import Path

from pointsman.v1 import retriever_pb2 as pb

from tests.retriever.client import Client

HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk"


async def test_the_handbooks_questions_find_their_page(client: Client) -> None:
    pages = {page.stem: page.read_text() for page in sorted((HELPDESK / "handbook").glob("*.md"))}
    lines = (HELPDESK / "config" / "tasks" / "policy_question.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    await client.upsert(
        *(pb.Document(id=name, title=text.splitlines()[0].lstrip("# "), text=text) for name, text in pages.items())
    )
    first = third = 0
    for question in questions:
        found = [passage.document_id for passage in (await client.search(question["text"], top_k=3)).passages]
        first += question["source"] == found[0]
        third += question["source"] in found
    print(f"{len(questions)} questions on {len(pages)} pages: hit@1 {first}, hit@3 {third}")
    assert first >= 0.95 * len(questions)
    assert third >= 0.98 * len(questions)
