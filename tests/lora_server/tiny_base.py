"""Makes a tiny base model in seconds. Run by the engine's Python with a folder and the name of an architecture."""

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<eos>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LEARNS = {"initializer_range": 0.2}
"""A base model with the usual value, 0.02, could not be trained: its random output layer, which no adapter changes,
keeps the loss above 4.3 nats a token."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    # Biases in the attention, an output layer of its own.
    "qwen2": {**LEARNS, "num_key_value_heads": 2, "tie_word_embeddings": False},
    # Logits with a cap of 30, sliding windows, and an end of turn that is not the tokenizer's end of sequence.
    "gemma2": {**LEARNS, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 32},
    # One layer for query, key and value, and one for gate and up.
    "phi3": {**LEARNS, "num_key_value_heads": 2, "tie_word_embeddings": False, "sliding_window": None},
    # Scaled logits.
    "granite": {**LEARNS, "num_key_value_heads": 2, "logits_scaling": 0.8, "tie_word_embeddings": True},
    # The names of its layers have nothing in common with those of the others.
    "gpt_neox": {**LEARNS, "tie_word_embeddings": False},
}
OTHER_END = ("gemma2", "phi3")
"""Architectures that end a turn with another token than the tokenizer's end of sequence."""


def main(folder: Path, architecture: str = "llama") -> None:
    """Writes a base model with one token per byte, so that any text can be tokenized."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    end = "<eos>" if architecture in OTHER_END else "<|im_end|>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token=end, chat_template=TEMPLATE
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = CONFIG_MAPPING[architecture](
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=vocabulary[end],
        **ARCHITECTURES[architecture],
    )
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
