"""Each prompt once, nothing on both sides, and the same prompts held out in every version."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from pointsman_gateway.workbench.datasets.rows import Pair, Row, group_of


@dataclass(frozen=True, slots=True)
class DataSet:
    """Rows are in the order of their keys, so that equal rows make equal files."""

    train: tuple[Row, ...]
    heldout: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    heldout_pairs: tuple[Pair, ...]
    dropped: Mapping[str, int]
    """How many rows, by why."""


def split(rows: Iterable[Row], pairs: Iterable[Pair], closed: Set[str], heldout_share: float) -> DataSet:
    """`closed` are keys of rows that decide on the adapter: neither they nor their like may be learnt."""
    dropped: Counter[str] = Counter()
    closed_groups = {group_of(key) for key in closed}
    chosen: dict[str, Row] = {}
    for row in rows:
        if group_of(row.key) in closed_groups:
            dropped["held out by the configuration"] += 1
        elif row.key not in chosen:
            chosen[row.key] = row
        else:
            before = chosen[row.key]
            dropped["twice" if before.answer == row.answer else "contrary, and of less weight"] += 1
            # Of two with the same weight the later one holds: rows come oldest first.
            chosen[row.key] = max(row, before, key=lambda one: one.source)
    held = {key for key in chosen if _point(group_of(key)) < heldout_share}
    ordered = [chosen[key] for key in sorted(chosen)]
    one_each = _one_each(pairs, chosen)
    return DataSet(
        train=tuple(row for row in ordered if row.key not in held),
        heldout=tuple(row for row in ordered if row.key in held),
        pairs=tuple(pair for pair in one_each if pair.right.key not in held),
        heldout_pairs=tuple(pair for pair in one_each if pair.right.key in held),
        dropped=dict(sorted(dropped.items())),
    )


def _one_each(pairs: Iterable[Pair], chosen: Mapping[str, Row]) -> Sequence[Pair]:
    """With the answers that hold, each once; none whose wrong answer has turned out right."""
    found = {}
    for pair in pairs:
        right = chosen.get(pair.right.key)
        if right is not None and pair.wrong != right.answer:
            found[right.key, pair.wrong] = Pair(right, pair.wrong)
    return [found[place] for place in sorted(found)]


def _point(group: str) -> float:
    """Where a prompt lies between 0 and 1: a matter of its text alone, so that it stays on its side."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) / 2**64
