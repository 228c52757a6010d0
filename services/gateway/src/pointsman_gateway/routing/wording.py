"""Numbers as explanations and summaries show them."""

ANSWERS_PER_PRICE = 1000
"""Prices are quoted for 1,000 answers, which are easier to read than those for one."""


def quoted(usd: float) -> str:
    """Returns the dollars of one answer as a price for 1,000."""
    return f"${usd * ANSWERS_PER_PRICE:.4f} per 1,000"


def percent(share: float) -> str:
    return f"{share * 100:.4g} %"
