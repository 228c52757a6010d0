"""Sends the held-out triage messages to the running gateway on two paths, and counts the exactly correct answers.

    pointsman up examples/helpdesk        # in another terminal
    python benchmarks/triage_heldout.py

Prints a table, and one JSON object as its last line.
"""

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
PATHS = ("triage_adapter", "triage_few_shot")
CONCURRENCY = 8


@dataclass(frozen=True)
class Answer:
    expected: dict[str, Any]
    got: Any
    seconds: float
    prompt_tokens: int
    dollars: float


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=None)
    parser.add_argument("--rows", type=Path, default=ROOT / "examples/helpdesk/heldout/triage.jsonl")
    parser.add_argument("--paths", nargs="+", default=PATHS)
    options = parser.parse_args()
    url = options.url or json.loads((ROOT / ".pointsman/run.json").read_text())["http"]
    rows = [json.loads(line) for line in options.rows.read_text("utf-8").splitlines()]
    results = {path: summary(await ask_all(url, path, rows)) for path in options.paths}
    print(
        f"{'path':18} {'exact':>6} {'intent':>6} {'urgency':>7} {'slots':>6} "
        f"{'json':>5} {'p50 s':>6} {'tokens in':>9} {'$/1k':>8}"
    )
    for path, r in results.items():
        print(
            f"{path:18} {r['exact']:6.3f} {r['intent']:6.3f} {r['urgency']:7.3f} {r['slots']:6.3f} {r['json']:5.2f} "
            f"{r['p50_seconds']:6.2f} {r['prompt_tokens']:9.0f} {r['usd_per_1000']:8.4f}"
        )
    print(json.dumps({"rows": len(rows), **results}))


async def ask_all(url: str, path: str, rows: list[dict[str, Any]]) -> list[Answer]:
    slots = asyncio.Semaphore(CONCURRENCY)
    async with httpx.AsyncClient(timeout=120) as client:

        async def ask(row: dict[str, Any]) -> Answer:
            async with slots:
                body = {"model": f"path:{path}", "messages": [{"role": "user", "content": row["text"]}]}
                started = time.perf_counter()
                response = await client.post(f"{url}/v1/chat/completions", json=body)
                response.raise_for_status()
                answer = response.json()
                text = answer["choices"][0]["message"]["content"]
                return Answer(
                    row["output"],
                    parse_json(text),
                    time.perf_counter() - started,
                    answer["usage"]["prompt_tokens"],
                    answer["pointsman"]["cost_usd"],
                )

        return await asyncio.gather(*map(ask, rows))


def parse_json(text: str) -> Any:
    """Returns the answer's JSON, or None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def summary(answers: list[Answer]) -> dict[str, float]:
    def share(part: str) -> float:
        return sum(isinstance(a.got, dict) and a.got.get(part) == a.expected[part] for a in answers) / len(answers)

    return {
        "exact": sum(a.got == a.expected for a in answers) / len(answers),
        "intent": share("intent"),
        "urgency": share("urgency"),
        "slots": share("slots"),
        "json": sum(isinstance(a.got, dict) for a in answers) / len(answers),
        "p50_seconds": median(a.seconds for a in answers),
        "prompt_tokens": sum(a.prompt_tokens for a in answers) / len(answers),
        "usd_per_1000": 1000 * sum(a.dollars for a in answers) / len(answers),
    }


if __name__ == "__main__":
    asyncio.run(main())
