"""Measures how texts are classified within what clients write around them, turns of conversations, broad tasks,
questions on documents, and texts in other languages.

    make bench-requests                                     # all tables; needs `make models`, but no service
    make bench-requests ARGS="--only texts"                 # within what clients write around them
    make bench-requests ARGS="--only conversations"         # --sgd CLONE also fits the model of conversations again
    make bench-requests ARGS="--only broad"                 # tasks of many kinds of requests, with and without intents
    make bench-requests ARGS="--only documents"             # questions on what a collection contains; with a retriever
    make bench-requests ARGS="--only languages"             # with the extra `multilingual`, if it is installed
    python -m benchmarks.requests --rows development        # those that may be looked at while something is changed

300 test texts of CLINC150 (10 examples a task) and 100 that belong to no task are sent alone, within a message of each
known client with and without its entry in the catalog, and within messages that no entry is for. The other parts are
described in the files of this folder. The last line of output is one JSON object.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import FitSettings
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.classification.user_words import UserWordsFinder
from pointsman_gateway.domain import Message, Request

from benchmarks.requests import broad_tasks, conversations, documents, languages, mixed_stream, wrappers
from benchmarks.routing_data import clinc150, clinc150_shots
from tests.gateway.test_user_words import BY_PARTS, MAILS, OF_CLIENTS, WORDS

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".pointsman/models/minilm"
DATA = ROOT.parent / "shared/data"
PARTS = ("texts", "conversations", "broad", "documents", "mixed", "languages")
SHOTS, TEXTS, OUT_OF_SCOPE, SEED = 10, 300, 100, 20261201
MISSING_LETTER = 23
"""A text with typing mistakes lacks one letter in this many."""

Wrap = Callable[[str], str]


@dataclass(frozen=True)
class Result:
    """Percentages, and the mean milliseconds of a decision."""

    right: float
    abstained: float
    wrong: float
    recognized: float
    """Percentage of the texts that belong to no task and are recognized as such."""
    ms: float

    def __str__(self) -> str:
        return f"{self.right:7.1f} {self.abstained:9.1f} {self.wrong:7.1f} {self.recognized:11.1f} {self.ms:7.2f}"


class Benchmark:
    def __init__(self, classifier: CascadeClassifier, routing: Path) -> None:
        self._glance = classifier.glance
        self._stage = Classification(RuleMatcher({}), classifier)
        rng = random.Random(SEED)
        test = clinc150(routing).test
        # A quotation mark or a bracket would have to be escaped within JSON or HTML.
        plain = [row for row in test if not set('"<&') & set(row[0])]
        self._texts = rng.sample([row for row in plain if row[1] is not None], TEXTS)
        self._others = rng.sample([row for row in plain if row[1] is None], OUT_OF_SCOPE)

    def forget_clients(self) -> None:
        """Empties the catalog of clients, so that only the general method is left."""
        self._stage._words = UserWordsFinder((), (), self._glance)

    async def measure(self, name: str, wrap: Wrap) -> Result:
        right = abstained = 0
        started = time.perf_counter()
        for text, task in self._texts:
            labels = await self._stage.label(_request(wrap(text)))
            abstained += labels.abstained
            right += labels.task == task
        seconds = time.perf_counter() - started
        recognized = [(await self._stage.label(_request(wrap(text)))).abstained for text, _ in self._others]
        share = 100 / len(self._texts)
        result = Result(
            share * right,
            share * abstained,
            100 - share * (right + abstained),
            100 * statistics.fmean(recognized),
            1000 * seconds / len(self._texts),
        )
        print(f"{name:32} {result}", flush=True)
        return result


def _request(text: str) -> Request:
    return Request("auto", (Message("user", text),))


def _of_template(template: str, mark: str) -> Wrap:
    return lambda text: template.replace(mark, text)


def _with_mistakes(text: str) -> str:
    rng = random.Random(text)
    return "".join(letter for letter in text if rng.randrange(MISSING_LETTER))


def summary(alone: Result, results: Sequence[Result]) -> Mapping[str, float]:
    """Summarizes how the results inside wrappers compare with those of the texts alone, such as for how many wrappers
    at most 2 percent fewer texts are right.
    """
    return {
        "wrappers": len(results),
        "right_within_2": sum(one.right >= alone.right - 2 for one in results),
        "right_within_12": sum(one.right >= alone.right - 12 for one in results),
        "right_within_25": sum(one.right >= alone.right - 25 for one in results),
        "wrong_at_most_2_more": sum(one.wrong <= alone.wrong + 2 for one in results),
        "wrong_at_most_4_more": sum(one.wrong <= alone.wrong + 4 for one in results),
        "recognized_within_3": sum(one.recognized >= alone.recognized - 3 for one in results),
        "mean_right": round(statistics.fmean(one.right for one in results), 1),
        "mean_wrong": round(statistics.fmean(one.wrong for one in results), 1),
        "mean_ms": round(statistics.fmean(one.ms for one in results), 2),
    }


async def main(options: argparse.Namespace) -> None:
    figures: dict[str, Any] = {}
    for part in PARTS if options.only is None else [options.only]:
        print(f"\n{part}", flush=True)
        figures |= await measure_part(part, options.data, options.rows == "development", options.sgd)
    print(json.dumps(figures))


async def measure_part(part: str, data: Path, of_development: bool, sgd: Path | None = None) -> Mapping[str, Any]:
    """Prints the tables of one of `PARTS`; returns its figures for the JSON. `sgd` is the folder of a clone of SGD."""
    routing = data / "routing"
    if part == "texts":
        return await measure_texts(routing, of_development)
    if part == "conversations":
        return {part: await conversations.measure(routing, MODEL, sgd)}
    if part == "broad":
        return {part: broad_tasks.measure(routing, MODEL, development=of_development)}
    if part == "documents":
        measured = await documents.measure(data, MODEL, of_development=of_development)
        return {part: documents.to_json(measured)}
    if part == "mixed":
        return {part: await mixed_stream.measure(data, MODEL)}
    return {part: languages.measure(data, MODEL)}


async def measure_texts(routing: Path, of_development: bool) -> Mapping[str, Any]:
    data = clinc150_shots(routing, SHOTS)
    static, encoder = StaticModel.load(MODEL), MiniLM.load(MODEL)
    fitted = fit_classifier(data.by_task(), (), static, encoder, FitSettings())
    benchmark = Benchmark(CascadeClassifier(fitted, static, encoder), routing)
    clients = {name: _of_template(texts[0], WORDS) for name, texts in (OF_CLIENTS | BY_PARTS).items()}
    clients |= {f"e-mail {number}": _of_template(mail, WORDS) for number, mail in enumerate(MAILS, start=1)}
    sets = {"unlisted": wrappers.of_development()}
    if not of_development:
        sets = {"unlisted": wrappers.reported(), "unlisted_later": wrappers.later()}

    print(f"{'percent':32} {'right':>7} {'abstained':>9} {'wrong':>7} {'recognized':>11} {'ms':>7}")
    alone = await benchmark.measure("alone", lambda text: text)
    mistakes = await benchmark.measure("with a letter in 23 missing", _with_mistakes)
    known = [await benchmark.measure(name, wrap) for name, wrap in clients.items()]
    figures = {}
    for of_set, messages in sets.items():
        print(f"{of_set}:")
        wraps = {name: _of_template(message, wrappers.MARK) for name, message in messages.items()}
        figures[of_set] = summary(alone, [await benchmark.measure(name, wrap) for name, wrap in wraps.items()])
    benchmark.forget_clients()
    print("Without the catalog:")
    forgotten = [await benchmark.measure(name, wrap) for name, wrap in clients.items()]
    return {
        "alone": {"right": round(alone.right, 1), "wrong": round(alone.wrong, 1), "ms": round(alone.ms, 2)},
        "mistakes": {"right": round(mistakes.right, 1), "wrong": round(mistakes.wrong, 1)},
        "known_clients": summary(alone, known),
        "known_clients_without_catalog": summary(alone, forgotten),
        **figures,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests")
    parser.add_argument("--rows", choices=("reported", "development"), default="reported")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sgd", type=Path, metavar="CLONE", help="a clone of dstc8-schema-guided-dialogue")
    asyncio.run(main(parser.parse_args()))
