"""Splits a stream of server-sent events into lines, in linear time however small its pieces are."""

MAX_LINE_BYTES = 4 * 1024 * 1024


def split_lines(rest: bytearray, piece: bytes) -> list[bytes]:
    """Splits the next piece of a stream into lines: returns the lines that are complete now, without line feeds.

    `rest` holds the unfinished line of earlier pieces, and afterwards the new unfinished line. To take linear time,
    only the new piece is searched, and `rest` is copied once, when its line ends.
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
