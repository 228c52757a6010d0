"""A prompt strategy that tells the model the current date."""

from datetime import UTC, datetime

from pointsman_gateway.extensions import Draft, Strategy, StrategyContext


class Today(Strategy):
    Options = str

    def __init__(self, options: str, context: StrategyContext) -> None:
        self._format = options

    async def apply(self, draft: Draft) -> Draft:
        return draft.with_system(f"Today is {datetime.now(UTC).strftime(self._format)}.")
