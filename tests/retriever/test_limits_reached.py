"""Values exactly at the limits are accepted."""

from pointsman.v1 import retriever_pb2 as pb

from tests.retriever.client import Client


async def test_the_greatest_allowed_values_are_accepted(client: Client) -> None:
    longest = "é" * 128
    entries = {f"key-{n}": "value" for n in range(16)}
    crowd = [pb.Document(id=f"n{n}", text=f"Note number {n}.") for n in range(999)]
    written = await client.upsert(*crowd, pb.Document(id=longest, text="The last note.", metadata=entries))
    assert written.documents == 1000
    assert await client.found("note", filter=entries) == [longest]
    assert len((await client.search("note", top_k=100)).passages) == 100
