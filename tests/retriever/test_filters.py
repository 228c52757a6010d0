"""Metadata filters give exact results in all combinations and after all changes."""

from typing import Any, Protocol

import grpc
import numpy as np
import pytest
from google.protobuf.text_format import Parse
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.filters import And, Eq, Exists, Filter, In, Not, NumberRange, Or, TextRange
from pointsman_retriever.index import metadata_index

from tests.retriever.client import Client, Refusal

NOTHING = np.empty(0, np.int64)


def fits(entries: dict[str, str], wanted: Filter) -> bool:
    """Evaluates a filter independently of the implementation."""
    match wanted:
        case And(parts):
            return all(fits(entries, part) for part in parts)
        case Or(parts):
            return any(fits(entries, part) for part in parts)
        case Not(part):
            return not fits(entries, part)
        case Exists(key):
            return key in entries
        case Eq(key, value):
            return entries.get(key) == value
        case In(key, values):
            return entries.get(key) in values
        case NumberRange():
            try:
                number = float(entries[wanted.key])
            except (KeyError, ValueError):
                return False
            return inside(number, wanted)
        case TextRange():
            return wanted.key in entries and inside(entries[wanted.key], wanted)


def inside(value: Any, bounds: NumberRange | TextRange) -> bool:
    return (
        (bounds.gte is None or value >= bounds.gte)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.lte is None or value <= bounds.lte)
        and (bounds.lt is None or value < bounds.lt)
    )


WANTED = [
    Eq("colour", "red"),
    Eq("colour", "never seen"),
    Eq("never", "seen"),
    In("colour", ("red", "blue", "never seen")),
    Exists("price"),
    Not(Exists("price")),
    Not(Eq("colour", "red")),
    NumberRange("price", gte=10, lt=50),
    NumberRange("price", gt=10),
    NumberRange("price", lte=10),
    NumberRange("price", gte=-1e9),
    TextRange("day", gte="2024-03-01", lte="2024-06-30"),
    TextRange("day", gt="2024-06-30"),
    And((Eq("colour", "blue"), NumberRange("price", lt=30))),
    Or((Eq("colour", "green"), And((Exists("day"), Not(TextRange("day", lt="2024-05")))))),
    And((Not(Or((Eq("colour", "red"), Eq("colour", "blue")))), Exists("colour"))),
]


def some_entries(random: np.random.Generator) -> dict[str, str]:
    entries = {}
    if random.random() < 0.8:
        entries["colour"] = str(random.choice(["red", "blue", "green", ""]))
    if random.random() < 0.6:
        entries["price"] = str(random.choice(["10", "9.5", "100", "-3", "49.99", "ask", "1e1", "nan"]))
    if random.random() < 0.6:
        entries["day"] = f"2024-{random.integers(1, 13):02d}-{random.integers(1, 29):02d}"
    return entries


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_a_filter_matches_exactly_the_documents_that_fit(wanted: Filter) -> None:
    random = np.random.default_rng(1)
    held, last = metadata_index.empty_metadata_index(), 0
    rows: dict[int, dict[str, str]] = {}
    for _ in range(12):
        gone = [chunk for chunk in rows if random.random() < 0.3]
        added = {last + number: some_entries(random) for number in range(1, 21)}
        last += 20
        ids = np.array(list(added), np.int64)
        held = held.with_changes(np.array(gone, np.int64), ids, ids * 10, list(added.values()))
        rows = {chunk: entries for chunk, entries in (rows | added).items() if chunk not in gone}
        expected = [chunk for chunk, entries in rows.items() if fits(entries, wanted)]
        assert held.matching(wanted).tolist() == expected
        assert held.count == len(rows)
    assert held.compacted().matching(wanted).tolist() == expected
    assert held.compacted().documents_of(ids).tolist() == (ids * 10).tolist()


def test_an_unknown_id_is_not_mistaken_for_the_next_stored_one() -> None:
    index = metadata_index.empty_metadata_index().with_changes(NOTHING, np.array([7, 9]), np.array([1, 2]), [{}, {}])
    assert index.with_changes(np.array([5, 7, 8]), NOTHING, NOTHING, []).count == 1


def test_a_snapshot_does_not_show_later_changes() -> None:
    first = metadata_index.empty_metadata_index().with_changes(
        NOTHING, np.array([1, 2]), np.array([1, 1]), [{"a": "x"}, {}]
    )
    second = first.with_changes(np.array([1]), np.array([3]), np.array([2]), [{"a": "x", "b": "new"}])
    assert first.matching(Eq("a", "x")).tolist() == [1]
    assert second.matching(Eq("a", "x")).tolist() == [3]
    assert first.matching(Exists("b")).tolist() == []
    again = first.with_changes(NOTHING, np.array([3]), np.array([2]), [{"a": "y"}])  # the second was not committed
    assert again.matching(Eq("a", "x")).tolist() == [1]
    assert again.matching(Exists("b")).tolist() == []


