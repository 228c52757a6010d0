"""Measures the gateway's classifier on published benchmarks, and prints published figures next to its own.

    make bench-public                        # ARGS="--data FOLDER --only larson_full leave_out"

It uses one thread. No test text takes part in training or in the choice of a threshold. The last line of output is one
JSON object. Needs `make models`, but no service. `--data` takes any folder with the layout that `routing_data` reads.
"""

import argparse
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import routing_data
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.domain import Labels
from routellm_apgr import measure_mmlu
from routing_data import RoutingSet
from routing_quality import DATA, MODEL, ROOT, TUNING, WARM_UP, answers_of
from routing_scores import Answer, scores
from threadpoolctl import threadpool_limits

CACHE = ROOT / ".pointsman/cache/bench-public"
PUBLISHED = ROOT / "benchmarks/published_scores.toml"
CONDITIONS = ("full", "small", "imbalanced", "oos_plus")
LEAVE_OUT_SEEDS = (1, 2, 3)
COLUMNS = {
    "accuracy": 100, "oos_recall": 100, "recall_at_95": 100, "auroc": 100, "ece": 100, "apgr": 1, "cpt50": 1,
    "cpt80": 1, "gain": 100, "us_per_decision": 1,
}  # fmt: skip
"""The columns of the tables; fractions are printed in percent."""

Figures = dict[str, float]
Rows = Sequence[tuple[str, str | None]]


class CachedEncoder:
    """An encoder that embeds each text once, even over several runs. It is used for fits only: decisions are timed with
    the real encoder.
    """

    def __init__(self, encoder: MiniLM, file: Path) -> None:
        self.fingerprint, self._encoder, self._file = encoder.fingerprint, encoder, file
        self._vectors: dict[str, np.ndarray] = {}
        if file.exists():
            with np.load(file, allow_pickle=False) as stored:
                self._vectors = dict(zip(stored["texts"].tolist(), stored["vectors"], strict=True))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds n texts as (n, dimensions)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors |= dict(zip(new, self._encoder.embed(new), strict=True))
        return np.stack([self._vectors[text] for text in texts])

    def save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(self._file, texts=np.array(list(self._vectors)), vectors=np.stack(list(self._vectors.values())))


