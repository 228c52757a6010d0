import numpy as np
from pointsman_embedding import MiniLM
from pointsman_lab.similar_texts import ROWS_AT_ONCE, Example, group_texts, near_duplicates

PASSWORD = [
    "I forgot my password, how can I reset it?",
    "reset my password please",
    "The link to reset my password does not work",
    "my account's password has to be changed",
]
SCHOOL_TRIP = [
    "We are a school class of 28 and want to book a group trip",
    "group booking for a school excursion with 30 pupils",
    "Can a teacher book a class trip for forty pupils?",
]
ALONE = ["SELECT invoice.total FROM invoice", "the stock market closed lower today"]


def _example(text: str, task: str, line: int) -> Example:
    return Example(text, task, f"tasks/{task}.jsonl", line)


def test_similar_abstained_texts_form_a_group(minilm: MiniLM) -> None:
    texts = [PASSWORD[0], *SCHOOL_TRIP, ALONE[0], *PASSWORD[1:], ALONE[1]]

    groups = group_texts(dict.fromkeys(texts, 1), minilm.embed(texts), known_texts=["When does the train leave?"])

    assert [set(group.texts) for group in groups] == [set(PASSWORD), set(SCHOOL_TRIP)]
    assert "password" in groups[0].words
    assert {"group", "book", "class", "trip", "school", "pupils"} & set(groups[1].words)


def test_a_groups_size_is_its_number_of_requests(minilm: MiniLM) -> None:
    counts = dict.fromkeys(PASSWORD, 1) | dict.fromkeys(SCHOOL_TRIP, 9)

    groups = group_texts(counts, minilm.embed(list(counts)), known_texts=[])

    assert [group.requests for group in groups] == [27, 4]


def test_repetitions_of_one_text_are_not_a_group(minilm: MiniLM) -> None:
    assert group_texts({PASSWORD[0]: 500}, minilm.embed(PASSWORD[:1]), known_texts=[]) == []


def test_near_duplicates_are_found_across_tasks_only_and_the_most_alike_come_first(minilm: MiniLM) -> None:
    examples = [
        _example("Are dogs allowed on the train?", "policy", 1),
        _example("Are dogs allowed on the trains?", "policy", 2),
        _example("are dogs allowed on the train", "chat", 7),
        _example("Tell me a joke", "chat", 8),
    ]

    pairs = near_duplicates(examples, minilm.embed([example.text for example in examples]))

    assert [(pair.one.line, pair.other.line) for pair in pairs] == [(1, 7), (2, 7)]
    assert pairs[0].cosine >= pairs[1].cosine > 0.88
    assert pairs[0].other.file == "tasks/chat.jsonl"


def test_every_pair_is_found_once_across_blocks_of_rows() -> None:
    examples = [_example(f"text {i}", f"task{i % 2}", i) for i in range(ROWS_AT_ONCE + 3)]
    vectors = np.zeros((len(examples), len(examples)), np.float32)
    np.fill_diagonal(vectors, 1)
    vectors[ROWS_AT_ONCE + 1] = vectors[0]
    vectors[ROWS_AT_ONCE] = vectors[ROWS_AT_ONCE - 1]

    pairs = near_duplicates(examples, vectors)

    assert {(pair.one.line, pair.other.line) for pair in pairs} == {
        (0, ROWS_AT_ONCE + 1),
        (ROWS_AT_ONCE - 1, ROWS_AT_ONCE),
    }
    assert len(pairs) == 2
