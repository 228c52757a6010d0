"""Makes the statement of a certificate from an evaluation's report and the gateway's tasks, paths and prices."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import version

from pointsman_scoring.intervals import RESAMPLES

from pointsman_cli.certificate.adapter_files import AdapterFiles
from pointsman_cli.certificate.statement import FORMAT, PathIdentity, Statement
from pointsman_cli.certificate.task_verdicts import PriceList, VerdictTerms, price_bounds, task_verdicts
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.catalog import Catalog
from pointsman_cli.eval.report import EvaluatedPath, Report

SEED = 7
"""The random seed of a report's intervals and tests: the default seed of the functions that compute them."""

_LIBRARIES = ("pointsman", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class Validity:
    """How long a certificate is valid, and how far a price may change until the certificate becomes invalid."""

    days: float
    """Days from the issue of a certificate until it expires."""
    max_price_change: float
    """The share by which each price may change (0.2 is 20 %), unless a smaller change already changes a verdict."""


def make_statement(
    report: Report,
    catalog: Catalog,
    given: VerdictTerms,
    validity: Validity,
    *,
    adapters: Iterable[AdapterFiles],
    issued: datetime,
) -> Statement:
    """Returns the statement that certifies which path each task of an evaluation's report should use.

    `catalog` has the gateway's present tasks, paths and prices, `given` the requirements and costs. `adapters` are the
    digests of adapter files to certify, and `issued` is the time in UTC.

    Raises UsageError if the report lacks the scores of rows, if the configuration has changed since the evaluation, if
    more than one version of an adapter answered on a path, if an adapter has other weights than the version that
    answered, or if `given` sets a cost for wrong answers or requires a score of 1. Also raises UsageError as
    `task_verdicts` does.
    """
    if given.terms.wrong_answer:
        raise UsageError("a certificate counts wrong answers by the scores alone; leave out --wrong-answer-usd")
    if given.requirements.floor is not None and given.requirements.floor >= 1:
        raise UsageError("no number of rows can show that the mean score is 1; give a --min-score below 1")
    report = without_texts(report)
    if report.revision != catalog.revision:
        raise UsageError(
            f"the configuration was {report.revision} in the evaluation, and is {catalog.revision} now; evaluate "
            "again (--resume continues with the same answers if no path and no price has changed)"
        )
    paths = {path.path: _identity(path, catalog) for task in report.tasks for path in task.paths}
    files = tuple(adapters)
    _check_weights(files, paths.values())
    models = {each.model: catalog.base_models[each.model] for each in paths.values()}
    prices = PriceList(paths, models, catalog.search_usd)
    verdicts = task_verdicts(report, given)
    return Statement(
        format=FORMAT,
        issued=issued,
        expires=issued + timedelta(days=validity.days),
        software=software_versions(),
        report=report,
        paths=paths,
        models=models,
        search_usd=catalog.search_usd,
        tasks={task.task: catalog.tasks[task.task] for task in report.tasks if task.task in catalog.tasks},
        adapters=files,
        requirements=given.requirements,
        terms=given.terms,
        difference=given.difference,
        power=given.power,
        max_price_change=validity.max_price_change,
        price_bounds=price_bounds(report, prices, given, verdicts, validity.max_price_change),
        seed=SEED,
        resamples=RESAMPLES,
        verdicts=verdicts,
    )


def software_versions() -> dict[str, str]:
    """Returns the installed versions of Python, Pointsman, numpy and scipy, by their names."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def without_texts(report: Report) -> Report:
    """Returns the report without the texts of requests and answers in it.

    Raises UsageError if the report has no task, or lacks the score of each row.
    """
    if not report.tasks:
        raise UsageError("the report has no task, so there is nothing to certify; evaluate rows of a task")
    for task in report.tasks:
        if not task.row_ids or not all(path.row_scores and path.fingerprint for path in task.paths):
            raise UsageError(f"the report lacks the scores of each row of '{task.task}'; evaluate again to have them")
    tasks = (replace(task, confusions=(), disagreements=()) for task in report.tasks)
    return replace(report, tasks=tuple(tasks), mixed=None)


def _identity(path: EvaluatedPath, catalog: Catalog) -> PathIdentity:
    """Returns the base model and the adapter version that answered on a path in the evaluation.

    Raises UsageError if several versions answered, or if another version would answer now.
    """
    now = catalog.paths[path.path]
    if not path.adapter:
        return PathIdentity(now.model, "")
    answered = [name for name in path.model.split(", ") if name]
    if len(answered) > 1:
        raise UsageError(
            f"on path '{path.path}' {path.model} answered, and a certificate is on one version; end the canary, and "
            "evaluate again"
        )
    if answered and now.versions != tuple(answered):
        raise UsageError(
            f"on path '{path.path}' {path.model} answered in the evaluation, and {', '.join(now.versions)} would now; "
            "evaluate again"
        )
    return PathIdentity(now.model, answered[0] if answered else "")


def _check_weights(adapters: Iterable[AdapterFiles], paths: Iterable[PathIdentity]) -> None:
    """Raises UsageError if an adapter's files have other weights than the version that answered in the evaluation."""
    with_weights = {files.adapter: files for files in adapters if files.has_weights}
    for path in paths:
        files = with_weights.get(path.version.partition("@")[0])
        if files and not files.may_be(path.version):
            raise UsageError(
                f"the files of the adapter '{files.adapter}' have the hash {files.content_hash[:12]}, and "
                f"{path.version} answered in the evaluation; give the folder of that version"
            )
