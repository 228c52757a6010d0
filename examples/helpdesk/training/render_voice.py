"""Create `voice.jsonl` from `voice_replies.jsonl` with the prompts of the path `branded_letter`.

Run it while `pointsman up examples/helpdesk` is running. The prompts come from the gateway (`POST /v1/route` with
`include_prompt`), so the adapter is trained on the prompts it will receive. Replies whose facts are not in the
retrieved passages are omitted, because they would teach the model to invent facts.
"""

import argparse
import json
from pathlib import Path

import httpx

HERE = Path(__file__).parent
PATH = "path:branded_letter"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    url = parser.parse_args().url
    replies = [json.loads(line) for line in (HERE / "voice_replies.jsonl").read_text("utf-8").splitlines()]
    rows = [row for reply in replies if (row := rendered(url, reply))]
    (HERE / "voice.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    print(f"{len(rows)} of {len(replies)} replies, the others' facts were not found")


def rendered(url: str, reply: dict[str, str]) -> dict[str, list[dict[str, str]]] | None:
    body = {"model": PATH, "messages": [{"role": "user", "content": reply["text"]}], "include_prompt": True}
    answer = httpx.post(f"{url}/v1/route", json=body, timeout=30)
    answer.raise_for_status()
    messages = answer.json()["prompt"]
    facts = reply["reply"].split("\n\n")[1].split(". ")
    if not any(fact.rstrip(".") in messages[0]["content"] for fact in facts):
        return None
    return {"messages": [*messages, {"role": "assistant", "content": reply["reply"]}]}


if __name__ == "__main__":
    main()
