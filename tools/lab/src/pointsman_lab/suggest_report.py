"""Report suggestions for improving the classifier."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pointsman_lab.report import Report, Section, cell
from pointsman_lab.request_log import TaskCorrection
from pointsman_lab.similar_texts import REPRESENTATIVES, Cluster, Example, Pair
from pointsman_lab.suggestions import Confused, ExampleFindings, RequestLogFindings

MOST_ROWS = 30


def suggest_report(
    of_examples: ExampleFindings, of_journal: RequestLogFindings | None, age: str, written: str
) -> Report:
    """Build the report. `of_journal` is None without a request log; `written` is the file with proposed examples, if
    there is one."""
    facts = _of_examples(of_examples) | ({"journal": _of_journal(of_journal)} if of_journal else {"journal": None})
    page = [_confusions(of_examples), _near(of_examples)]
    if of_journal is None:
        page.append(Section("From the journal", ("none was named: --redis URL also reads what was abstained from",)))
    else:
        page += [_groups(of_journal, age), _proposals(of_journal, age, written)]
    return Report(facts, tuple(page))


def _of_examples(found: ExampleFindings) -> dict[str, Any]:
    return {
        "confusions": [
            {
                "task": confused.confusion.task,
                "taken_for": confused.confusion.taken_for,
                "examples": confused.confusion.count,
                "worst": [_example(example) for example in confused.worst],
            }
            for confused in found.confused[:MOST_ROWS]
        ],
        "near_duplicates": [
            {"cosine": pair.cosine, "one": _example(pair.one), "other": _example(pair.other)}
            for pair in found.near[:MOST_ROWS]
        ],
        "near_duplicate_pairs": len(found.near),
    }


def _example(example: Example) -> dict[str, Any]:
    return {**asdict(example), "text": cell(example.text)}


def _of_journal(found: RequestLogFindings) -> dict[str, Any]:
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
                "examples": [cell(text) for text in group.texts[:REPRESENTATIVES]],
            }
            for group in found.groups[:MOST_ROWS]
        ],
        "proposals": [
            {
                "text": cell(said.recorded.request.query),
                "task": said.right_task,
                "decided": said.recorded.labels.task,
                "decision": said.recorded.id,
            }
            for said in found.proposals[:MOST_ROWS]
        ],
        "proposed": len(found.proposals),
        "said_without_text": found.said_without_text,
        "unknown_tasks": found.unknown_tasks,
    }


def _confusions(found: ExampleFindings) -> Section:
    heading = "Tasks taken for each other, when the example itself was held out"
    if not found.confused:
        return Section(heading, ("none",))
    rows = tuple(row for confused in found.confused[:MOST_ROWS] for row in _confusion_rows(confused))
    return Section(heading, columns=("examples", "of", "taken for", "the surest mistakes", "where"), rows=rows)


def _confusion_rows(confused: Confused) -> Iterator[tuple[str, ...]]:
    said = (str(confused.confusion.count), confused.confusion.task, confused.confusion.taken_for)
    for example in confused.worst:
        yield (*said, cell(example.text), _where(example))
        said = ("", "", "")


def _near(found: ExampleFindings) -> Section:
    heading = "Near-duplicates across tasks: one of the two is probably in the wrong file"
    if not found.near:
        return Section(heading, ("none",))
    rows = tuple(row for pair in found.near[:MOST_ROWS] for row in _pair_rows(pair))
    more = len(found.near) - MOST_ROWS
    lines = (f"the first {MOST_ROWS} of {len(found.near)} pairs",) if more > 0 else ()
    return Section(heading, lines, columns=("cosine", "text", "where"), rows=rows)


def _pair_rows(pair: Pair) -> Iterator[tuple[str, ...]]:
    yield (f"{pair.cosine:.3f}", cell(pair.one.text), _where(pair.one))
    yield ("", cell(pair.other.text), _where(pair.other))


def _where(example: Example) -> str:
    return f"{example.file}:{example.line}"


def _groups(found: RequestLogFindings, age: str) -> Section:
    lines = [f"{found.abstained} requests of the last {age} were abstained from"]
    if found.without_text:
        lines.append(f"{found.without_text} of them had no text (journal.keep_text) and cannot be grouped")
    if found.left_out:
        lines.append(f"{found.left_out} of them were left out: there are too many different texts")
    if not found.groups:
        lines.append("no three of them are alike")
    rows = tuple(row for group in found.groups[:MOST_ROWS] for row in _group_rows(group))
    columns = ("requests", "texts", "words", "typical")
    return Section("Groups of abstained requests: they look like a new task", tuple(lines), columns, rows)


def _group_rows(group: Cluster) -> Iterator[tuple[str, ...]]:
    said = (str(group.requests), str(len(group.texts)), " ".join(group.words))
    for text in group.texts[:REPRESENTATIVES]:
        yield (*said, cell(text))
        said = ("", "", "")


def _proposals(found: RequestLogFindings, age: str, written: str) -> Section:
    lines = [f"{len(found.proposals)} requests of the last {age} that feedback gives another task"]
    if found.said_without_text:
        lines.append(f"{found.said_without_text} more had no text")
    if found.unknown_tasks:
        lines.append(f"there is no task {', '.join(found.unknown_tasks)} in this configuration")
    if written:
        lines.append(f"written to {written}, to be read before they are used")
    rows = tuple(_proposal_row(said) for said in found.proposals[:MOST_ROWS])
    return Section("Proposed examples", tuple(lines), ("task", "decided", "text", "decision"), rows)


def _proposal_row(said: TaskCorrection) -> tuple[str, ...]:
    recorded = said.recorded
    return said.right_task, recorded.labels.task, cell(recorded.request.query), recorded.id
