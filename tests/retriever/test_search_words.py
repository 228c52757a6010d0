"""The BM25 word index."""

from collections import Counter

import numpy as np
import pytest
from pointsman_retriever.domain import Ids
from pointsman_retriever.index import bm25
from pointsman_retriever.index.bm25 import IDF_EXPONENT, K1, B, WordIndex
from pointsman_retriever.index.term_analyzer import MAX_QUERY_WORDS, TermAnalyzer

NOTHING = np.empty(0, np.int64)


def ids(*numbers: int) -> Ids:
    return np.array(numbers, np.int64)


def made_of(texts: dict[int, str]) -> WordIndex:
    return bm25.empty_word_index(TermAnalyzer()).with_changes(NOTHING, ids(*texts), list(texts.values()))


def by_hand(texts: dict[int, str], query: str) -> dict[int, float]:
    """Computes the BM25 formula term by term."""
    terms = TermAnalyzer()
    counted = {chunk: terms.document_terms(text) for chunk, text in texts.items()}
    mean = sum(map(Counter.total, counted.values())) / len(counted)
    scores = dict.fromkeys(texts, 0.0)
    for term, count in terms.query_terms(query).items():
        having = sum(term in one for one in counted.values())
        rare = np.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for chunk, one in counted.items():
            saturated = one[term] * (K1 + 1) / (one[term] + K1 * (1 - B + B * one.total() / mean))
            scores[chunk] += count * rare**IDF_EXPONENT * saturated
    return scores


def some_text(random: np.random.Generator) -> str:
    return " ".join(f"word{int(random.zipf(1.5)) % 40}" for _ in range(random.integers(1, 30)))


def test_scores_are_those_of_the_formula() -> None:
    texts = {1: "cats and dogs", 2: "a dog, a dog, a dog", 3: "birds", 4: "the bird sat by the other cat"}
    scored = made_of(texts).score("dog with a bird? dog!")
    expected = by_hand(texts, "dog with a bird? dog!")
    assert scored.scores_of(ids(*texts)) == pytest.approx([expected[chunk] for chunk in texts], rel=1e-5)
    assert scored.best(2, None).tolist() == sorted(sorted(texts, key=lambda chunk: -expected[chunk])[:2])


def test_after_any_changes_the_scores_equal_those_of_a_rebuilt_index() -> None:
    random = np.random.default_rng(5)
    index, last = bm25.empty_word_index(TermAnalyzer()), 0
    texts: dict[int, str] = {}
    for turn in range(40):
        gone = [chunk for chunk in texts if random.random() < 0.25]
        added = {last + number: some_text(random) for number in range(1, int(random.integers(1, 30)))}
        last = max(added, default=last)
        index = index.with_changes(ids(*gone), ids(*added), list(added.values()))
        texts = {chunk: text for chunk, text in (texts | added).items() if chunk not in gone}
        if turn % 9 == 8:
            index = index.compacted()
        query = some_text(random)
        fresh = made_of(texts).score(query)
        found = index.score(query)
        assert found.scores_of(ids(*texts)) == pytest.approx(fresh.scores_of(ids(*texts)), rel=1e-4)
        assert found.best(5, None).tolist() == fresh.best(5, None).tolist()
        assert index.count == len(texts)
    assert len(index.segments) < 10


def test_a_snapshot_does_not_show_later_changes() -> None:
    first = made_of({1: "a cat", 2: "a dog"})
    second = first.with_changes(ids(1), ids(3), ["another cat"])
    assert first.score("cat").best(9, None).tolist() == [1]
    assert second.score("cat").best(9, None).tolist() == [3]


def test_only_the_given_ids_are_returned() -> None:
    index = made_of(dict.fromkeys(range(1, 50), "the same cat"))
    assert index.score("cat").best(5, ids(7, 9, 400)).tolist() == [7, 9]
    assert index.score("cat").best(5, NOTHING).tolist() == []


def test_stems_case_and_accents_do_not_matter() -> None:
    index = made_of({1: "Connexions ÉTÉ", 2: "nothing of it"})
    assert index.score("connexion").best(5, None).tolist() == [1]
    assert index.score("ete").best(5, None).tolist() == [1]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("read_file", ["read", "file"]),
        ("readFile", ["read", "file"]),
        ("HTTPServer2", ["http", "server", "2"]),
        ("__init__", ["init"]),
        ("MAX_WORDS", ["max", "word"]),
    ],
)
def test_an_identifier_is_found_whole_and_by_its_parts(name: str, parts: list[str]) -> None:
    index = made_of({1: f"def {name}(): pass", 2: "nothing of it"})
    assert index.score(name).best(5, None).tolist() == [1]
    for part in parts:
        assert index.score(part).best(5, None).tolist() == [1]


def test_a_word_that_is_not_an_identifier_stays_whole() -> None:
    terms = TermAnalyzer()
    assert set(terms.document_terms("London utf8 Straße МОСКВА 1999")) == {"london", "utf8", "straße", "москва", "1999"}


def test_stop_words_are_removed_from_a_query_unless_there_are_no_others() -> None:
    terms = TermAnalyzer()
    assert terms.query_terms("How do I get there?") == Counter(["get"])
    assert terms.query_terms("Who?") == Counter(["who"])
    assert terms.query_terms("umbrella, or umbrellas") == Counter({"umbrella": 2})
    assert terms.query_terms("?! __") == Counter()
    assert terms.query_terms(" ".join(f"w{number}" for number in range(900))).total() == MAX_QUERY_WORDS


def test_coverage_is_the_idf_weighted_share_of_the_querys_words() -> None:
    index = made_of({1: "zebra", 2: "horse", **dict.fromkeys(range(3, 30), "horse again")})
    assert index.score("zebra").coverage(ids(1, 2)).tolist() == pytest.approx([1.0, 0.0])
    zebra, horse = index.score("zebra horse").coverage(ids(1, 2)).tolist()
    assert zebra > 0.8 > 0.2 > horse > 0.0
    assert index.score("zebra unicorn").coverage(ids(1))[0] < 0.6  # a word that occurs in no document counts as well
    assert index.score("?!").coverage(ids(1)).tolist() == [0.0]
