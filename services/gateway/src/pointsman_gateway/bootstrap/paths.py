"""Converts the paths of paths.yaml to the `Path` objects that requests use."""

import hashlib

from pointsman_gateway.config.load import Config
from pointsman_gateway.config.paths_file import PathConfig
from pointsman_gateway.domain import Path, Sampling


def to_sampling(path: PathConfig) -> Sampling:
    return Sampling(
        max_tokens=path.max_tokens,
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
    return Path(
        name,
        path.model,
        path.adapter,
        strategies,
        to_sampling(path),
        collections,
        fingerprint,
        shows_examples=shows_examples,
        tuned_from=config.models.models[path.model].tuned_from,
    )


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
