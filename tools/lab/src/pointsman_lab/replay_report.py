"""Report what a replay would change."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pointsman_lab.recorded import Replayed
from pointsman_lab.replay_diff import Move, ReplayDiff
from pointsman_lab.report import Report, Section, cell

MOST_ROWS = 50


def replay_report(diff: ReplayDiff, generation: str, age: str, examples: int, most_changed: float | None) -> Report:
    """Build the report. `generation` is the candidate's configuration revision. A changed share above `most_changed`
    rejects the candidate."""
    shown = diff.examples(examples)
    return Report(
        _facts(diff, generation, shown),
        tuple(_page(diff, generation, age, shown)),
        _refusal(diff, most_changed),
    )


def _refusal(diff: ReplayDiff, most_changed: float | None) -> str:
    if most_changed is None or diff.share <= most_changed:
        return ""
    return f"{_percent(diff.share)} of the decisions would change, more than {_percent(most_changed)}"


def _facts(diff: ReplayDiff, generation: str, shown: list[Replayed]) -> dict[str, Any]:
    costs = diff.costs()
    return {
        "decisions": diff.decisions,
        "compared": diff.compared,
        "without_text": diff.without_text,
        "by_chance": diff.by_chance,
        "weighed_by_evidence": diff.weighed,
        "changed": diff.changed,
        "changed_share": diff.share,
        "of_these": {
            "path": diff.moved,
            "task": diff.relabelled,
            "newly_abstained": diff.newly_abstained,
            "no_longer_abstained": diff.no_longer_abstained,
            "failing": diff.failing,
        },
        "generation": generation,
        "recorded_generations": dict(diff.generations.most_common(MOST_ROWS)),
        "moves": [{**asdict(move), "requests": count} for move, count in diff.moves.most_common(MOST_ROWS)],
        "down_changed_paths": dict(diff.of_changed_paths.most_common(MOST_ROWS)),
        "failures": dict(diff.failures.most_common(MOST_ROWS)),
        "cannot_be_compared": dict(diff.obstacles.most_common(MOST_ROWS)),
        "cost_per_1000_usd": {**asdict(costs), "difference": costs.after - costs.before},
        "examples": [_example(replayed) for replayed in shown],
    }


def _example(replayed: Replayed) -> dict[str, Any]:
    recorded, decision = replayed.recorded, replayed.decision
    return {
        "id": recorded.id,
        "text": cell(recorded.request.query) if recorded.has_text else None,
        "model": recorded.request.model,
        "path": recorded.path,
        "task": recorded.labels.task,
        "confidence": recorded.labels.confidence,
        "new_path": decision.path.name if decision else None,
        "new_task": decision.task if decision else None,
        "new_confidence": decision.confidence if decision else None,
        "new_reason": decision.reason if decision else replayed.failure,
    }


def _page(diff: ReplayDiff, generation: str, age: str, shown: list[Replayed]) -> Iterator[Section]:
    yield Section(
        f"{diff.decisions} decisions of the last {age} against configuration {generation}",
        tuple(_summary(diff)),
    )
    if diff.moves:
        yield _moves(diff)
    if diff.compared:
        yield _cost(diff)
    if diff.failures:
        yield _counted("Would fail now", "why", diff.failures)
    if diff.obstacles:
        yield _counted("Cannot be compared", "why", diff.obstacles)
    if shown:
        yield _examples(shown)


def _summary(diff: ReplayDiff) -> Iterator[str]:
    if not diff.decisions:
        yield "there is nothing to replay"
        return
    yield f"{diff.changed} of {diff.compared} would change ({_percent(diff.share)})"
    if diff.changed:
        yield (
            f"{diff.moved} would take another path, {diff.relabelled} get another task "
            f"({diff.newly_abstained} newly abstained, {diff.no_longer_abstained} no longer), {diff.failing} fail"
        )
    if diff.without_text:
        yield f"{diff.without_text} of {diff.decisions} had no text: their task is taken as recorded"
    if diff.by_chance:
        yield f"{diff.by_chance} are of users without a kept name: who of them takes part in a trial is drawn anew"
    if diff.weighed:
        yield f"{diff.weighed} are decided by evidence (best_value): by that of now, not of then"
    if diff.of_changed_paths:
        paths = ", ".join(f"{path} ({count})" for path, count in diff.of_changed_paths.most_common(MOST_ROWS))
        yield f"paths that keep their name but are not what they were, with their requests: {paths}"


def _moves(diff: ReplayDiff) -> Section:
    rows = tuple(
        (str(count), _percent(count / diff.compared), _arrow(move.path, move.new_path), _tasks(move))
        for move, count in diff.moves.most_common(MOST_ROWS)
    )
    return Section("What would change", columns=("requests", "share", "path", "task"), rows=rows)


def _tasks(move: Move) -> str:
    return _arrow(move.task, move.new_task)


def _cost(diff: ReplayDiff) -> Section:
    costs = diff.costs()
    difference = costs.after - costs.before
    lines = [
        f"${costs.before:.6f} before, ${costs.after:.6f} after: {'+' if difference >= 0 else '-'}${abs(difference):.6f}"
    ]
    if costs.estimated:
        lines.append(f"estimated, since they have not answered yet: {', '.join(costs.estimated)}")
    return Section("Cost of 1,000 requests, from each path's mean in the journal", tuple(lines))


def _counted(heading: str, what: str, counts: Counter[str]) -> Section:
    rows = tuple((str(count), cell(text)) for text, count in counts.most_common(MOST_ROWS))
    return Section(heading, columns=("requests", what), rows=rows)


def _examples(shown: list[Replayed]) -> Section:
    rows = tuple(
        (
            recorded.id,
            _arrow(recorded.path, decision.path.name if decision else "(fails)"),
            _arrow(_label(recorded.labels.task, recorded.labels.confidence), _label(decision.task, decision.confidence))
            if decision
            else recorded.labels.task,
            cell(recorded.request.query) if recorded.has_text else "(not kept)",
        )
        for recorded, decision in ((replayed.recorded, replayed.decision) for replayed in shown)
    )
    return Section("For example", columns=("decision", "path", "task", "text"), rows=rows)


def _label(task: str, confidence: float) -> str:
    return f"{task} {confidence:.2f}"


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
