"""Dollars as whole numbers, so that sums are exact."""

NANO = 10**9
PICO = 10**12


def nanodollars(usd: float) -> int:
    """Rounded up; for limits. Whole and exact in Redis's scripts up to 9 million dollars."""
    return -(-round(usd * PICO) // 1000)


def picodollars(usd: float) -> int:
    """For usage: a price of a millionth of a dollar for a million tokens is one of these a token."""
    return round(usd * PICO)
