"""The positions of the parts in a text that was joined from parts."""

from itertools import pairwise

import pytest
from pointsman_gateway.domain.blocks import find_parts

PARTS = ["one", "", "two", "one", " ", "\nthree"]


@pytest.mark.parametrize("separator", ["", "\n", "\n\n"])
def test_each_part_is_found_at_its_place(separator: str) -> None:
    text = separator.join(PARTS)
    spans = find_parts(text, PARTS)
    assert [text[start:end] for start, end in spans] == PARTS
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_part_is_found_behind_a_text_between_the_parts() -> None:
    assert find_parts("one, and then two", ["one", "two"]) == [(0, 3), (14, 17)]
