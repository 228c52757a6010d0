"""The numbers of tokens of an answer by kind, as an engine reports them or as they are estimated."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from pointsman_gateway.domain.value import value

PROMPT_KINDS = ("cache_write_1h", "cache_write", "prompt_audio", "prompt_image")
"""Special kinds of tokens that are included in the number of prompt tokens. No token is of two kinds."""
COMPLETION_KINDS = ("completion_audio", "completion_image", "reasoning")
"""Special kinds of tokens that are included in the number of completion tokens."""
TOKEN_KINDS = PROMPT_KINDS + COMPLETION_KINDS
STANDARD_TIERS = frozenset({"default", "on_demand", "standard", "standard_only"})
"""The names that providers have for their standard service tier, which needs no prices of its own."""
ANY_TIER = "auto"
"""The value of a request's `service_tier` that leaves the choice of the tier to the provider."""


@dataclass(frozen=True, slots=True)
class EngineSeconds:
    """The times in seconds that an engine reports for one answer; None for a time that it does not report."""

    queue: float | None = None
    """Seconds from the arrival at the engine until the engine begins to work on the request."""
    inference: float | None = None
    """Seconds from the end of `queue` to the last token."""


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """What an answer's price depends on besides its prompt and completion tokens: mainly tokens that have a special
    price.

    Examples are tokens of audio, of images and of reasoning. A field's name is also the name of its price and of its
    cost component.
    """

    cache_write: int = 0
    """Tokens written to a prompt cache for the provider's usual time, which is 5 minutes at Anthropic."""
    cache_write_1h: int = 0
    """Tokens written to a prompt cache for an hour."""
    prompt_audio: int = 0
    prompt_image: int = 0
    reasoning: int = 0
    completion_audio: int = 0
    completion_image: int = 0
    service_tier: str = ""
    """The provider's tier that answered, such as "flex"; empty for the standard one."""
    is_estimate: bool = False
    """Whether the token counts are not final, because the answer was cut off before the engine had counted all its
    tokens.
    """
    tool_requests: int = 0
    """Requests to tools that the provider ran and bills apart from tokens, such as its web search."""

    def __add__(self, other: "TokenDetails") -> "TokenDetails":
        tiers = {self.service_tier, other.service_tier} - {""}
        return TokenDetails(
            **{kind: getattr(self, kind) + getattr(other, kind) for kind in TOKEN_KINDS},
            service_tier="+".join(sorted(tiers)),
            is_estimate=self.is_estimate or other.is_estimate,
            tool_requests=self.tool_requests + other.tool_requests,
        )

    def within(self, prompt: int, completion: int) -> "TokenDetails":
        """Returns the details with the special kinds of tokens cut, so that their sum fits into the answer's token
        counts.

        The kinds of `PROMPT_KINDS` together get at most `prompt` tokens, those of `COMPLETION_KINDS` at most
        `completion`; the last kinds of each list are cut first.
        """
        kept: dict[str, int] = {}
        for kinds, left in ((PROMPT_KINDS, prompt), (COMPLETION_KINDS, completion)):
            for kind in kinds:
                kept[kind] = min(getattr(self, kind), left)
                left -= kept[kind]
        return TokenDetails(
            **kept,
            service_tier=self.service_tier,
            is_estimate=self.is_estimate,
            tool_requests=self.tool_requests,
        )

    def as_fields(self) -> Mapping[str, int | str | bool]:
        """Returns the fields by name, for JSON, without those that are 0, empty or False."""
        return {one.name: set_value for one in fields(self) if (set_value := getattr(self, one.name))}


NO_DETAILS = TokenDetails()
ESTIMATED = TokenDetails(is_estimate=True)


@value
class Usage:
    """The numbers of prompt and completion tokens of one answer, or the sums over several answers."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were in the prefix cache of the engine; `prompt_tokens` includes them."""
    seconds: EngineSeconds | None = field(default=None, compare=False)
    """The times that the engine reports for the answer; None if it reports none, or for a sum over several answers."""
    details: TokenDetails | None = None
    """Tokens of special kinds. None if there are none, the service tier is the standard one, and nothing is
    estimated."""

    def __add__(self, other: "Usage") -> "Usage":
        mine, others = self.details, other.details
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            details=mine + others if mine is not None and others is not None else mine or others,
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Returns (prompt tokens, completion tokens, cached tokens); the prompt tokens include the cached ones."""
        return self.prompt_tokens, self.completion_tokens, self.cached_tokens

    @property
    def counts_by_name(self) -> dict[str, int]:
        """Returns the three counts in a dict with the keys "prompt_tokens", "completion_tokens" and "cached_tokens"."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }

    @property
    def details_by_name(self) -> Mapping[str, int | str | bool] | None:
        """Returns the tokens of special kinds, and what else changes the price, by name; None if there are none.

        Fields that are 0, empty or False are left out.
        """
        return None if self.details is None else self.details.as_fields()

    def by_kind(self) -> dict[str, int]:
        """Returns the number of tokens of each kind, as they are priced; each token is counted under one kind only.

        The keys "prompt" (without cached and special tokens), "cached" and "completion" (without special tokens) are
        always there; a special kind, such as "reasoning", is there if it is not 0.
        """
        prompt, completion = self.prompt_tokens - self.cached_tokens, self.completion_tokens
        counts = {"prompt": prompt, "cached": self.cached_tokens, "completion": completion}
        if self.details is not None:
            for including, kinds in (("prompt", PROMPT_KINDS), ("completion", COMPLETION_KINDS)):
                for kind in kinds:
                    if tokens := getattr(self.details, kind):
                        counts[kind] = tokens
                        counts[including] -= tokens
        return counts

    def capped(self, prompt: int, completion: int) -> "Usage":
        """Returns the usage cut to at most `prompt` prompt tokens and `completion` completion tokens.

        Cached and special tokens are cut too, if they would be more than the tokens that include them.
        """
        return detailed(
            min(self.prompt_tokens, prompt),
            min(self.completion_tokens, completion),
            self.cached_tokens,
            self.details or NO_DETAILS,
            self.seconds,
        )

    @property
    def is_estimate(self) -> bool:
        return self.details is not None and self.details.is_estimate


def detailed(
    prompt: int, completion: int, cached: int, details: TokenDetails, seconds: EngineSeconds | None = None
) -> Usage:
    """Makes the usage of an answer of which an engine has reported the token counts, which may contradict each other.

    `prompt` and `completion` are kept; `cached` and the special tokens in `details` are cut to at most these counts.
    """
    cached = min(cached, prompt)
    details = details.within(prompt - cached, completion)
    return Usage(prompt, completion, cached, seconds, None if details == NO_DETAILS else details)
