"""The effect of a client's `cache-control` header on the cache."""

import pytest
from pointsman_gateway.codec.headers import cache_mode


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        (None, "use"),
        (b"", "use"),
        (b"max-age=60", "use"),
        (b"no-transform, max-stale", "use"),
        (b"no-cache", "renew"),
        (b"Max-Age=0", "renew"),
        (b"no-store", "off"),
        (b"no-cache,No-Store", "off"),
        (b"x-no-store, no-storey", "use"),
        (b"\xff\xfe", "use"),
    ],
)
def test_the_cache_control_header_is_parsed(header: bytes | None, wish: str) -> None:
    assert cache_mode(header) == wish
