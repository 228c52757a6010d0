"""Counters of tokens by OpenTelemetry's semantic conventions for generative AI v0.1.0.

They are `gen_ai.client.inference.usage.*` in docs/gen-ai/client-inference.md of
github.com/open-telemetry/semantic-conventions-genai. Input tokens include those read from and written to a cache,
which are counted separately, too; output tokens include those of reasoning. Each counter is divided by the tokens'
modality (audio or image) as far as the engine reports it.
"""

from collections.abc import Iterator, Sequence

from pointsman_gateway.domain import TokenDetails, Usage
from pointsman_gateway.fast_metrics import Count, Family, Labels, counter

PREFIX = "gen_ai_client_inference_usage_"
MODALITY = "gen_ai_token_modality"
UNKNOWN, AUDIO, IMAGE = "unknown", "audio", "image"
"""Values of the label `MODALITY`. There is no value for text: engines do not report text tokens separately, so all
tokens that are not reported as audio or image count as "unknown"."""


class TokenCounters:
    """The counters of input, output, cache-read, cache-write and reasoning tokens of all models."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Takes the names of the counters' labels, without `MODALITY`, which is added."""
        names = [*labels, MODALITY]
        self.input = counter(f"{PREFIX}input_tokens", "Tokens of prompts, cached ones included.", names)
        self.output = counter(f"{PREFIX}output_tokens", "Tokens of answers, reasoning included.", names)
        self.cache_read = counter(f"{PREFIX}cache_read_input_tokens", "Tokens read from a prompt cache.", names)
        self.cache_write = counter(f"{PREFIX}cache_write_input_tokens", "Tokens written to a prompt cache.", names)
        self.reasoning = counter(f"{PREFIX}reasoning_output_tokens", "Tokens of reasoning.", names)

    @property
    def families(self) -> Sequence[Family[Count]]:
        return (self.input, self.output, self.cache_read, self.cache_write, self.reasoning)

    def of(self, labels: Labels) -> "ModelUsage":
        return ModelUsage(self, labels)


class ModelUsage:
    """The token counters of one model. Input, output and cache-read tokens are counted from the start, with unknown
    modality; counters of audio, image, cache-write and reasoning tokens are created when the first such token is
    reported.
    """

    __slots__ = ("_counters", "_labels", "cache_read", "input", "output")

    def __init__(self, counters: TokenCounters, labels: Labels) -> None:
        self._counters = counters
        self._labels = labels
        self.input = counters.input.series(*labels, UNKNOWN)
        self.output = counters.output.series(*labels, UNKNOWN)
        self.cache_read = counters.cache_read.series(*labels, UNKNOWN)

    def columns(self) -> Iterator[tuple[str, Count]]:
        """Yields pairs of a receipt's column ("prompt_tokens", "completion_tokens", "cached_tokens") and the counter
        to which its number is added.
        """
        yield "prompt_tokens", self.input
        yield "completion_tokens", self.output
        yield "cached_tokens", self.cache_read

    def add(self, usage: Usage) -> None:
        self.input.value += usage.prompt_tokens
        self.output.value += usage.completion_tokens
        self.cache_read.value += usage.cached_tokens
        if usage.details is not None:
            self.add_details(usage.details)

    def add_details(self, details: TokenDetails) -> None:
        """Adds the audio, image, cache-write and reasoning tokens of a request to the counters.

        Call it after all tokens were added with an unknown modality, by `add` or through `columns`: audio and image
        tokens are subtracted there, so that no token counts twice.
        """
        counters = self._counters
        for whole, family, by_modality in (
            (self.input, counters.input, ((AUDIO, details.prompt_audio), (IMAGE, details.prompt_image))),
            (self.output, counters.output, ((AUDIO, details.completion_audio), (IMAGE, details.completion_image))),
        ):
            for modality, tokens in by_modality:
                if tokens:
                    whole.value -= tokens
                    family.series(*self._labels, modality).value += tokens
        written = details.cache_write + details.cache_write_1h
        for family, tokens in ((counters.cache_write, written), (counters.reasoning, details.reasoning)):
            if tokens:
                family.series(*self._labels, UNKNOWN).value += tokens
