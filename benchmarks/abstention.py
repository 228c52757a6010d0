"""How many requests that fit no task are abstained from, and how many held-out triage messages are kept.

    python benchmarks/abstention.py        # after `make models`; needs no service

Its last line is one JSON object.
"""

import asyncio
import json
import time
from pathlib import Path

from pointsman_embedding import MiniLM
from pointsman_gateway.classification.classifier import Classifier, fit_tasks
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Labels

ROOT = Path(__file__).parents[1]
HELPDESK = ROOT / "examples/helpdesk"


async def main() -> None:
    config = load_config(HELPDESK / "config")
    embedder = MiniLM.load(ROOT / ".pointsman/models/minilm")
    texts = {task: [example.text for example in examples] for task, examples in config.examples.items()}
    tuning = config.tasks.classifier
    fitted, _ = fit_tasks(embedder, texts, tuning.keep_rate, tuning.seed)
    classifier = Classifier(embedder, fitted)
    started = time.perf_counter()
    unknown = await labels(classifier, "unknown")
    triage = await labels(classifier, "triage")
    seconds = time.perf_counter() - started
    result = {
        "embedding": embedder.fingerprint,
        "accuracy_out_of_fold": round(fitted.accuracy, 4),
        "unknown_abstained": sum(label.abstained for label in unknown) / len(unknown),
        "triage_kept": sum(not label.abstained for label in triage) / len(triage),
        "triage_right": sum(label.task == "triage" for label in triage) / len(triage),
        "mean_ms": round(1000 * seconds / len(unknown + triage), 2),
    }
    print(json.dumps(result))


async def labels(classifier: Classifier, name: str) -> list[Labels]:
    rows = (HELPDESK / "heldout" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [await classifier.classify(json.loads(row)["text"]) for row in rows]


if __name__ == "__main__":
    asyncio.run(main())
