"""Makes the report of `replay`, which shows what a configuration would change."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pointsman_lab.replay_diff import FAILS, Move, ReplayDiff, ReplayedDecision
from pointsman_lab.report import Report, Section, to_cell

MAX_ROWS = 50


def replay_report(
    diff: ReplayDiff, revision: str, age: str, examples: int, max_changed_fraction: float | None
) -> Report:
    """Makes the report of a replay: how many decisions change, and up to `examples` of the changed ones.

    The report's `failure` is set if a larger fraction (0 to 1) of the decisions changes than `max_changed_fraction`; if
    it is None, there is no limit. `revision` identifies the replayed configuration, and `age` says how far back the log
    was read ("24h").
    """
    shown = diff.examples(examples)
    return Report(
        _facts(diff, revision, shown),
        tuple(_page(diff, revision, age, shown)),
        _failure(diff, max_changed_fraction),
    )


def _failure(diff: ReplayDiff, max_changed_fraction: float | None) -> str:
    if max_changed_fraction is None or diff.changed_fraction <= max_changed_fraction:
        return ""
    return (
        f"{_percent(diff.changed_fraction)} of the decisions would change, more than {_percent(max_changed_fraction)}"
    )


def _facts(diff: ReplayDiff, revision: str, shown: list[ReplayedDecision]) -> dict[str, Any]:
    costs = diff.costs()
    return {
        "decisions": diff.decisions,
        "compared": diff.compared,
        "without_text": diff.without_text,
        "redrawn": diff.redrawn,
        "by_evidence": diff.by_evidence,
        "by_sketch": dict(diff.by_sketch.most_common(MAX_ROWS)),
        "changed": diff.changed,
        "changed_fraction": diff.changed_fraction,
        "changes": {
            "path": diff.moved,
            "task": diff.relabelled,
            "newly_abstained": diff.newly_abstained,
            "no_longer_abstained": diff.no_longer_abstained,
            "failing": diff.failing,
        },
        "revision": revision,
        "recorded_revisions": dict(diff.revisions.most_common(MAX_ROWS)),
        "moves": [{**asdict(move), "requests": count} for move, count in diff.moves.most_common(MAX_ROWS)],
        "on_modified_paths": dict(diff.on_modified_paths.most_common(MAX_ROWS)),
        "failures": dict(diff.failures.most_common(MAX_ROWS)),
        "not_comparable": dict(diff.not_comparable.most_common(MAX_ROWS)),
        "cost_per_1000_usd": {**asdict(costs), "difference": costs.after - costs.before} if costs else None,
        "examples": [_example(replayed) for replayed in shown],
    }


def _example(replayed: ReplayedDecision) -> dict[str, Any]:
    recorded, decision = replayed.recorded, replayed.decision
    return {
        "id": recorded.id,
        "text": to_cell(recorded.request.query) if recorded.has_text else None,
        "model": recorded.request.model,
        "path": recorded.path,
        "task": recorded.labels.task,
        "confidence": recorded.labels.confidence,
        "new_path": decision.path.name if decision else None,
        "new_task": decision.task if decision else None,
        "new_confidence": decision.confidence if decision else None,
        "new_reason": decision.reason if decision else replayed.failure,
    }


def _page(diff: ReplayDiff, revision: str, age: str, shown: list[ReplayedDecision]) -> Iterator[Section]:
    yield Section(
        f"{diff.decisions} decisions of the last {age} against configuration {revision}",
        tuple(_summary(diff)),
    )
    if diff.moves:
        yield _moves(diff)
    if diff.compared:
        yield _cost(diff)
    if diff.failures:
        yield _counted("Requests that would fail", "error", diff.failures)
    if diff.not_comparable:
        yield _counted("Requests that cannot be compared", "reason", diff.not_comparable)
    if shown:
        yield _examples(shown)


def _summary(diff: ReplayDiff) -> Iterator[str]:
    if not diff.decisions:
        yield "there is nothing to replay"
        return
    yield f"{diff.changed} of {diff.compared} would change ({_percent(diff.changed_fraction)})"
    if diff.changed:
        yield (
            f"{diff.moved} would take another path, {diff.relabelled} would get another task "
            f"({diff.newly_abstained} newly abstained, {diff.no_longer_abstained} no longer), {diff.failing} would fail"
        )
    if diff.without_text:
        yield f"{diff.without_text} of {diff.decisions} have no stored text: the recorded task is used"
    if diff.redrawn:
        yield f"{diff.redrawn} are of users without a stored name: whether they take part in a trial is sampled again"
    if diff.by_evidence:
        yield f"{diff.by_evidence} are decided by ratings: today's, not those of the time"
    if diff.by_sketch:
        sketches = ", ".join(f"{name} ({count})" for name, count in diff.by_sketch.most_common(MAX_ROWS))
        yield f"by sketches of documents that a replay does not have, so the recorded task is used: {sketches}"
    if diff.on_modified_paths:
        paths = ", ".join(f"{path} ({count})" for path, count in diff.on_modified_paths.most_common(MAX_ROWS))
        yield f"paths with the same name and another configuration, with their number of requests: {paths}"


def _moves(diff: ReplayDiff) -> Section:
    rows = tuple(
        (str(count), _percent(count / diff.compared), _arrow(move.path, move.new_path), _tasks(move))
        for move, count in diff.moves.most_common(MAX_ROWS)
    )
    return Section("Changes", columns=("requests", "share", "path", "task"), rows=rows)


def _tasks(move: Move) -> str:
    return _arrow(move.task, move.new_task)


def _cost(diff: ReplayDiff) -> Section:
    costs = diff.costs()
    if costs is None:
        return Section("Cost of 1,000 requests", ("unknown, since the price of a model is unknown",))
    difference = costs.after - costs.before
    lines = [
        f"${costs.before:.6f} before, ${costs.after:.6f} after: {'+' if difference >= 0 else '-'}${abs(difference):.6f}"
    ]
    if costs.estimated:
        lines.append(f"estimated, since these paths have not answered yet: {', '.join(costs.estimated)}")
    return Section("Cost of 1,000 requests, from each path's mean in the request log", tuple(lines))


def _counted(heading: str, what: str, counts: Counter[str]) -> Section:
    rows = tuple((str(count), to_cell(text)) for text, count in counts.most_common(MAX_ROWS))
    return Section(heading, columns=("requests", what), rows=rows)


def _examples(shown: list[ReplayedDecision]) -> Section:
    rows = tuple(
        (
            recorded.id,
            _arrow(recorded.path, decision.path.name if decision else FAILS),
            _arrow(_label(recorded.labels.task, recorded.labels.confidence), _label(decision.task, decision.confidence))
            if decision
            else recorded.labels.task,
            to_cell(recorded.request.query) if recorded.has_text else "(not stored)",
        )
        for recorded, decision in ((replayed.recorded, replayed.decision) for replayed in shown)
    )
    return Section("Examples", columns=("decision", "path", "task", "text"), rows=rows)


def _label(task: str, confidence: float) -> str:
    return f"{task} {confidence:.2f}"


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
