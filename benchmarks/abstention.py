"""Measures how many out-of-scope requests the classifier abstains from, and how many held-out triage messages it
accepts.

    python benchmarks/abstention.py        # after `make models`; needs no service

The last line of output is one JSON object.
"""

import asyncio
import json
import time
from pathlib import Path

from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import ENCODER, FitSettings
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Labels
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parents[1]
HELPDESK = ROOT / "examples/helpdesk"
MODEL = ROOT / ".pointsman/models/minilm"


async def main() -> None:
    config = load_config(HELPDESK / "config")
    encoder, static = MiniLM.load(MODEL), StaticModel.load(MODEL)
    texts = {task: [example.text for example in examples] for task, examples in config.examples.items()}
    options = config.tasks.classifier
    tuning = FitSettings(target_coverage=options.target_coverage, stages=options.stages, seed=options.seed)
    fitted = fit_classifier(texts, config.out_of_scope, static, encoder, tuning)
    classifier = CascadeClassifier(fitted, static, encoder)
    started = time.perf_counter()
    unknown = await labels(classifier, "unknown")
    triage = await labels(classifier, "triage")
    seconds = time.perf_counter() - started
    result = {
        "embeddings": [static.fingerprint, encoder.fingerprint],
        "accuracy_out_of_fold": round(fitted.report.accuracy, 4),
        "unknown_abstained": sum(label.abstained for label in unknown) / len(unknown),
        "triage_kept": sum(not label.abstained for label in triage) / len(triage),
        "triage_right": sum(label.task == "triage" for label in triage) / len(triage),
        "read_by_the_encoder": sum(label.stage == ENCODER for label in unknown + triage) / len(unknown + triage),
        "mean_ms": round(1000 * seconds / len(unknown + triage), 2),
    }
    print(json.dumps(result))


async def labels(classifier: CascadeClassifier, name: str) -> list[Labels]:
    rows = (HELPDESK / "heldout" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [await classifier.classify(json.loads(row)["text"]) for row in rows]


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        asyncio.run(main())