@dataclass(frozen=True)
class Results:
    """A classifier's answers to the rows of one part of a set."""

    truth: list[str | None]
    answers: list[Answer]
    labels: list[Labels]

    def figures(self, shift: float = 0.0) -> Figures:
        """Returns the figures, counted as in the papers: abstaining from a text in scope is wrong, and abstaining from
        one out of scope detects it. `shift` is added to every threshold.
        """
        kept = np.array([labels.in_distribution_score >= shift for labels in self.labels])
        inside = np.array([label is not None for label in self.truth])
        right = np.array([answer.label == label for answer, label in zip(self.answers, self.truth, strict=True)])
        found = scores(self.truth, self.answers)
        figures = {"accuracy": float((right & kept)[inside].mean()), "ece": found["ece"]}
        if not inside.all():
            recall_at_95, auroc = found["oos_recall_at_95"], found["auroc"]
            figures |= {"oos_recall": float((~kept[~inside]).mean()), "recall_at_95": recall_at_95, "auroc": auroc}
        return figures | {"us_per_decision": 1000 * found["mean_ms"]}

    def best_shift(self) -> float:
        """Returns the shift that maximizes the mean of in-scope accuracy and out-of-scope recall on these rows."""
        candidates = [0.0, *sorted({labels.in_distribution_score for labels in self.labels})]

        def value(shift: float) -> float:
            figures = self.figures(shift)
            return figures["accuracy"] + figures["oos_recall"]

        return max(candidates[:: max(1, len(candidates) // 400)], key=value)


class Scorecard:
    """Runs the benchmarks; each returns its figures by variant, the first of which is the reported one."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._static, self._minilm = StaticModel.load(MODEL), MiniLM.load(MODEL)
        self._encoder = CachedEncoder(self._minilm, CACHE / f"{self._minilm.fingerprint}.npz")
        self.milliseconds: list[float] = []
        """The duration of every timed decision on a test text."""

    def larson(self, condition: str) -> dict[str, Figures]:
        whole = routing_data.clinc150(self._data, condition)
        variants = {"no out-of-scope text": [], "out-of-scope texts in training": whole.out_of_scope}
        figures = {}
        for name, out_of_scope in variants.items():
            classifier = self._fit(whole, out_of_scope)
            shift = self._classify(classifier, whole.validation).best_shift()
            test = self._test(classifier, whole)
            figures[f"own threshold, {name}"] = test.figures()
            figures[f"threshold on validation, {name}"] = test.figures(shift)
        return figures

    def accuracy(self, data: RoutingSet) -> dict[str, Figures]:
        """Returns the accuracy on tests in which every text is in scope, so the most probable task counts, even if the
        classifier abstains.
        """
        results = self._test(self._fit(data), data)
        return {"most probable task": results.figures(-np.inf), "own threshold": results.figures()}

    def leave_out(self) -> dict[str, Figures]:
        """Returns how well texts of intents that were left out of the training are recognized as out of scope.

        Three ways to leave out: half of the intents with one classifier for all domains, which is harder, because there
        are more tasks that a text can resemble; half of each domain's with one classifier a domain; and one of each of
        40 pairs of similar intents.
        """
        draws = [routing_data.without_half_of_each_domain(self._data, seed) for seed in LEAVE_OUT_SEEDS]
        alone = [self._test(self._fit(data), data).figures() for draw in draws for data in draw[:-1]]
        together = [self._test(self._fit(draw[-1]), draw[-1]).figures() for draw in draws]
        pairs = [
            routing_data.without_one_of_each_pair(self._data, seed, self._encoder.embed) for seed in LEAVE_OUT_SEEDS
        ]
        similar = [self._test(self._fit(data), data).figures() for data in pairs]
        return {
            "all domains together (mean)": _mean(together),
            "one domain alone (mean)": _mean(alone),
            "one of each of 40 similar pairs (mean)": _mean(similar),
        }

    def routellm(self) -> dict[str, Figures]:
        found = measure_mmlu(self._data, self._static, self._encoder)
        self._encoder.save()
        return found

    def run(self, name: str) -> dict[str, Figures]:
        if name.startswith("larson_"):
            return self.larson(name.removeprefix("larson_"))
        if name.startswith("clinc150_"):
            return self.accuracy(routing_data.clinc150_shots(self._data, int(name.removeprefix("clinc150_"))))
        if name == "snips":
            whole = routing_data.snips(self._data)
            return self.accuracy(RoutingSet(whole.name, whole.train, [row for row in whole.test if row[1] is not None]))
        return self.leave_out() if name == "leave_out" else self.routellm()

    def _fit(self, data: RoutingSet, out_of_scope: Sequence[str] = ()) -> CascadeClassifier:
        fitted = fit_classifier(data.by_task(), out_of_scope, self._static, self._encoder, TUNING)
        self._encoder.save()
        return CascadeClassifier(fitted, self._static, self._minilm)

    def _classify(self, classifier: CascadeClassifier, rows: Rows) -> Results:
        answers, labels = answers_of(classifier, [text for text, _ in rows])
        return Results([label for _, label in rows], answers, labels)

    def _test(self, classifier: CascadeClassifier, data: RoutingSet) -> Results:
        answers_of(classifier, [text for text, _ in data.test[:: max(1, len(data.test) // WARM_UP)]])
        results = self._classify(classifier, data.test)
        self.milliseconds += [answer.milliseconds for answer in results.answers]
        return results


def _mean(figures: Sequence[Figures]) -> Figures:
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}


def benchmarks(data: Path) -> list[str]:
    """Returns the names of the benchmarks whose data are in the folder."""
    files = {
        **{f"larson_{name}": f"clinc150/data_{name}.json" for name in CONDITIONS},
        **{f"clinc150_{shots}": f"clinc150_few/train_{shots}.jsonl" for shots in (5, 10)},
        "snips": "snips",
        "leave_out": "clinc150/domains.json",
        "routellm_mmlu": "routellm/mmlu",
    }
    return [name for name, file in files.items() if (data / file).exists()]


def print_table(name: str, figures: dict[str, Figures], published: dict[str, Any]) -> None:
    rows = [(f"Pointsman, {variant}", found, True) for variant, found in figures.items()]
    rows += [(row["method"], row, False) for row in published.get(name, {}).get("rows", ())]
    columns = [column for column in COLUMNS if any(column in found for _, found, _ in rows)]
    print(f"\n{name:64}" + "".join(f"{column:>16}" for column in columns))
    for label, found, measured in rows:
        print(f"{label:64}" + "".join(_cell(column, found.get(column), measured) for column in columns))
    if name in published:
        print(f"published: {published['sources'][published[name]['source']]}", flush=True)


def _cell(column: str, value: Any, measured: bool) -> str:
    if value is None:
        return f"{'-':>16}"
    return f"{value * (COLUMNS[column] if measured else 1):>16.{3 if column == 'apgr' else 1}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", nargs="+", metavar="BENCHMARK", help="by default all that the folder has data for")
    options = parser.parse_args()
    known = benchmarks(options.data)
    if not known:
        parser.error(f"{options.data} has no data that this benchmark reads; see benchmarks/routing_data.py")
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no data for {', '.join(sorted(unknown))} in {options.data}; known: {', '.join(known)}")
    card, published, result = Scorecard(options.data), tomllib.loads(PUBLISHED.read_text("utf-8")), {}
    with threadpool_limits(limits=1):
        for name in options.only or known:
            figures = card.run(name)
            print_table(name, figures, published)
            result[name] = {key: round(value, 4) for key, value in next(iter(figures.values())).items()}
    times = {"mean_ms": round(float(np.mean(card.milliseconds)), 4)} if card.milliseconds else {}
    print(json.dumps(result | times))


if __name__ == "__main__":
    main()
