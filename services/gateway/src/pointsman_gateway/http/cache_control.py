"""What a client wishes of the cache."""

OFF, RENEW, USE = "off", "renew", "use"


def wish_of(cache_control: bytes | None) -> str:
    """From the request's `cache-control` (RFC 9111, 5.2.1), over either door.

    `no-store`: neither look nor keep. `no-cache`, or `max-age=0`: an earlier answer is not wanted, the new one is kept.
    """
    if not cache_control:
        return USE
    directives = {directive.strip() for directive in cache_control.lower().split(b",")}
    if b"no-store" in directives:
        return OFF
    return RENEW if directives & {b"no-cache", b"max-age=0"} else USE
