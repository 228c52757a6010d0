"""The simulation of sessions of one application: hashing by conversation spreads the load over the engines, and keeps
prefix caches useful."""

from benchmarks.session_affinity import POLICIES, PrefixCache, simulate


def test_hashing_the_conversation_and_keeping_its_spill_target_is_better_in_every_respect() -> None:
    by_system_prompt, by_conversation, kept = simulate(4, 200).values()
    assert by_conversation.cached_share > by_system_prompt.cached_share + 0.1
    assert by_conversation.largest_share < by_system_prompt.largest_share
    assert by_conversation.mean_peak < by_system_prompt.mean_peak
    assert kept.cached_share > by_conversation.cached_share
    assert kept.moved_share < by_conversation.moved_share < by_system_prompt.moved_share
    assert kept.first_token_p95 < by_conversation.first_token_p95 < by_system_prompt.first_token_p95


def test_with_one_engine_the_key_does_not_matter() -> None:
    outcomes = simulate(1, 20)
    assert list(outcomes) == list(POLICIES)
    assert len(set(outcomes.values())) == 1


def test_a_simulated_cache_drops_the_least_recently_used_blocks() -> None:
    cache = PrefixCache(3)
    first, second = [(0, 0), (0, 1)], [(1, 0), (1, 1)]
    assert (cache.read(first), cache.read(first)) == (0, 2)
    assert cache.read(second) == 0
    assert cache.read(first) == 1
