"""Formats prices and shares for the texts that explain a policy's choice."""

ANSWERS_PER_PRICE = 1000
"""Number of answers for which explanations state a price, because the price of one answer is hard to read."""


def quoted(usd: float) -> str:
    """Returns a text such as "$1.2000 per 1,000": the price of 1,000 answers, from the dollars of one answer."""
    return f"${usd * ANSWERS_PER_PRICE:.4f} per 1,000"


def percent(share: float) -> str:
    return f"{share * 100:.4g} %"
