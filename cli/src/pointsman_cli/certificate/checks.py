"""The checks of a certificate that send no requests: its digest, signature, age, figures and data set."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from pointsman_scoring.intervals import RESAMPLES, mean_interval

from pointsman_cli.certificate.issue import SEED
from pointsman_cli.certificate.signing import problem_of
from pointsman_cli.certificate.statement import Certificate, Statement, canonical, digest_of, to_json
from pointsman_cli.certificate.task_verdicts import PriceList, VerdictTerms, price_bounds, task_verdicts
from pointsman_cli.errors import CommandError
from pointsman_cli.eval.dataset import text_of
from pointsman_cli.eval.report import EvaluatedPath, TaskReport
from pointsman_cli.eval.statistics import compare_paths

TOLERANCE = 1e-6
"""The difference up to which two figures count as equal, since floating-point results differ between machines.

It is relative for figures above 1, otherwise absolute.
"""
LOOSE_TOLERANCE = 0.02
"""The tolerance, used as TOLERANCE is, if the installed numpy or scipy has another version than the certificate's.

Other versions may draw other random samples.
"""
MAX_CLOCK_DIFFERENCE = timedelta(days=1)

_SAMPLERS = ("numpy", "scipy")


class Outcome(Enum):
    """The outcome of one check of a certificate. The members are in order, from OK (best) to INVALID (worst)."""

    OK = "ok"
    NOT_CHECKED = "not checked"
    WEAKENED = "weakened"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check in the verification of a certificate, for example the check of its age or of one path."""

    subject: str
    """What was checked, such as "age" or "path triage"."""
    outcome: Outcome
    detail: str
    """An explanation of the outcome for the user."""


def overall(checks: Iterable[Check]) -> str:
    """Returns the result of a verification: "valid", "weakened" or "invalid", by the worst outcome of its checks.

    OK and NOT_CHECKED both count as valid.
    """
    outcomes = {check.outcome for check in checks}
    if Outcome.INVALID in outcomes:
        return "invalid"
    return "weakened" if Outcome.WEAKENED in outcomes else "valid"


def file_checks(certificate: Certificate, trusted_key: Path | None, now: datetime) -> Iterator[Check]:
    """Yields three checks: of the certificate's digest, of its signature, and of its age at the time `now`.

    `trusted_key` is the path of a PEM file with the key by which the certificate must be signed; None: any key, or no
    signature.
    """
    found = digest_of(certificate.content)
    intact = found == certificate.sha256
    yield Check(
        "digest",
        Outcome.OK if intact else Outcome.INVALID,
        found[:16] if intact else "the statement was changed after its digest was made",
    )
    yield _signature_check(certificate, trusted_key)
    yield _age_check(certificate.statement, now)


def _age_check(statement: Statement, now: datetime) -> Check:
    issued, expires = statement.issued, statement.expires
    if issued > now + MAX_CLOCK_DIFFERENCE:
        return Check("age", Outcome.INVALID, f"it is issued in the future: {issued.date()}")
    if now > expires:
        return Check("age", Outcome.INVALID, f"issued {issued.date()}, expired {expires.date()}")
    return Check("age", Outcome.OK, f"issued {issued.date()}, expires {expires.date()}")


def _signature_check(certificate: Certificate, trusted_key: Path | None) -> Check:
    signature = certificate.signature
    if signature is None:
        if trusted_key:
            return Check("signature", Outcome.INVALID, f"it is not signed, and must be with the key of {trusted_key}")
        return Check("signature", Outcome.NOT_CHECKED, "it is not signed: anybody may have written it")
    problem = problem_of(canonical(certificate.content), signature, trusted_key)
    if problem:
        return Check("signature", Outcome.INVALID, problem)
    if trusted_key is None:
        shown = f"by the key {signature.public_key[:16]}..., whose holder is unknown (--trusted-key)"
        return Check("signature", Outcome.NOT_CHECKED, shown)
    return Check("signature", Outcome.OK, f"by the key of {trusted_key}")


