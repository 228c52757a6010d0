"""Measures the classifier of English examples on requests in other languages, with the extra `multilingual`.

XQuAD: each of the 48 articles is a task, half of its English questions are the examples, and a quarter are the test
questions, in five languages. CLINC150 with ten examples a task compares both encoders on English, on a third of its
test texts. Short texts are those of one to three words: of CLINC150's validation and test parts, of XQuAD's answers,
and of `short_texts.toml`.
"""

import json
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pointsman_embedding import EncoderConfig, Prefixed, StaticModel, open_encoder
from pointsman_embedding.encoder import Encoder
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import STATIC, FitSettings, SentenceEncoder
from pointsman_gateway.classification.reader import LanguageDetector
from pointsman_gateway.domain import Labels
from pointsman_servicekit.errors import FailedPrecondition
from threadpoolctl import threadpool_limits

from benchmarks import routing_data

LANGUAGES = ("en", "de", "es", "zh", "hi")
COVERAGES = (1.0, 0.8)
MAX_SHORT_WORDS = 3
EVERY = 3
"""Every third of CLINC150's 4,500 test texts that belong to a task is used."""
ENCODERS = {"minilm": None, "multilingual": EncoderConfig(multilingual=True)}

Rows = list[tuple[str, str]]
Figures = dict[str, float]


@dataclass(frozen=True)
class Learned:
    """A classifier with the language detector that it has in the gateway."""

    classifier: CascadeClassifier
    detector: LanguageDetector

    @classmethod
    def from_examples(cls, rows: Rows, static: StaticModel, encoder: SentenceEncoder) -> "Learned":
        examples = routing_data.RoutingSet("", rows, []).by_task()
        fitted = fit_classifier(examples, (), static, encoder, FitSettings())
        classifier = CascadeClassifier(fitted, static, encoder)
        return cls(classifier, LanguageDetector(["en"], classifier.knows_word))

    def classify(self, text: str) -> tuple[Labels, bool]:
        """Returns the labels, and whether the text was detected to be in another language."""
        is_foreign = bool(self.detector.foreign(text))
        return self.classifier.classify_now(text, is_foreign=is_foreign), is_foreign


def measure(data: Path, models: Path) -> dict[str, dict[str, Figures]]:
    """Prints the results by encoder, and returns them; without the extra only those of MiniLM, and a line says so."""
    static, result = StaticModel.load(models), {}
    with threadpool_limits(limits=1):
        for name, config in ENCODERS.items():
            model = open_if_installed(name, config, models)
            if model is None:
                continue
            encoder = Prefixed(model, model.query_prefix)
            learned = learn_clinc150(data, static, encoder)
            if config is None:
                result["short"] = measure_short_texts(data, learned)
            of_xquad = measure_xquad(data, static, encoder)
            result[name] = {"clinc150_ten": figures_of(learned, clinc150_texts(data)), **of_xquad}
            for part, figures in result[name].items():
                print(
                    f"{name:13}{part:13}" + "".join(f" {key} {value:.3f} " for key, value in figures.items()),
                    flush=True,
                )
    return result


def open_if_installed(name: str, config: EncoderConfig | None, models: Path) -> Encoder | None:
    """Returns an encoder; None, after a line that says why it is not measured, if what it needs is not installed."""
    try:
        return open_encoder(config, models)
    except FailedPrecondition as error:
        print(f"{name}: not measured: {error.message}")
        return None


def learn_clinc150(data: Path, static: StaticModel, encoder: SentenceEncoder) -> Learned:
    return Learned.from_examples(routing_data.few(routing_data.clinc150(data / "routing")).train, static, encoder)


def clinc150_texts(data: Path) -> Rows:
    test = routing_data.clinc150(data / "routing").test
    return [(text, label) for text, label in test if label is not None][::EVERY]


def measure_xquad(data: Path, static: StaticModel, encoder: SentenceEncoder) -> dict[str, Figures]:
    learned = Learned.from_examples(questions(data, "en", (0, 2)), static, encoder)
    return {language: figures_of(learned, questions(data, language, (3,))) for language in LANGUAGES}


def questions(data: Path, language: str, quarters: Sequence[int]) -> Rows:
    """Returns XQuAD's questions with the number of their article, from the given quarters of each article's
    questions.
    """
    rows: Rows = []
    for number, article in enumerate(read_xquad(data, language)):
        asked = [question["question"] for paragraph in article["paragraphs"] for question in paragraph["qas"]]
        rows += [(text, f"article {number}") for place, text in enumerate(asked) if place % 4 in quarters]
    return rows


def read_xquad(data: Path, language: str) -> Any:
    folder = "xquad-en" if language == "en" else "xquad"
    return json.loads((data / f"qa/{folder}/xquad.{language}.json").read_text("utf-8"))["data"]


def figures_of(learned: Learned, rows: Rows) -> Figures:
    """Returns the accuracy of all texts, of those that are not abstained from, and of the `COVERAGES` best scores."""
    found, milliseconds = [], []
    for text, _ in rows:
        started = time.perf_counter()
        found.append(learned.classify(text))
        milliseconds.append(1000 * (time.perf_counter() - started))
    right = np.array([one.probabilities[0][0] == task for (one, _), (_, task) in zip(found, rows, strict=True)])
    kept = np.array([not one.abstained for one, _ in found])
    best = np.argsort([-one.in_distribution_score for one, _ in found], kind="stable")
    figures = {f"at_{coverage:.0%}": float(right[best[: round(coverage * len(best))]].mean()) for coverage in COVERAGES}
    return figures | {
        "kept": float(kept.mean()),
        "right_of_kept": float(right[kept].mean()),
        "foreign": float(np.mean([is_foreign for _, is_foreign in found])),
        "static": float(np.mean([one.stage == STATIC for one, _ in found])),
        "mean_ms": float(np.mean(milliseconds)),
    }


def measure_short_texts(data: Path, learned: Learned) -> dict[str, Figures]:
    """Returns how many short texts are detected to be in another language, and how many are classified: without the
    detection ("kept_before") and with it.
    """
    whole = routing_data.clinc150(data / "routing")
    english = [text for text, label in [*whole.validation, *whole.test] if label is not None]
    own = tomllib.loads(Path(__file__).with_name("short_texts.toml").read_text("utf-8"))
    sets = {"CLINC150": english, **{f"own {language}": own[language]["texts"] for language in own}}
    sets |= {f"XQuAD's answers {language}": answers(data, language) for language in ("en", "de", "es")}
    result = {}
    for name, texts in sets.items():
        short = [text for text in texts if 1 <= len(text.split()) <= MAX_SHORT_WORDS]
        found = [learned.classify(text) for text in short]
        before = [not one.abstained for one in map(learned.classifier.classify_now, short)]
        after = [not one.abstained and not is_foreign for one, is_foreign in found]
        foreign = [is_foreign for _, is_foreign in found]
        result[name] = {
            "texts": len(short),
            "foreign": float(np.mean(foreign)),
            "kept_before": float(np.mean(before)),
            "kept": float(np.mean(after)),
        }
        print(f"{name:22}", result[name], [text for text, is_it in zip(short, foreign, strict=True) if is_it][:12])
    return result


def answers(data: Path, language: str) -> list[str]:
    """Returns XQuAD's answers that differ from their English ones; for English, from the German ones."""
    other = "de" if language == "en" else "en"
    mine, others = (answer_texts(read_xquad(data, one)) for one in (language, other))
    return sorted({text for text, same in zip(mine, others, strict=True) if text != same})


def answer_texts(articles: Any) -> list[str]:
    return [
        question["answers"][0]["text"]
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
