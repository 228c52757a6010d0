"""Splits a stream of server-sent events into lines, in linear time however small its pieces are."""

MAX_LINE_BYTES = 4 * 1024 * 1024


def split_lines(rest: bytearray, piece: bytes) -> list[bytes]:
    """Returns the lines that end in `piece`, without their line feeds.

    `rest` is the unfinished line of the earlier pieces; the function replaces its content by the new unfinished line.
    Only the new piece is searched, and `rest` is copied once, when its line ends.
    """
    if not rest:
        *lines, unfinished = piece.split(b"\n")
    else:
        first, end, following = piece.partition(b"\n")
        rest += first
        if not end:
            return []
        line = bytes(rest)
        rest.clear()
        *lines, unfinished = following.split(b"\n")
        lines.insert(0, line)
    rest += unfinished
    return lines
