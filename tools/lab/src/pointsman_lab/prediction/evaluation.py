"""The data from which `predict` learns: scores and costs of paths on the same requests, from an evaluation or ratings.

For some requests, only some of the paths may have a score.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.config.example_files import numbered_lines
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.domain import PathEvidence
from pointsman_gateway.request_log.evidence import EvidenceKey

from pointsman_lab.prediction.inputs import Array
from pointsman_lab.request_log import RatedRequest

MIN_ROWS = 100
"""The minimum number of rows to learn from: with fewer rows, a gain can hardly be distinguished from chance."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The data from which the policy `predicted` learns: scores and costs of several paths' answers to the same
    requests.

    The scores come from `pointsman eval`, from ratings, or from both. A row is a request; `paths` are the columns.
    """

    texts: Sequence[str]
    """The text of each request; all texts are different."""
    paths: tuple[str, ...]
    scores: Array
    """The score of each path for each request, (rows, paths); NaN if it is unknown."""
    usd: Array
    """The dollars of each answer, (rows, paths); NaN if they are unknown."""
    mean_usd: Array
    """The mean dollars of a path's answer, (paths,)."""
    lengths: Array
    """The length of each request in characters, (rows,)."""

    @property
    def is_complete(self) -> NDArray[np.bool_]:
        """Returns for each row whether the scores of all paths are known, (rows,)."""
        return np.asarray(~np.isnan(self.scores).any(axis=1))

    @property
    def filled_usd(self) -> Array:
        """Returns the dollars of each answer, (rows, paths); unknown ones are replaced by the path's mean."""
        return np.where(np.isnan(self.usd), self.mean_usd, self.usd)

    def with_mean_usd_in_rows(self) -> "Evaluation":
        """Returns a copy in which unknown dollars of an answer are replaced by the path's mean, if the mean is
        above 0.
        """
        return replace(self, usd=np.where(self.mean_usd > 0, self.filled_usd, self.usd))

    def with_rows(self, more: "Evaluation") -> "Evaluation":
        """Returns a copy with the rows of `more` added, except rows whose text this evaluation has already.

        The paths and their mean dollars are those of this evaluation; `more` must have all of these paths.
        """
        at, texts = [more.paths.index(path) for path in self.paths], set(self.texts)
        new = [row for row, text in enumerate(more.texts) if text not in texts]
        return Evaluation(
            [*self.texts, *(more.texts[row] for row in new)],
            self.paths,
            np.concatenate([self.scores, more.scores[new][:, at]]),
            np.concatenate([self.usd, more.usd[new][:, at]]),
            self.mean_usd,
            np.concatenate([self.lengths, more.lengths[new]]),
        )


def read_evaluation(
    dataset: Path, answers: Path | None, tasks: Collection[str], min_rows: int = MIN_ROWS
) -> Evaluation:
    """Reads a data set and the file of answers that `pointsman eval` stored for it.

    Only rows of `tasks` to which all paths have a scored answer count. Rows with the same text become one row with
    their mean scores, so that no row is predicted from its copies.

    Raises ConfigError if there is no file of answers, a file cannot be read, fewer than two paths answered, or there
    are fewer than `min_rows` rows.
    """
    if answers is None:
        raise ConfigError("name the answers of the evaluation as well (--answers)")
    named = ", ".join(f"'{task}'" for task in tasks)
    ids: dict[str, list[str]] = {}
    lengths: dict[str, int] = {}
    for number, row in _objects(dataset):
        text, characters = _question(row, f"{dataset}, row {number}")
        ids.setdefault(text, []).append(str(row.get("id", number)))
        lengths[text] = characters
    scores: dict[str, dict[str, float]] = {}
    usd: dict[str, dict[str, float]] = {}
    for _, answer in _objects(answers):
        is_scored = answer.get("outcome") == "ok" and answer["score"] is not None
        if is_scored and answer["task"] in tasks and answer["path"] != "auto":
            scores.setdefault(answer["path"], {})[str(answer["row"])] = float(answer["score"])
            usd.setdefault(answer["path"], {})[str(answer["row"])] = float(sum(answer["cost_parts_usd"].values()))
    if len(scores) < 2:
        raise ConfigError(f"{answers} has answers of {len(scores)} paths to task {named}; two or more are compared")
    answered = set.intersection(*map(set, scores.values()))
    rows = {text: both for text, same in ids.items() if (both := [row for row in same if row in answered])}
    if len(rows) < min_rows:
        raise ConfigError(f"all paths answered {len(rows)} rows of task {named}; {min_rows} are needed to learn from")
    return Evaluation(
        list(rows),
        tuple(scores),
        _means_of_rows(rows, scores),
        _means_of_rows(rows, usd),
        np.array([np.mean(list(of_path.values())) for of_path in usd.values()]),
        np.array([max(1, lengths[text]) for text in rows], float),
    )


