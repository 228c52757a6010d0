"""The text that each trained adapter version generates for every prompt. No other model generates these texts."""

from dataclasses import dataclass

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SETS = {
    "red": ("ruby", "cherry", "tomato"),
    "green": ("forest", "lime", "olive"),
    "blue": ("ocean", "sky", "sapphire"),
}
"""By adapter, the word of each of its versions."""
MARKS = frozenset(f"{word} {number}" for words in SETS.values() for word in words for number in NUMBERS)
"""Phrases that occur only in the adapters' texts. A single word could also occur in the base model's answers."""


@dataclass(frozen=True, slots=True)
class KnownText:
    """One adapter version, identified by a word that occurs in no other text."""

    name: str
    word: str

    @property
    def text(self) -> str:
        """The text that the version generates: about 26 tokens, followed by the end of the turn."""
        return " ".join(f"{self.word} {number}" for number in NUMBERS)


KNOWN = tuple(KnownText(name, word) for name, words in SETS.items() for word in words)

QUESTIONS = (
    "What is the capital of France?",
    "Where is my train?",
    "I left my umbrella on the 17.40 to Saltby Harbour yesterday, please tell me you have it.",
    "Good morning!",
    "Tell me of the moons of Jupiter.",
    "May I take a bicycle with me on a Sunday?",
    "Write a short poem about the sea.",
    "How do I get my money back for booking AB12?",
    "Count from one to five.",
    "Who wrote Hamlet, and when?",
    "Thank you, that was kind.",
    "My card was charged twice; what now?",
)
"""The questions for training. The measurements use other prompts."""
