"""Converts the entries of paths.yaml (a path is a model with its adapter and prompt strategies) to the `Path` objects
that requests use.
"""

import hashlib
from dataclasses import replace

from pointsman_gateway.config.load import Config
from pointsman_gateway.config.paths_file import PathConfig
from pointsman_gateway.domain import Path, Sampling
from pointsman_gateway.domain.path import AnswerLimit, Kind

ANSWER_TOKENS = {Kind.PROMPT: 4096, Kind.TUNED: 4096, Kind.RAG: 1024, Kind.LORA: 1024, Kind.HYBRID: 1024}
"""Maximum number of tokens of an answer, by the kind of the path that answers. It applies if neither the request nor
the path sets `max_tokens`."""
WINDOW_PARTS = 8
"""If neither the request nor the path sets `max_tokens`, an answer has at most 1 / WINDOW_PARTS of the model's context
window, because small models often do not stop."""


def to_sampling(path: PathConfig) -> Sampling:
    return Sampling(
        max_tokens=None if path.max_tokens == "unlimited" else path.max_tokens,
        temperature=path.temperature,
        top_p=path.top_p,
        seed=path.seed,
        stop=path.stop,
        structured_max_tokens=path.structured_max_tokens,
        extra=path.extra_fields,
    )


def to_path(name: str, path: PathConfig, config: Config) -> Path:
    strategies = tuple(s.name for s in path.strategies)
    collections = tuple(name for s in path.strategies for name in s.resources.collections)
    shows_examples = any(s.resources.examples for s in path.strategies)
    fingerprint = _fingerprint(path, config)
    model = config.models.models[path.model]
    made = Path(
        name,
        path.model,
        path.adapter,
        strategies,
        to_sampling(path),
        collections,
        fingerprint,
        shows_examples=shows_examples,
        tuned_from=model.tuned_from,
    )
    if path.max_tokens is not None:
        return made
    return replace(made, answer_limit=default_answer_limit(made.kind, model.context_window))


def default_answer_limit(kind: Kind, context_window: int) -> AnswerLimit:
    """Returns the maximum length of answers for a path of this kind that sets no `max_tokens`.

    `context_window` is the number of tokens that the model's prompt and answer may have together.
    """
    tokens = max(1, min(ANSWER_TOKENS[kind], context_window // WINDOW_PARTS))
    return AnswerLimit(tokens, max_prompt_tokens=context_window - tokens)


def _fingerprint(path: PathConfig, config: Config) -> str:
    """Returns a hash of the path's settings without `cache`, and of its prompts and examples."""
    digest = hashlib.blake2b(path.model_dump_json(exclude={"cache"}).encode(), digest_size=6)
    for strategy in path.strategies:
        resources = strategy.resources
        for prompt in resources.prompts:
            digest.update(config.prompts[prompt].encode())
        for task, _ in resources.examples:
            digest.update(repr(config.examples[task]).encode())
    return digest.hexdigest()
