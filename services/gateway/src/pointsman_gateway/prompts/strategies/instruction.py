"""The strategies `zero_shot`, `persona` and `chain_of_thought`: a system text from a file."""

from pydantic import Field

from pointsman_gateway.config.strict import Strict
from pointsman_gateway.extensions import Draft, Resources, Strategy, StrategyContext


class InstructionOptions(Strict):
    prompt: str = Field(description="a file in prompts/, for the system message")


class Instruction(Strategy):
    """Adds a text to the system message. The three strategies differ only in what their text says."""

    Options = InstructionOptions

    def __init__(self, options: InstructionOptions, context: StrategyContext) -> None:
        context.templates.try_out(options.prompt, query="?")
        self._templates = context.templates
        self._prompt = options.prompt
        self.constant = context.templates.constant(options.prompt)

    @staticmethod
    def resources(options: InstructionOptions) -> Resources:
        return Resources(prompts=(options.prompt,))

    async def apply(self, draft: Draft) -> Draft:
        return draft.with_system(self._templates.render(self._prompt, query=draft.request.query))
