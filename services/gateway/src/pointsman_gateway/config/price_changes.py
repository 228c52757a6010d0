"""The schema of changes of a model's prices from a given day on, so that a request has the prices of its day."""

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import pairwise

from pydantic import Field

from pointsman_gateway.config.field_types import Dollars, Strict
from pointsman_gateway.config.token_prices import Prices
from pointsman_gateway.domain.usage import ANY_TIER, STANDARD_TIERS


class PriceChange(Strict):
    """New prices of a model from a day on. A price that is unset stays as it was before that day."""

    starting: date = Field(description="YYYY-MM-DD: from 00:00 UTC of this day on, requests have these prices")
    usd_per_million_tokens: Prices
    service_tiers: dict[str, Prices] = Field(
        default_factory=dict, description="of all tiers that have a price; required if the model has any"
    )
    usd_per_image: Dollars | None = None
    usd_per_request: Dollars | None = None
    usd_per_tool_request: Dollars | None = None

    @property
    def replaced(self) -> dict[str, object]:
        """Returns the prices that this change sets: name of the model's field, such as "usd_per_image" -> new value."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"starting"}}


def check_tiers(names: Iterable[str]) -> None:
    """Raises ValueError if a service tier has a name that answers never report, so its prices would be useless."""
    for name in names:
        if name in STANDARD_TIERS:
            raise ValueError(
                f"'{name}' in service_tiers is the standard tier, whose prices are usd_per_million_tokens: remove it"
            )
        if name == ANY_TIER:
            raise ValueError(
                f"'{name}' in service_tiers is no tier that answers: write those that the provider chooses among"
            )


def check_price_changes(changes: Sequence[PriceChange], service_tiers: Sequence[str]) -> None:
    """Raises ValueError if a model's price changes are not in the order of their days, or if one leaves out service
    tiers.

    `service_tiers` are the model's tiers with prices of their own; each change must state prices of tiers if there are
    any.
    """
    for before, after in pairwise(changes):
        if after.starting <= before.starting:
            raise ValueError(
                f"'starting' of price_changes must rise, and {after.starting} follows {before.starting}: sort them, "
                "and keep one for each day"
            )
    tiers = set(service_tiers)
    for change in changes:
        missing = tiers - change.service_tiers.keys()
        if missing:
            raise ValueError(
                f"the price change of {change.starting} has no service tier '{min(missing)}', which has a price until "
                "then: write all tiers"
            )
        tiers |= change.service_tiers.keys()
