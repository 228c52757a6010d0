"""Shows a row as the model reads it: the template's text with its special tokens, and which part is learnt."""

from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.batches import Example

LEARNT_FROM, LEARNT_TO = "⟦", "⟧"


def rendered(base: BaseFolder, example: Example) -> str:
    """What stands between ⟦ and ⟧ is learnt; all before it is only read."""
    prompt, answer = (
        base.tokenizer.decode(list(ids), skip_special_tokens=False)
        for ids in (example.prompt_ids, example.ids[example.prompt_length :])
    )
    return f"{prompt}{LEARNT_FROM}{answer}{LEARNT_TO}"
