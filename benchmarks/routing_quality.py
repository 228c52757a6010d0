"""Measures the gateway's classifier on labelled sets, and compares it with two other classifiers.

    make bench-routing                                                          # CLINC150 and SNIPS, with peers
    python benchmarks/routing_quality.py --train TRAIN.jsonl --test TEST.jsonl  # any set; rows {"text", "label"}

A label of null means out of scope. It uses one thread. Test texts and out-of-scope texts are not used in training. The
last line of output is one JSON object. Needs `make models`, but no service.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import routing_data
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.classifier_file import fit_origin, load, save
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import ENCODER, STATIC, FitSettings
from pointsman_gateway.domain import Labels
from routing_data import RoutingSet
from routing_scores import Answer, scores
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".pointsman/models/minilm"
DATA = ROOT.parent / "shared/data/routing"
CACHE = ROOT / ".pointsman/cache/bench-routing"
PEERS_PYTHON = ROOT / ".venv-bench/routing/bin/python"
OWN = "own"
TUNING = FitSettings()
WARM_UP = 200
COLUMNS = (
    "accuracy", "oos_recall_at_95", "auroc", "ece", "mean_ms", "p99_ms", "static_p50_ms", "escalated", "kept",
    "oos_abstained", "fit_s", "memory_mb",
)  # fmt: skip

Figures = dict[str, float]


def main() -> None:
    options = _arguments()
    with threadpool_limits(limits=1):
        if options.measure:
            print(json.dumps(measure(_set(options.measure, options), options)))
        elif options.weigh:
            print(json.dumps(measure_memory(_set(options.weigh, options))))
        else:
            compare(options)


def compare(options: argparse.Namespace) -> None:
    names = [OWN] if options.train else ["clinc150", "snips", "clinc150_ten", "snips_ten"]
    print(f"{'':26}" + "".join(f"{column:>17}" for column in COLUMNS))
    result: dict[str, Figures] = {}
    for name in names:
        result[name] = _child(sys.executable, __file__, "--measure", name, *_paths(options))
        _print(name, result[name])
    peers = {} if options.no_peers else _peers(names[0], options)
    for name, figures in peers.items():
        _print(name, figures)
    print(json.dumps(result | {"peers": peers}))


def measure(data: RoutingSet, options: argparse.Namespace) -> Figures:
    """Trains a classifier, saves and loads it, and classifies every test text."""
    static, encoder = StaticModel.load(MODEL), MiniLM.load(MODEL)
    examples = data.by_task()
    started = time.perf_counter()
    fitted = fit_classifier(examples, (), static, encoder, TUNING)
    fit_seconds = time.perf_counter() - started
    artifact = _artifact(data)
    save(fitted, fit_origin(examples, (), static, encoder, TUNING), artifact)
    # Runs in its own process, to measure the memory of a gateway that loads the classifier.
    weight = _child(sys.executable, __file__, "--weigh", data.name, *_paths(options))
    classifier = _load(data, static, encoder)
    answers_of(classifier, [text for text, _ in data.test[:: max(1, len(data.test) // WARM_UP)]])
    answers, labels = answers_of(classifier, [text for text, _ in data.test])
    truth = [label for _, label in data.test]
    figures = scores(truth, answers) | _decisions(truth, labels) | _static_times(labels, answers)
    figures |= {"fit_s": fit_seconds, "artifact_mb": artifact.stat().st_size / 1e6, **weight}
    return {name: round(value, 4) for name, value in figures.items()}


def answers_of(classifier: CascadeClassifier, texts: Iterable[str]) -> tuple[list[Answer], list[Labels]]:
    """Classifies one text after the other, and measures how long each takes."""
    answers, labels = [], []
    for text in texts:
        started = time.perf_counter()
        found = classifier.classify_now(text)
        milliseconds = 1000 * (time.perf_counter() - started)
        labels.append(found)
        answers.append(Answer(found.probabilities[0][0], found.in_distribution_score, milliseconds, found.confidence))
    return answers, labels


def measure_memory(data: RoutingSet) -> Figures:
    """Measures the memory that loading the models and the classifier and classifying some texts takes."""
    before = _resident_mb()
    classifier = _load(data, StaticModel.load(MODEL), MiniLM.load(MODEL))
    for text, _ in data.test[:1000]:
        classifier.classify_now(text)
    return {"memory_mb": _resident_mb() - before}


def _load(data: RoutingSet, static: StaticModel, encoder: MiniLM) -> CascadeClassifier:
    expected = fit_origin(data.by_task(), (), static, encoder, TUNING)
    return CascadeClassifier(load(_artifact(data), expected), static, encoder)


def _artifact(data: RoutingSet) -> Path:
    return CACHE / f"{data.name}.classifier"


def _decisions(truth: list[str | None], labels: list[Labels]) -> Figures:
    inside = [found for found, label in zip(labels, truth, strict=True) if label is not None]
    outside = [found for found, label in zip(labels, truth, strict=True) if label is None]
    figures = {
        "escalated": _share(found.stage == ENCODER for found in labels),
        "escalated_in_scope": _share(found.stage == ENCODER for found in inside),
        "kept": _share(not found.abstained for found in inside),
    }
    return figures | ({"oos_abstained": _share(found.abstained for found in outside)} if outside else {})


def _static_times(labels: list[Labels], answers: list[Answer]) -> Figures:
    times = [a.milliseconds for a, found in zip(answers, labels, strict=True) if found.stage == STATIC]
    return {"static_p50_ms": float(np.median(times))} if times else {}


def _share(holds: Iterable[bool]) -> float:
    return float(np.mean([*holds]))


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text("ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def _set(name: str, options: argparse.Namespace) -> RoutingSet:
    if name == OWN:
        return routing_data.from_files(options.train, options.test)
    full = routing_data.clinc150(options.data) if name.startswith("clinc150") else routing_data.snips(options.data)
    return routing_data.few(full) if name.endswith("_ten") else full


def _peers(name: str, options: argparse.Namespace) -> dict[str, Figures]:
    if not PEERS_PYTHON.exists():
        print("peers are not measured: `make bench-routing` creates their environment")
        return {}
    return _child(str(PEERS_PYTHON), str(ROOT / "benchmarks/routing_peers.py"), name, *_paths(options))


def _child(*command: str) -> Any:
    """Runs the command and parses the last line of its output."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _paths(options: argparse.Namespace) -> list[str]:
    own = ["--train", str(options.train), "--test", str(options.test)] if options.train else []
    return ["--data", str(options.data), *own]


def _print(name: str, figures: Figures) -> None:
    print(f"{name:26}" + "".join(_cell(column, figures.get(column)) for column in COLUMNS), flush=True)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return f"{'-':>17}"
    return f"{value:>17.3f}" if column.endswith(("_ms", "_s", "_mb")) else f"{value:>17.1%}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--train", type=Path, help="JSON lines; replaces the public sets, together with --test")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--weigh", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if bool(options.train) != bool(options.test):
        parser.error("--train and --test go together")
    return options


if __name__ == "__main__":
    main()
