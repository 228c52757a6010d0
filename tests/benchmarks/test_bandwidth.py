"""The bytes on the wire: what the benchmark counts grows with the answer where it is streamed."""

from pointsman_embedding.prepare import prepare

from benchmarks.bandwidth import MODELS, PROMPT, measure


async def test_each_token_costs_an_event_from_the_engine_and_to_a_client_that_streams() -> None:
    prepare(MODELS)
    few, many = [await measure(tokens, requests=2) for tokens in (10, 60)]
    token = {
        (kind, wire): (size - few[kind][wire]) / 50 for kind, wires in many.items() for wire, size in wires.items()
    }
    for kind in ("whole", "streamed"):
        assert 200 < token[kind, "engine to gateway"] < 250
        assert token[kind, "client to gateway"] == 0
        assert many[kind]["client to gateway"] > len(PROMPT)
    assert 200 < token["streamed", "gateway to client"] < 250
    assert 4 < token["whole", "gateway to client"] < 7
