"""The model of the swap test's doubles: a token is computed from the weights of an adapter, the prompt and the
position, so that wrong weights are seen.
"""

import hashlib
import json
import math
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BASE = "tiny-base"
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
HIDDEN = 8
NAN = "nan"
VOCABULARY = [f" word{number}" for number in range(64)]
MAX_STEP_NATS = 3.0
"""The largest difference of the log-probabilities of two tokens that follow each other in likelihood."""


class Rounding:
    """Changes log-probabilities at random, as other rows of a batch do, and sometimes which of two tokens is first."""

    def __init__(self, nats: float, seed: int) -> None:
        """`nats` is the largest change."""
        self._nats = nats
        self._random = random.Random(seed)

    def change(self, logprobs: Mapping[str, float]) -> dict[str, float]:
        return {text: value + self._random.uniform(-self._nats, self._nats) for text, value in logprobs.items()}


EXACT = Rounding(0.0, 0)


def read_weights(folder: Path, accepts_unfit: bool = False, accepts_nan: bool = False) -> str:
    """Returns a digest of an adapter's weights; `BASE` for accepted ones whose layers the base model lacks; or `NAN`.

    Raises OSError if they cannot be read, and ValueError if they do not fit the base model.
    """
    raw = (folder / "adapter_model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header: Mapping[str, Any] = json.loads(raw[8 : 8 + length])
    digest = hashlib.sha256(raw[8 + length :]).hexdigest()
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        if not any(layer in name for layer in LAYERS):
            if accepts_unfit:
                return BASE
            raise ValueError(f"no layer {name}")
        if HIDDEN not in tensor["shape"] or max(tensor["shape"]) > HIDDEN:
            raise ValueError(f"{name} has the shape {tensor['shape']}")
    if math.isnan(struct.unpack("<f", raw[-4:])[0]):
        if not accepts_nan:
            raise ValueError("NaN")
        return NAN
    return digest


def token(weights: str, prompt: str, position: int, rounding: Rounding = EXACT) -> tuple[str, dict[str, float]]:
    """Returns the greedy token, and the log-probabilities of the likeliest five."""
    digest = hashlib.sha256(f"{weights}|{prompt}|{position}".encode()).digest()
    likeliest = list(dict.fromkeys(VOCABULARY[byte % len(VOCABULARY)] for byte in digest[:16]))[:5]
    logprobs, logprob = {}, -0.3
    for text, byte in zip(likeliest, digest[16:], strict=False):
        logprobs[text] = logprob
        logprob -= 0.05 + MAX_STEP_NATS * byte / 255
    changed = rounding.change(logprobs)
    return max(changed, key=lambda text: changed[text]), changed


def event(body: Any) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def completion_event(weights: str, prompt: str, position: int, rounding: Rounding = EXACT) -> bytes:
    """Returns the event of one token of a streamed completion."""
    text, logprobs = token(weights, prompt, position, rounding)
    shown = {"tokens": [text], "token_logprobs": [logprobs[text]], "top_logprobs": [logprobs]}
    return event({"choices": [{"index": 0, "text": text, "logprobs": shown}]})
