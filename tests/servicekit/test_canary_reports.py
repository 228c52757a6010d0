"""The counts with which gateways report on canaries."""

from pointsman_servicekit.canary_reports import RequestCounts


def test_every_count_is_added() -> None:
    counts = RequestCounts(1, 2, 3, {4: 5, 6: 7}, 8, 9)
    counts.add(RequestCounts(10, 20, 30, {6: 70, 8: 90}, 80, 90))
    assert counts == RequestCounts(11, 22, 33, {4: 5, 6: 77, 8: 90}, 88, 99)
