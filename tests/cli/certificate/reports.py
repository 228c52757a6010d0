"""Builds evaluation reports from given scores, and the catalog of the gateway that they would come from."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pointsman_cli.advise.costs import CostTerms
from pointsman_cli.advise.recommendation import Requirements
from pointsman_cli.certificate.issue import Validity, make_statement
from pointsman_cli.certificate.statement import Statement
from pointsman_cli.certificate.task_verdicts import VerdictTerms
from pointsman_cli.eval.catalog import Catalog, CatalogTask, ModelFacts, PathFacts
from pointsman_cli.eval.report import EvaluatedPath, LatencyQuantiles, Report, TaskReport
from pointsman_cli.eval.statistics import compare_paths
from pointsman_scoring.intervals import mean_interval

ISSUED = datetime(2026, 12, 1, 12, tzinfo=UTC)
VERSION = "triage@3f9a1c0b77de"
Scores = Sequence[float | None]


def path_of(name: str, scores: Scores, usd: float, **more: Any) -> EvaluatedPath:
    """Returns an evaluated path whose answers cost `usd` dollars per 1,000, three quarters of it for the prompt."""
    given = [score for score in scores if score is not None]
    facts: dict[str, Any] = {
        "kind": "prompt",
        "adapter": "",
        "model": "tiny",
        "answers": len(scores),
        "failures": {},
        "unscored": len(scores) - len(given),
        "score": mean_interval(given) if given else None,
        "well_formed": 1.0,
        "first_token": None,
        "total": LatencyQuantiles(1.0, 2.0),
        "prompt_tokens": 100.0,
        "cached_tokens": 0.0,
        "completion_tokens": 10.0,
        "prompt_tokens_p95": 120.0,
        "context_window": 4096,
        "usd_per_1000": {"prompt": 0.75 * usd, "completion": 0.25 * usd},
        "judge_usd": 0.0,
        "on_front": False,
        "fingerprint": f"print of {name}",
        "row_scores": tuple(scores),
        "row_usd": (usd / 1000,) * len(scores),
    }
    return EvaluatedPath(path=name, **(facts | more))


def adapter_of(name: str, scores: Scores, usd: float) -> EvaluatedPath:
    return path_of(name, scores, usd, kind="lora", adapter="triage@prod", model=VERSION)


def report_of(*paths: EvaluatedPath) -> Report:
    rows = tuple(str(number) for number in range(len(paths[0].row_scores)))
    pairs = compare_paths({path.path: path.row_scores for path in paths}, 0.95)
    task = TaskReport("triage", "exact", len(rows), paths, tuple(pairs), (), (), 0, rows, {"exact": True})
    return Report(1, "triage.jsonl", "0" * 64, "abc", 8, 0.95, (task,))


def catalog_of(report: Report, prices: Mapping[str, float] | None = None) -> Catalog:
    """Returns the gateway's catalog as it was during the evaluation; the base model of each path is "model of PATH"."""
    paths = report.tasks[0].paths
    facts = ModelFacts("print of a model", prices or {"prompt": 1.0, "cached": 0.1, "completion": 4.0})
    return Catalog(
        revision="abc",
        tasks={"triage": CatalogTask(tuple(path.path for path in paths), {"exact": True})},
        paths={
            path.path: PathFacts(
                path.kind, f"model of {path.path}", path.adapter, path.fingerprint, (VERSION,) if path.adapter else ()
            )
            for path in paths
        },
        context_windows={},
        default_path="",
        models=(),
        base_models={f"model of {path.path}": facts for path in paths},
        search_usd=0.001,
    )


def statement_of(
    report: Report,
    *,
    difference: float | None = None,
    needs: Requirements | None = None,
    monthly: float | None = None,
    max_price_change: float = 0.2,
) -> Statement:
    terms = CostTerms(training={"triage": 0.5}, monthly=monthly)
    given = VerdictTerms(needs or Requirements(), terms, difference, 0.8)
    validity = Validity(90, max_price_change)
    return make_statement(report, catalog_of(report), given, validity, adapters=(), issued=ISSUED)
