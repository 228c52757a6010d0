"""Answers that are kept to learn from: only of tasks that the configuration names, and of callers who consent."""

import msgspec

from pointsman_gateway.config.schema import LearningConfig
from pointsman_gateway.domain import CompletedAnswer, Decision, Request
from pointsman_gateway.journal.entry import LONGEST_TEXT, Noted, messages_of
from pointsman_gateway.journal.keys import share_of
from pointsman_gateway.redaction import NotRedacted, Redaction

VERSION = 1
_encode = msgspec.json.Encoder().encode


def is_wanted(config: LearningConfig | None, request: Request, decision: Decision) -> bool:
    """Whether the answers to this request are to be kept. Costs next to nothing where nobody consents."""
    if config is None or decision.task not in config.tasks:
        return False
    if not (request.caller.consents_to(decision.task) or (config.without_keys and not request.caller.tenant)):
        return False
    return config.share >= 1 or share_of(decision.id) < config.share


def to_lesson(noted: Noted, redaction: Redaction) -> str:
    """JSON, as docs/flywheel.md says; empty where there is nothing that may be kept."""
    receipt = noted.receipt
    if not noted.answers or receipt.outcome != "ok" or receipt.cached:
        return ""
    messages = messages_of(noted.request)
    if messages is None or sum(len(answer.text) for answer in noted.answers) > LONGEST_TEXT:
        return ""
    try:
        kept = redaction.everywhere(messages)
        answers = [_answer(answer, redaction) for answer in noted.answers]
    except NotRedacted:
        return ""
    path = receipt.decision.path
    body = {
        "v": VERSION,
        "decision": noted.decision.id,
        "unix_ms": round(noted.unix_seconds * 1000),
        "tenant": noted.request.caller.tenant,
        "task": receipt.decision.task,
        "kind": path.kind.value,
        "model": receipt.model,
        "collections": path.collections,
        "messages": kept,
        "answers": answers,
    }
    return _encode(body).decode()


def _answer(answer: CompletedAnswer, redaction: Redaction) -> dict[str, object]:
    verdicts = [(validator, ruling, redaction.text(why)) for validator, ruling, why in answer.verdicts]
    return {"path": answer.path, "text": redaction.text(answer.text), "verdicts": verdicts}
