"""What a gateway asks Redis for of one limit."""

import pytest
from pointsman_gateway.tenancy.leases import LeasedLimit

PLENTY = 1000


def _of_streams() -> LeasedLimit:
    return LeasedLimit("acme:concurrent_streams", "concurrent_streams", PLENTY, "this gateway")


def _exchange(account: LeasedLimit, now: float) -> int:
    """Redis gives what is wished for. What may be taken after that."""
    said = account.ask(0, 0, 1, now)
    _, used, carried, wish, _ = said
    held = used + carried + wish
    account.install([0, 0, held, PLENTY - held, PLENTY - used], said, now, now)
    return account.free


def _in_flight(account: LeasedLimit, streams: int) -> None:
    account.free = account.held - streams


def test_room_is_kept_for_as_many_streams_as_there_were_a_moment_ago() -> None:
    account = _of_streams()
    _in_flight(account, 64)
    assert _exchange(account, 0.0) == 34  # half as many again, and two
    _in_flight(account, 5)  # a batch of answers has just ended: as many new requests follow
    assert _exchange(account, 0.01) >= 64 - 5


@pytest.mark.parametrize(("streams", "seconds"), [(1, 2.0), (64, 8.0)])
def test_room_is_given_back_where_nobody_comes_any_more(streams: int, seconds: float) -> None:
    account = _of_streams()
    _in_flight(account, streams)
    _exchange(account, 0.0)
    _in_flight(account, 0)
    assert account.is_due(seconds)
    assert _exchange(account, seconds) == 0
    assert account.is_quiet


def test_with_who_waits_others_are_let_in_too() -> None:
    account = _of_streams()
    said = account.ask(1, 1, 1, 0.0)
    assert said[3] == PLENTY // 16
    account.install([0, 0, PLENTY // 16, PLENTY - PLENTY // 16, PLENTY], said, 0.0, 0.0)
    account.left = 4  # the others have taken almost all
    assert account.ask(1, 1, 1, 0.1)[3] == (4 + PLENTY // 16) // 2
    assert _exchange(account, 8.0) == 0  # nobody came


def test_little_is_asked_for_where_little_is_left() -> None:
    account = _of_streams()
    account.left = 10
    assert account.ask(1, 1, 1, 0.0)[3] == 5
    assert account.ask(1, 1, 5, 0.0)[3] == 1
