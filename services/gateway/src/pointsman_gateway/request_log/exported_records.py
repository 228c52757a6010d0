"""Encodes feedback, scores of shadow requests, and results of evaluations as JSON records for the export log."""

import time
from collections.abc import Iterable, Sequence

import msgspec

from pointsman_gateway.domain import PathScore
from pointsman_gateway.request_log.evidence import EvidenceKey, path_key
from pointsman_gateway.request_log.export_log import EVALUATIONS, ExportSink
from pointsman_gateway.request_log.feedback_store import EvaluationStore
from pointsman_gateway.request_log.wal_records import FeedbackRecord

VERSION = 1

_encode = msgspec.json.Encoder().encode


def feedback_record(record: FeedbackRecord) -> str:
    feedback = record.feedback
    fields = {
        "v": VERSION,
        "id": feedback.id,
        "unix_ms": record.unix_ms,
        "decision": feedback.decision_id,
        "tenant": feedback.tenant,
        "rating": feedback.rating,
        "correction": feedback.correction,
        "right_task": feedback.right_task,
        "right_answer": feedback.right_answer,
    }
    return _encode(fields).decode()


def score_records(decision_id: str, scores: Iterable[tuple[EvidenceKey, float]]) -> list[str]:
    """Returns a JSON record for each pair in `scores`: the key of a path, and the score (0 to 1) of its answer to
    the request of the decision.
    """
    return [_score(decision_id, key, 1, score) for key, score in scores]


class ExportedEvaluations:
    """An `EvaluationStore` that wraps another one, and also writes each result to the export log."""

    def __init__(self, inner: EvaluationStore, export: ExportSink) -> None:
        self._inner = inner
        self._export = export

    async def add_evaluation(self, evaluation_id: str, results: Sequence[PathScore]) -> None:
        await self._inner.add_evaluation(evaluation_id, results)
        keyed = [(path_key(one.task, one.path, one.model), one) for one in results]
        self._export.append(EVALUATIONS, [_score(evaluation_id, key, one.rows, one.score) for key, one in keyed])


def _score(name: str, key: EvidenceKey, rows: int, score: float) -> str:
    """Returns the record of a mean score of a path; `name` is that of the decision or of the evaluation."""
    fields = {"v": VERSION, "of": name, "unix_ms": round(time.time() * 1000), **key._asdict()}
    return _encode({**fields, "rows": rows, "score": score}).decode()