def figures_check(statement: Statement) -> Check:
    """Computes the certificate's intervals, comparisons, costs and verdicts again, from the rows' scores and costs.

    The check's outcome is INVALID if they differ from the certified ones. It is only WEAKENED if they differ by at most
    LOOSE_TOLERANCE and the installed numpy or scipy is another version than the certificate's.
    """
    try:
        wrong = list(_wrong_figures(statement, TOLERANCE))
        libraries = {name: statement.software.get(name) for name in _SAMPLERS}
        same = libraries == {name: version(name) for name in _SAMPLERS}
        if wrong and not same and not list(_wrong_figures(statement, LOOSE_TOLERANCE)):
            used = ", ".join(f"{name} {number}" for name, number in libraries.items())
            return Check("figures", Outcome.WEAKENED, f"they follow from the rows about, and are of {used}")
    except (ValueError, CommandError) as error:
        return Check("figures", Outcome.INVALID, f"they cannot be computed: {error}")
    if wrong:
        return Check("figures", Outcome.INVALID, f"they do not follow from the scores of the rows: {'; '.join(wrong)}")
    rows = sum(task.rows * len(task.paths) for task in statement.report.tasks)
    return Check("figures", Outcome.OK, f"intervals, costs and verdicts follow from {rows:,} scores")


def verdict_terms(statement: Statement) -> VerdictTerms:
    return VerdictTerms(statement.requirements, statement.terms, statement.difference, statement.power)


def _wrong_figures(statement: Statement, tolerance: float) -> Iterator[str]:
    """Computes the certificate's figures again from the scores and costs of its rows, and yields the names of those
    figures that differ by more than `tolerance`.
    """
    if (statement.seed, statement.resamples) != (SEED, RESAMPLES):
        yield "seed and resamples"
    confidence = statement.report.confidence
    for task in statement.report.tasks:
        for path in task.paths:
            if not _path_follows(path, task, confidence, tolerance):
                yield f"{task.task}: {path.path}"
        again = compare_paths({path.path: path.row_scores for path in task.paths}, confidence)
        if not _equal([asdict(pair) for pair in again], [asdict(pair) for pair in task.pairs], tolerance):
            yield f"{task.task}: comparisons"
    given = verdict_terms(statement)
    verdicts = task_verdicts(statement.report, given)
    prices = PriceList(statement.paths, statement.models, statement.search_usd)
    bounds = price_bounds(statement.report, prices, given, verdicts, statement.max_price_change)
    again_json, stated = to_json(replace(statement, verdicts=verdicts, price_bounds=bounds)), to_json(statement)
    for one, other in zip(stated["verdicts"], again_json["verdicts"], strict=True):
        if not _equal(one, other, tolerance):
            yield f"verdict on {one['task']}"
    if not _equal(stated["price_bounds"], again_json["price_bounds"], TOLERANCE):
        yield "bounds of prices"


def _path_follows(path: EvaluatedPath, task: TaskReport, confidence: float, tolerance: float) -> bool:
    scores = [score for score in path.row_scores if score is not None]
    dollars = [usd for usd in path.row_usd if usd is not None]
    score = mean_interval(scores, confidence) if scores else None
    return (
        len(path.row_scores) == len(path.row_usd) == len(task.row_ids) == task.rows
        and _equal(score and asdict(score), path.score and asdict(path.score), tolerance)
        and _equal(1000 * fmean(dollars) if dollars else 0.0, path.cost, TOLERANCE)
    )


def _equal(one: Any, other: Any, tolerance: float) -> bool:
    """Returns whether two values as in JSON are equal, and numbers within them up to `tolerance`, relative above 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(*pair, tolerance) for pair in zip(one, other, strict=True))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= tolerance * max(1.0, abs(one))
    return bool(one == other)


def data_check(statement: Statement, file: Path | None) -> Check:
    """Checks by its SHA-256 that `file` is the data set that was evaluated.

    If `file` is None, nothing is compared, and the check's outcome is WEAKENED. Raises UsageError if the file cannot be
    read.
    """
    evaluated = statement.report
    if file is None:
        return Check("data", Outcome.WEAKENED, f"{evaluated.dataset} was not compared; name it with --data")
    if hashlib.sha256(text_of(file).encode()).hexdigest() != evaluated.sha256:
        return Check("data", Outcome.INVALID, f"{file} differs from the evaluated {evaluated.dataset}")
    return Check("data", Outcome.OK, f"{file} is what was evaluated")
