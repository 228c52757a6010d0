"""Doubles of the classes in which vLLM's API server keeps the names of its models, as far as the guard uses them."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class LoraRequest:
    """In place of vLLM's LoRARequest."""

    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Counter:
    """In place of vLLM's AtomicCounter."""

    count: int = 0

    def inc(self, by: int) -> int:
        self.count += by
        return self.count


@dataclass
class Models:
    """In place of vLLM's OpenAIServingModels, with one base model."""

    base: str
    lora_requests: dict[str, LoraRequest] = field(default_factory=dict)
    lora_resolvers: list[Any] = field(default_factory=lambda: ["a resolver"])
    lora_id_counter: Counter = field(default_factory=Counter)

    def is_base_model(self, name: str) -> bool:
        return name == self.base

    async def show_available_models(self) -> Any:
        cards = [SimpleNamespace(id=self.base, root="/models/tiny", parent=None)]
        loaded = self.lora_requests.items()
        cards += [SimpleNamespace(id=name, root=one.lora_path, parent=self.base) for name, one in loaded]
        return SimpleNamespace(data=cards)
