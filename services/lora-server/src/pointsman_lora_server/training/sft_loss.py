"""The loss of supervised fine-tuning: the mean cross-entropy of the answers' tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pointsman_lora_server.training.batches import batch_by_length
from pointsman_lora_server.training.encoding import Example
from pointsman_lora_server.training.learner import Learner

TOKENS_PER_SLICE = 128
"""Number of tokens whose logits are computed at once. This limits the memory for logits (128 x vocabulary in fp32),
which malloc does not return to the kernel."""


@dataclass(frozen=True, slots=True)
class SftObjective:
    learner: Learner
    heldout: Sequence[Example]
    tokens_per_step: int

    def backward(self, batch: Sequence[Example]) -> float:
        """Adds the gradients of the batch's loss to the `.grad` of the adapter's parameters; returns the loss, a mean
        over all tokens of the answers.

        The output layer is computed for slices of `TOKENS_PER_SLICE` tokens, forward and backward; the gradients of all
        slices then go back through the rest of the model once. So the logits of a whole batch (100 MB for 500 tokens)
        are never in memory together.
        """
        with self.learner.autocast():
            hidden, targets = _learnt_states(self.learner, batch)
            detached = hidden.detach().requires_grad_()
            total = 0.0
            slices = zip(detached.split(TOKENS_PER_SLICE), targets.split(TOKENS_PER_SLICE), strict=True)
            for states, target_ids in slices:
                loss = _summed_loss(self.learner, states, target_ids) / len(targets)
                loss.backward()
                total += loss.item()
        hidden.backward(detached.grad)
        return total

    def measure(self) -> dict[str, float]:
        return {"loss": mean_loss(self.learner, self.heldout, self.tokens_per_step)} if self.heldout else {}


def mean_loss(learner: Learner, examples: Sequence[Example], tokens_per_step: int) -> float:
    """Returns the mean cross-entropy over all tokens of the examples' answers; there must be at least one example.

    The loss is computed in batches of up to `tokens_per_step` tokens.
    """
    total = 0.0
    with torch.no_grad(), learner.autocast():
        for batch in batch_by_length(examples, tokens_per_step):
            hidden, targets = _learnt_states(learner, batch)
            for states, target_ids in zip(hidden.split(TOKENS_PER_SLICE), targets.split(TOKENS_PER_SLICE), strict=True):
                total += float(_summed_loss(learner, states, target_ids))
    return total / sum(example.answer_length for example in examples)


def _learnt_states(learner: Learner, batch: Sequence[Example]) -> tuple[Any, Any]:
    """Returns the hidden states that predict the tokens of the answers, shape [learnt, hidden], and the ids of these
    tokens, shape [learnt].

    So the caller computes the output layer, a fifth of a small model's work, for the answers' tokens only. Rows are
    padded on the right, which causal attention does not read, so no mask is needed.
    """
    longest = max(example.length for example in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    learnt = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : example.length] = torch.tensor(example.ids)
        learnt[row, example.prompt_length : example.length] = True
    ids, learnt = ids.to(learner.device), learnt.to(learner.device)
    hidden = learner.hidden_states(ids)
    return hidden[:, :-1][learnt[:, 1:]], ids[learnt]


def _summed_loss(learner: Learner, hidden: Any, targets: Any) -> Any:
    return torch.nn.functional.cross_entropy(learner.logits(hidden), targets, reduction="sum")