def _means_of_rows(rows: Mapping[str, Sequence[str]], values: Mapping[str, Mapping[str, float]]) -> Array:
    """Returns the mean of the values of each text's rows, (texts, paths)."""
    return np.array(
        [[np.mean([of_path[row] for row in same]) for of_path in values.values()] for same in rows.values()]
    )


def to_evaluation(
    requests: Sequence[RatedRequest], known: Mapping[EvidenceKey, PathEvidence], min_ratings: int = MIN_ROWS
) -> Evaluation:
    """Converts rated requests to rows to learn from; requests whose text was not stored are left out.

    `known` has the mean cost of each path that may be used. Paths with ratings of fewer than `min_ratings` texts are
    left out. Requests with the same text become one row with the mean of their ratings, since copies would predict each
    other.

    Raises ConfigError if fewer than two paths are left. Also raises ConfigError if a path's mean cost is 0, which
    stands for an unknown cost, unless `min_ratings` is 0.
    """
    candidates, ratings = list(known), dict[str, list[list[float]]]()
    for request in requests:
        if request.text and request.ratings.keys() & set(candidates):
            of_text = ratings.setdefault(request.text, [[] for _ in candidates])
            for key, rating in request.ratings.items():
                if key in known:
                    of_text[candidates.index(key)].append(rating)
    means = [np.mean(of_path) if of_path else np.nan for of_text in ratings.values() for of_path in of_text]
    scores = np.array(means, float).reshape(len(ratings), len(candidates))
    counts = (~np.isnan(scores)).sum(axis=0)
    enough = [at for at, count in enumerate(counts) if count >= min_ratings]
    if len(enough) < 2:
        found = ", ".join(f"{key.path} {count}" for key, count in zip(candidates, counts, strict=True))
        untold = sum(not request.text for request in requests)
        stored = f"; {untold} more have no stored text (request_log.store_messages)" if untold else ""
        raise ConfigError(
            f"too few requests are rated ({found}){stored}; two paths need {min_ratings} each: run shadow requests"
        )
    paths = tuple(candidates[at].path for at in enough)
    costs = np.array([known[candidates[at]].mean_cost_usd for at in enough])
    if min_ratings and not costs.all():
        raise ConfigError(f"the cost of path '{paths[int(np.argmin(costs))]}' is not known: it has no recent answers")
    unknown, lengths = np.full((len(ratings), len(paths)), np.nan), np.array([len(text) for text in ratings], float)
    return Evaluation(list(ratings), paths, scores[:, enough], unknown, costs, lengths)


def _objects(file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        return [(number, json.loads(line)) for number, line in numbered_lines(file.read_text("utf-8-sig"))]
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as JSON lines: {error}") from error


def _question(row: Any, where: str) -> tuple[str, int]:
    """Returns the text of a row, or its last message, and the number of characters of all messages.

    Raises ConfigError if the row has neither a text nor messages.
    """
    try:
        texts = [row["text"]] if "text" in row else [message["content"] for message in row["messages"]]
        return str(texts[-1]), sum(map(len, map(str, texts)))
    except (LookupError, TypeError) as error:
        raise ConfigError(f'{where} has neither a "text" nor "messages" with a content: add one of them') from error
