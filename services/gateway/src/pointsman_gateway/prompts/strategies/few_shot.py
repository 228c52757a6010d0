"""The strategy `few_shot`: examples with their answers."""

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from pointsman_gateway.config.strict import Strict
from pointsman_gateway.extensions import Draft, Resources, Strategy, StrategyContext
from pointsman_gateway.prompts.strategies.instruction import Instruction, InstructionOptions


class FewShotOptions(Strict):
    task: str = Field(description="whose examples are shown; those without an output are not")
    count: int = Field(ge=1, le=32)
    selection: Literal["knn", "fixed"] = Field(
        default="knn", description="knn: the examples nearest to the request; fixed: the first ones of the file"
    )
    prompt: str = ""


class FewShot(Strategy):
    """Shows the first examples of a task, or those nearest to the request, of which the nearest is last."""

    Options = FewShotOptions

    def __init__(self, options: FewShotOptions, context: StrategyContext) -> None:
        examples = context.examples[options.task]
        usable = [i for i, example in enumerate(examples) if example.output is not None]
        self._pairs = [(examples[i].text, examples[i].output or "") for i in usable]
        self._vectors = context.vectors[options.task][usable]
        self._count = options.count
        self._embed = context.embed if options.selection == "knn" else None
        instruction = InstructionOptions(prompt=options.prompt) if options.prompt else None
        self._instruction = Instruction(instruction, context) if instruction else None

    @staticmethod
    def resources(options: FewShotOptions) -> Resources:
        return Resources((options.prompt,) if options.prompt else (), ((options.task, options.count),))

    async def apply(self, draft: Draft) -> Draft:
        if self._instruction:
            draft = await self._instruction.apply(draft)
        if self._embed is None:
            return replace(draft, examples=tuple(self._pairs[: self._count]))
        vector = draft.vector if draft.vector is not None else await self._embed.embed(draft.request.query)
        order = np.argsort(-(self._vectors @ vector), kind="stable")[: self._count]
        return replace(draft, vector=vector, examples=tuple(self._pairs[i] for i in reversed(order)))
