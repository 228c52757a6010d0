"""Learning answers: the mean cross-entropy of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pointsman_lora_server.training.batches import Example, by_length
from pointsman_lora_server.training.learner import Learner

TOKENS_AT_ONCE = 128  # of logits: 128 x vocabulary in fp32 stays in memory that malloc keeps


@dataclass(frozen=True, slots=True)
class SftObjective:
    learner: Learner
    measured: Sequence[Example]
    tokens_at_once: int

    def backward(self, batch: Sequence[Example]) -> float:
        """Adds the batch's gradients; the loss, a mean over its learnt tokens.

        The output layer goes forward and back in slices, and what they send back goes through the model once: the
        logits of a whole batch (100 MB for 500 tokens) never exist.
        """
        with self.learner.autocast():
            hidden, targets = _states(self.learner, batch)
            reached = hidden.detach().requires_grad_()
            total = 0.0
            for states, wanted in zip(reached.split(TOKENS_AT_ONCE), targets.split(TOKENS_AT_ONCE), strict=True):
                loss = _token_losses(self.learner, states, wanted) / len(targets)
                loss.backward()
                total += loss.item()
        hidden.backward(reached.grad)
        return total

    def measure(self) -> dict[str, float]:
        """The loss on the held-out rows; nothing without them."""
        return {"loss": answer_loss(self.learner, self.measured, self.tokens_at_once)} if self.measured else {}


def answer_loss(learner: Learner, examples: Sequence[Example], tokens_at_once: int) -> float:
    """Mean over all learnt tokens."""
    total = 0.0
    with torch.no_grad(), learner.autocast():
        for batch in by_length(examples, tokens_at_once):
            hidden, targets = _states(learner, batch)
            for states, wanted in zip(hidden.split(TOKENS_AT_ONCE), targets.split(TOKENS_AT_ONCE), strict=True):
                total += float(_token_losses(learner, states, wanted))
    return total / sum(example.learnt for example in examples)


def _states(learner: Learner, batch: Sequence[Example]) -> tuple[Any, Any]:
    """The last hidden state before each learnt token, `[learnt, hidden]`, and those tokens, `[learnt]`.

    The output layer (a fifth of a small model's work) is left to the caller, for the learnt tokens only. Rows are
    padded on the right, where causal attention cannot look, so that no mask is needed.
    """
    longest = max(example.length for example in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    learnt = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : example.length] = torch.tensor(example.ids)
        learnt[row, example.prompt_length : example.length] = True
    ids, learnt = ids.to(learner.device), learnt.to(learner.device)
    hidden = learner.model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, :-1][learnt[:, 1:]], ids[learnt]


def _token_losses(learner: Learner, hidden: Any, targets: Any) -> Any:
    return torch.nn.functional.cross_entropy(learner.logits(hidden), targets, reduction="sum")
