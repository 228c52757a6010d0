"""Sketches estimate the share of documents that changed between two states of a collection."""

import pytest
from pointsman_servicekit.document_sketch import MAX_HASHES, Sketch, changed_share, parse_sketch, sketch_of


def documents(count: int, rewritten: int = 0, begin: int = 0) -> Sketch:
    """Returns documents, the first `rewritten` of which have another text."""
    return sketch_of((f"d{n}", b"new" if n < rewritten else b"old") for n in range(begin, count))


@pytest.mark.parametrize(
    ("now", "share"),
    [
        (documents(40), 0.0),
        (documents(40, rewritten=10), 0.25),
        (documents(50), 0.2),
        (documents(40, begin=10), 0.25),
        (documents(0), 1.0),
        (documents(40, rewritten=40), 1.0),
    ],
)
def test_the_changed_share_of_few_documents_is_exact(now: Sketch, share: float) -> None:
    assert changed_share(documents(40), now) == pytest.approx(share)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_the_changed_share_of_many_documents_is_estimated(share: float) -> None:
    found = changed_share(documents(5000), documents(5000, rewritten=round(5000 * share)))
    assert found == pytest.approx(share, abs=0.15)


def test_an_empty_collection_has_not_changed() -> None:
    assert changed_share(documents(0), documents(0)) == 0.0


def test_a_sketch_is_serialized_as_a_short_text() -> None:
    sketch = documents(5000)
    assert parse_sketch(str(sketch)) == sketch
    assert len(sketch.smallest) == MAX_HASHES
    assert len(str(sketch)) < 1024


@pytest.mark.parametrize("text", ["handbook=17", "5:", "0:" + 12 * "a", "9" * 400 + ":" + 64 * 12 * "a"])
def test_an_invalid_sketch_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="no sketch"):
        parse_sketch(text)
