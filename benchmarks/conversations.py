"""Measures how often the last turn of a conversation is assigned its task, with and without the earlier turns.

    python benchmarks/conversations.py        # after `make models`; needs no service

The default conversations are the help desk's held-out ones. `--conversations` accepts another file in the same format,
for example the one with which the thresholds were chosen. The last line of output is one JSON object.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pointsman_gateway.bootstrap.models import EmbeddingModels, train_classifier
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification, TextClassifier
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Message, Request

ROOT = Path(__file__).parents[1]
HELPDESK = ROOT / "examples/helpdesk"


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--conversations", type=Path, default=HELPDESK / "heldout/conversations.jsonl")
    arguments.add_argument("--wrong", action="store_true", help="print misclassified conversations")
    options = arguments.parse_args()
    rows = [json.loads(row) for row in options.conversations.read_text("utf-8").splitlines()]
    learned = train_classifier(
        load_config(HELPDESK / "config"), EmbeddingModels.load(ROOT / ".pointsman/models/minilm")
    )
    assert learned.classifier  # the configuration has tasks
    result = await measure(learned.classifier, rows, options.wrong)
    for kind, figures in result.items():
        print(f"{kind:10}", *(f"{name} {value}" for name, value in figures.items()))
    print(json.dumps(result))


async def measure(classifier: TextClassifier, rows: Sequence[dict[str, Any]], show: bool) -> dict[str, Any]:
    classification = Classification(RuleMatcher({}), classifier)
    count, right, baseline, seconds = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        messages = tuple(Message(message["role"], message["content"]) for message in row["messages"])
        started = time.perf_counter()
        labels = await classification.label(Request("auto", messages))
        spent = time.perf_counter() - started
        alone = await classifier.classify(messages[-1].content)
        if show and labels.task != row["task"]:
            print(f"{row['kind']}: {messages[-1].content[:80]!r} is {row['task']}, not {labels.task} ({labels.stage})")
        for kind in (row["kind"], "all"):
            count[kind] += 1
            right[kind] += labels.task == row["task"]
            baseline[kind] += alone.task == row["task"]
            seconds[kind] += spent
    return {
        kind: {
            "count": count[kind],
            "right": right[kind],
            "classifier_on_last_turn": baseline[kind],
            "mean_ms": round(1000 * seconds[kind] / count[kind], 2),
        }
        for kind in count
    }


if __name__ == "__main__":
    asyncio.run(main())
