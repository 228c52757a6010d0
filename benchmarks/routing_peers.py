"""Measures other classifiers on the same texts, in their own environment (benchmarks/requirements-routing.txt).

    .venv-bench/routing/bin/python benchmarks/routing_peers.py clinc150 --data ../shared/data/routing

It uses one thread. The semantic router uses the gateway's encoder. The last line of output is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import routing_data
from pointsman_embedding import MiniLM
from routing_data import RoutingSet
from routing_scores import Answer, scores
from semantic_router import Route
from semantic_router.encoders import DenseEncoder
from semantic_router.routers import IndexedRouter
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from threadpoolctl import threadpool_limits

Ask = Callable[[str], tuple[str, float]]
"""Maps a text to its most probable task and a score."""

MODEL = Path(__file__).parents[1] / ".pointsman/models/minilm"


class MiniLMEncoder(DenseEncoder):
    """The gateway's encoder with the semantic router's interface."""

    name: str = "minilm"
    model: Any = None

    def __call__(self, docs: list[str]) -> list[list[float]]:
        return self.model.embed(docs).tolist()


def semantic_router(data: RoutingSet) -> Ask:
    """Returns the semantic router with its defaults, without thresholds or calibration, because only the ranking is
    compared.
    """
    routes = [Route(name=task, utterances=texts) for task, texts in data.by_task().items()]
    router = IndexedRouter(encoder=MiniLMEncoder(model=MiniLM.load(MODEL)), routes=routes)

    def ask(text: str) -> tuple[str, float]:
        choice = router(text)
        return choice.name, choice.confidence

    return ask


def tfidf(data: RoutingSet) -> Ask:
    """Returns a logistic regression on words and character n-grams. With a larger tolerance it would stop before it
    converges.
    """
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, min_df=2),
    )
    model = make_pipeline(features, LogisticRegression(C=30, tol=1e-4, max_iter=200))
    model.fit([text for text, _ in data.train], [label for _, label in data.train])

    def ask(text: str) -> tuple[str, float]:
        likely = model.predict_proba([text])[0]
        best = likely.argmax()
        return str(model.classes_[best]), float(likely[best])

    return ask


PEERS = {"semantic_router": semantic_router, "tfidf_logistic_regression": tfidf}


def measure(data: RoutingSet, peer: Callable[[RoutingSet], Ask]) -> dict[str, float]:
    started = time.perf_counter()
    ask = peer(data)
    fit_seconds = time.perf_counter() - started
    answers = []
    for text, _ in data.test:
        started = time.perf_counter()
        label, score = ask(text)
        answers.append(Answer(label, score, 1000 * (time.perf_counter() - started)))
    figures = scores([label for _, label in data.test], answers) | {"fit_s": fit_seconds}
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=["clinc150", "own"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routing"))
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    options = parser.parse_args()
    own = options.set == "own"
    data = routing_data.from_files(options.train, options.test) if own else routing_data.clinc150(options.data)
    with threadpool_limits(limits=1):
        print(json.dumps({name: measure(data, peer) for name, peer in PEERS.items()}))


if __name__ == "__main__":
    main()