# -- through the gRPC API


class Shop(Protocol):
    async def __call__(self, where: str, **further: Any) -> set[str]:
        """Searches with a filter in protobuf's text format and returns the ids of the documents found."""
        ...


@pytest.fixture
async def shop(client: Client) -> Shop:
    await client.upsert(
        pb.Document(id="tea", text="A pot of green tea.", metadata={"kind": "drink", "price": "3.50"}),
        pb.Document(id="cocoa", text="A mug of hot cocoa.", metadata={"kind": "drink", "price": "12"}),
        pb.Document(id="scone", text="A scone with jam.", metadata={"kind": "food", "price": "4"}),
        pb.Document(id="sign", text="A sign that says open."),
    )

    async def found(where: str, **further: Any) -> set[str]:
        request = pb.SearchRequest(collection="notes", query="something to drink or eat", top_k=50, **further)
        answer = await client.stub.Search(Parse(f"where {{ {where} }}", request))
        return {passage.document_id for passage in answer.passages}

    return found


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('eq { key: "kind" value: "drink" }', {"tea", "cocoa"}),
        ('in { key: "kind" values: ["food", "drink"] }', {"tea", "cocoa", "scone"}),
        ('exists: "kind"', {"tea", "cocoa", "scone"}),
        ('not { exists: "kind" }', {"sign"}),
        ('number_range { key: "price" gte: 0 lt: 4 }', {"tea"}),  # as numbers: "12" is not below "4"
        ('number_range { key: "price" gte: 4 }', {"cocoa", "scone"}),
        ('text_range { key: "price" lt: "3" }', {"cocoa"}),
        (
            'and { parts { eq { key: "kind" value: "drink" } } parts { number_range { key: "price" gt: 5 } } }',
            {"cocoa"},
        ),
        ('or { parts { eq { key: "kind" value: "food" } } parts { not { exists: "kind" } } }', {"scone", "sign"}),
        ('eq { key: "kind" value: "furniture" }', set()),
    ],
)
async def test_a_search_respects_its_filter(shop: Shop, where: str, expected: set[str]) -> None:
    assert await shop(where) == expected


async def test_filter_and_where_must_both_hold(shop: Shop) -> None:
    assert await shop('number_range { key: "price" lt: 5 }', filter={"kind": "drink"}) == {"tea"}


@pytest.mark.parametrize("share", [1, 20, 300])
async def test_a_selective_filter_still_fills_the_answer(client: Client, share: int) -> None:
    """The filter is applied before the nearest are selected, not afterwards."""
    texts = [f"Item {number} of a long list of very similar items." for number in range(600)]
    for start in range(0, 600, 200):
        await client.upsert(
            *(
                pb.Document(id=f"{n}", text=texts[n], metadata={"of": "few"} if n >= 600 - share else {})
                for n in range(start, start + 200)
            )
        )
    answer = await client.search("item 3 of the list", filter={"of": "few"}, top_k=100)
    assert len(answer.passages) == min(share, 100)
    assert all(passage.metadata["of"] == "few" for passage in answer.passages)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("", "is empty"),
        ("and { }", "no parts"),
        ("not { }", "is empty"),
        ('eq { value: "drink" }', "empty key"),
        ('in { key: "kind" }', "0 values"),
        ('number_range { key: "price" }', "no bound"),
        ('number_range { key: "price" gte: nan }', "NaN"),
        ('number_range { key: "price" gt: 1 lt: nan }', "NaN"),
        ("not { " * 9 + 'exists: "kind"' + " }" * 9, "deep"),
        ("not { " * 98 + 'exists: "kind"' + " }" * 98, "deep"),
        ("or { " + 'parts { exists: "kind" } ' * 65 + "}", "65 conditions"),
    ],
)
async def test_an_invalid_filter_is_refused(client: Client, refusal: Refusal, where: str, reason: str) -> None:
    request = Parse(f"where {{ {where} }}", pb.SearchRequest(collection="notes", query="anything"))
    error = await refusal(client.stub.Search(request))
    assert (error.grpc_status, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_filter")
    assert reason in error.message


async def test_a_filter_too_deep_to_be_parsed_is_refused(client: Client, refusal: Refusal) -> None:
    """Protobuf parses at most 100 nested messages; the client builds the bytes itself."""
    encoded = pb.Filter(exists="kind").SerializeToString()
    for _ in range(500):
        encoded = b"\x42" + varint(len(encoded)) + encoded  # field 8, `not`
    where = b"\xc2\x02" + varint(len(encoded)) + encoded  # field 40
    search: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(
        "/pointsman.v1.Retriever/Search", request_serializer=bytes
    )
    error = await refusal(search(pb.SearchRequest(collection="notes", query="tea").SerializeToString() + where))
    assert error.grpc_status is grpc.StatusCode.INVALID_ARGUMENT


def varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])
