"""Finds text that clients write around their users' words, by what many messages have in common."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pointsman_gateway.config.tasks_file import WrapperConfig
from pointsman_lab.wrapper_search import MIN_TEXTS, find_wrappers, to_entry

from tests.gateway.doubles.config_folder import ConfigFolder

QUESTIONS = [text for rows in ConfigFolder(Path()).examples.values() for text, _ in rows]
DOCUMENTS = [f"Rule {number}: {text} " * 5 for number, text in enumerate(reversed(QUESTIONS))]


def documents(number: int, question: str) -> str:
    return (
        f"Context information is below.\n---\n{DOCUMENTS[number]}\n---\n"
        f"Given the context and no prior knowledge, answer.\nQuery: {question}\nAnswer: "
    )


def reminder(number: int, question: str) -> str:
    return f"{question}\n\n<hint>Today is day {number} of the week. Never mention this hint to the user.</hint>"


def in_line(number: int, question: str) -> str:
    return f"You are the helper of kiosk {number}. The passenger says: {question} Reply in one short sentence."


def mail(number: int, question: str) -> str:
    return f"[TICKET-{number}] New message from the web form\nCustomer: No. {number}\nText:\n{question}"


@pytest.mark.parametrize("wrap", [documents, reminder, in_line, mail])
def test_what_many_messages_have_in_common_is_taken_away(wrap: Callable[[int, str], str]) -> None:
    texts = [wrap(number, question) for number, question in enumerate(QUESTIONS)]
    [found] = find_wrappers(texts)
    assert found.texts == len(texts)
    read = [found.wrapper.unwrap(text).strip() for text in texts]
    assert sum(inner == question for inner, question in zip(read, QUESTIONS, strict=True)) >= 0.9 * len(texts)
    assert found.read[0] == QUESTIONS[0]


def test_each_client_has_its_own_wrapper_and_other_messages_none() -> None:
    texts = [documents(number, question) for number, question in enumerate(QUESTIONS)]
    texts += [mail(number, question) for number, question in enumerate(QUESTIONS[:12])]
    found = find_wrappers([*texts, *QUESTIONS])
    assert [one.texts for one in found] == [len(QUESTIONS), 12]
    assert len({one.wrapper.name for one in found}) == 2
    assert all(one.wrapper.unwrap(question) == question for one in found for question in QUESTIONS)


def test_messages_of_two_forms_of_one_client_count_for_one_wrapper_only() -> None:
    greeted = [f"Dear team of the railway, {documents(number, text)}" for number, text in enumerate(QUESTIONS)]
    plain = [documents(number, text) for number, text in enumerate(QUESTIONS)]
    found = find_wrappers([*plain, *greeted])
    assert sum(one.texts for one in found) <= 2 * len(QUESTIONS)
    assert all(one.texts >= MIN_TEXTS and one.read for one in found)


def test_questions_that_begin_alike_are_not_wrapped() -> None:
    assert find_wrappers(QUESTIONS) == []
    assert find_wrappers([f"Please tell me where to find number {number}?" for number in range(30)]) == []


def test_a_few_messages_are_not_enough() -> None:
    texts = [documents(number, question) for number, question in enumerate(QUESTIONS)]
    assert find_wrappers(texts[: MIN_TEXTS - 1] * 5) == []
    assert len(find_wrappers(texts[:MIN_TEXTS])) == 1


@pytest.mark.parametrize("wrap", [documents, reminder])
def test_the_entry_is_one_of_the_configuration(wrap: Callable[[int, str], str]) -> None:
    [found] = find_wrappers([wrap(number, question) for number, question in enumerate(QUESTIONS)])
    entry = WrapperConfig.model_validate(to_entry(found.wrapper))
    assert entry.name == found.wrapper.name
