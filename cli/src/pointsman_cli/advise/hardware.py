"""`pointsman advise --against MODEL`: what tokens cost on own hardware, compared with a provider's list price."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pointsman_servicekit.prices import PricedModel

from pointsman_cli.errors import CommandError
from pointsman_cli.top.metrics import Scrape

MILLION = 1e6
TOKEN_TYPES = ("prompt", "cached", "completion")


@dataclass(frozen=True, slots=True)
class HardwareCost:
    """A gateway's engines with an hourly price, since its start, and a provider's price for the same tokens."""

    against: str
    engines: tuple[str, ...]
    tokens: Mapping[str, float]
    """By type: "prompt", "cached", "completion"."""
    utilisation: float
    """The share of the price that answers have used; the rest was idle."""
    own_usd_per_million: float
    """At this utilisation."""
    own_usd_per_million_at_full_use: float
    """If no time were idle, with as many answers at once as now."""
    list_usd_per_million: float
    """The provider's price for these tokens, by type."""
    break_even_utilisation: float
    """From which the own hardware is cheaper; above 1 it never is."""


def hardware_cost(scrape: Scrape, against: str, price: PricedModel) -> HardwareCost:
    """Raises CommandError if no engine has an hourly price, or none has answered yet."""
    dollars = scrape.samples.get("pointsman_engine_cost_usd_total", {})
    shares = [(dict(labels)["engine"], dict(labels)["path"], usd) for labels, usd in dollars.items() if usd > 0]
    total = sum(usd for _, _, usd in shares)
    if not total:
        raise CommandError("no engine of this gateway has a price per hour; write usd_per_hour in models.yaml")
    busy = sum(usd for _, path, usd in shares if path != "idle")
    paths = {path for _, path, _ in shares}
    tokens = dict.fromkeys(TOKEN_TYPES, 0.0)
    for labels, number in scrape.samples.get("pointsman_tokens_total", {}).items():
        kind = dict(labels)["type"]
        if kind in tokens and dict(labels)["path"] in paths:
            tokens[kind] += number
    millions = sum(tokens.values()) / MILLION
    if not millions or not busy:
        raise CommandError("the engines with a price per hour have answered nothing yet")
    listed = sum(getattr(price, kind) * number for kind, number in tokens.items()) / MILLION
    if not listed:
        raise CommandError(f"'{against}' costs nothing by the price list: there is nothing to compare with")
    utilisation = busy / total
    return HardwareCost(
        against=against,
        engines=tuple(sorted({engine for engine, _, _ in shares})),
        tokens=tokens,
        utilisation=utilisation,
        own_usd_per_million=total / millions,
        own_usd_per_million_at_full_use=busy / millions,
        list_usd_per_million=listed / millions,
        break_even_utilisation=utilisation * total / listed,
    )


def hardware_lines(cost: HardwareCost, as_of: str) -> Iterator[str]:
    counts = ", ".join(f"{number:,.0f} {kind}" for kind, number in cost.tokens.items())
    yield f"engines {', '.join(cost.engines)} since the gateway's start: {counts} tokens"
    yield f"own hardware: ${cost.own_usd_per_million:,.4f} per million tokens at {cost.utilisation:.1%} utilisation"
    yield f"              ${cost.own_usd_per_million_at_full_use:,.4f} if it were never idle"
    yield f"{cost.against}: ${cost.list_usd_per_million:,.4f} per million of the same tokens (list price of {as_of})"
    if cost.break_even_utilisation > 1:
        yield "break-even: never at this rate of tokens; more answers at once make each cheaper"
    else:
        yield f"break-even: from {cost.break_even_utilisation:.1%} utilisation on your hardware is cheaper"
