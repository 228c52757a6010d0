"""The report of `suggest`: what would improve the classifier."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pointsman_lab.report import Report, Section, to_cell
from pointsman_lab.request_log import TaskCorrection
from pointsman_lab.similar_texts import REPRESENTATIVES, Example, Group, SimilarPair
from pointsman_lab.suggestions import Confusion, ExampleFindings, LogFindings

MAX_ROWS = 30


def suggest_report(in_examples: ExampleFindings, in_log: LogFindings | None, age: str, written: str) -> Report:
    """`in_log` is None without a request log; `written` is the file with the proposals, if they were written."""
    facts = _example_facts(in_examples) | {"request_log": _log_facts(in_log) if in_log else None}
    page = [_confusions(in_examples), _near_duplicates(in_examples)]
    if in_log is None:
        page.append(Section("From the request log", ("not read; --redis URL names the Redis that holds it",)))
    else:
        page += [_groups(in_log, age), _proposals(in_log, age, written)]
    return Report(facts, tuple(page))


def _example_facts(found: ExampleFindings) -> dict[str, Any]:
    return {
        "confusions": [
            {
                "task": confusion.task,
                "predicted": confusion.predicted,
                "examples": confusion.count,
                "worst": [_example(example) for example in confusion.worst],
            }
            for confusion in found.confusions[:MAX_ROWS]
        ],
        "near_duplicates": [
            {"cosine": pair.cosine, "one": _example(pair.one), "other": _example(pair.other)}
            for pair in found.near_duplicates[:MAX_ROWS]
        ],
        "near_duplicate_pairs": len(found.near_duplicates),
    }


def _example(example: Example) -> dict[str, Any]:
    return {**asdict(example), "text": to_cell(example.text)}


def _log_facts(found: LogFindings) -> dict[str, Any]:
    return {
        "abstained": found.abstained,
        "without_text": found.without_text,
        "left_out": found.left_out,
        "groups": [
            {
                "requests": group.requests,
                "texts": len(group.texts),
                "words": group.words,
                "tightness": group.tightness,
                "examples": [to_cell(text) for text in group.texts[:REPRESENTATIVES]],
            }
            for group in found.groups[:MAX_ROWS]
        ],
        "proposals": [
            {
                "text": to_cell(correction.recorded.request.query),
                "task": correction.right_task,
                "decided": correction.recorded.labels.task,
                "decision": correction.recorded.id,
            }
            for correction in found.proposals[:MAX_ROWS]
        ],
        "proposed": len(found.proposals),
        "corrections_without_text": found.corrections_without_text,
        "unknown_tasks": found.unknown_tasks,
    }


def _confusions(found: ExampleFindings) -> Section:
    heading = "Confusions: examples classified as another task when they were held out of training"
    if not found.confusions:
        return Section(heading, ("none",))
    rows = tuple(row for confusion in found.confusions[:MAX_ROWS] for row in _confusion_rows(confusion))
    return Section(heading, columns=("examples", "of", "predicted", "most certain mistakes", "where"), rows=rows)


def _confusion_rows(confusion: Confusion) -> Iterator[tuple[str, ...]]:
    first = (str(confusion.count), confusion.task, confusion.predicted)
    for example in confusion.worst:
        yield (*first, to_cell(example.text), _where(example))
        first = ("", "", "")


def _near_duplicates(found: ExampleFindings) -> Section:
    heading = "Near-duplicates across tasks: one of the two is probably in the wrong file"
    if not found.near_duplicates:
        return Section(heading, ("none",))
    rows = tuple(row for pair in found.near_duplicates[:MAX_ROWS] for row in _pair_rows(pair))
    more = len(found.near_duplicates) - MAX_ROWS
    lines = (f"the first {MAX_ROWS} of {len(found.near_duplicates)} pairs",) if more > 0 else ()
    return Section(heading, lines, columns=("cosine", "text", "where"), rows=rows)


def _pair_rows(pair: SimilarPair) -> Iterator[tuple[str, ...]]:
    yield (f"{pair.cosine:.3f}", to_cell(pair.one.text), _where(pair.one))
    yield ("", to_cell(pair.other.text), _where(pair.other))


def _where(example: Example) -> str:
    return f"{example.file}:{example.line}"


def _groups(found: LogFindings, age: str) -> Section:
    lines = [f"the classifier abstained from {found.abstained} requests of the last {age}"]
    if found.without_text:
        lines.append(f"{found.without_text} of them have no stored text (journal.keep_text) and cannot be grouped")
    if found.left_out:
        lines.append(f"{found.left_out} of them were left out: there are too many distinct texts")
    if not found.groups:
        lines.append("no three of them are similar")
    rows = tuple(row for group in found.groups[:MAX_ROWS] for row in _group_rows(group))
    columns = ("requests", "texts", "words", "typical")
    return Section("Groups of similar abstained requests: candidates for a new task", tuple(lines), columns, rows)


def _group_rows(group: Group) -> Iterator[tuple[str, ...]]:
    first = (str(group.requests), str(len(group.texts)), " ".join(group.words))
    for text in group.texts[:REPRESENTATIVES]:
        yield (*first, to_cell(text))
        first = ("", "", "")


def _proposals(found: LogFindings, age: str, written: str) -> Section:
    lines = [f"{len(found.proposals)} requests of the last {age} that feedback assigns to another task"]
    if found.corrections_without_text:
        lines.append(f"{found.corrections_without_text} more have no stored text")
    if found.unknown_tasks:
        lines.append(f"this configuration has no task {', '.join(found.unknown_tasks)}")
    if written:
        lines.append(f"written to {written}; review them before use")
    rows = tuple(_proposal_row(correction) for correction in found.proposals[:MAX_ROWS])
    return Section("Proposed examples", tuple(lines), ("task", "decided", "text", "decision"), rows)


def _proposal_row(correction: TaskCorrection) -> tuple[str, ...]:
    recorded = correction.recorded
    return correction.right_task, recorded.labels.task, to_cell(recorded.request.query), recorded.id
