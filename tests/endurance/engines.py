"""The engine of a run: scripted, or vLLM. Answers of an adapter show which version gave them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lora_server.tiny_adapters import good_tensors, write_adapter, write_base

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"
CLAUDE = "claude"
"""The model that the gateway requests from the scripted engine in Anthropic's dialect."""
ADAPTERS = ("triage", "voice")
VERSIONS = 3
"""Number of versions of each adapter."""


@dataclass(frozen=True)
class EngineKind:
    base: Path
    settings: Mapping[str, str]
    """Settings of the lora-server, which starts the engine."""
    folders: Mapping[str, list[Path]]
    """The folders with the versions of each adapter."""
    is_text_of: Callable[[str, str, str], bool]
    """Called with a model or version, a text, and the digest of one of the folders; returns whether the text can be an
    answer of that version (or of the base model)."""
    start_seconds: float
    answer_tokens: int
    is_scripted: bool = False
    """Whether the engine also answers in Anthropic's dialect, and sends malformed answers on request."""


def scripted(folder: Path) -> EngineKind:
    """Returns a scripted engine whose answers begin with the name of the version that gives them."""
    folders = {
        name: [
            write_adapter(
                folder / f"{name}-{seed}", good_tensors(), seed=seed, config={"base_model_name_or_path": MODEL}
            )
            for seed in range(VERSIONS)
        ]
        for name in ADAPTERS
    }

    def is_text_of(model: str, text: str, known: str) -> bool:
        return text.startswith(model[: len(text)])

    settings = {
        "ENGINE_ARGS": "--answer-seconds 0.3",
        "SERVED_MODEL_NAME": MODEL,
        "SMOKE_TEST": "off",
        "HELD": "8",
        "MAX_LORAS": "2",
    }
    return EngineKind(write_base(folder / "base"), settings, folders, is_text_of, 60.0, 16, is_scripted=True)


def real(folder: Path) -> EngineKind:
    """Returns vLLM with adapters that were trained to answer each prompt with a text of their own."""
    from benchmarks.adapters.adapters import trained_adapters  # needs the engine's environment

    trained = trained_adapters()
    names = dict(zip(ADAPTERS, ("red", "green"), strict=True))
    folders = {name: [one.folder for one in trained[source]] for name, source in names.items()}
    texts = {str(one.folder): one.known.text for source in names.values() for one in trained[source]}

    def is_text_of(model: str, text: str, known: str) -> bool:
        return model == MODEL or texts[known].startswith(text.strip().rstrip("\ufffd"))

    settings = {
        "ENGINE_PYTHON": str(ROOT / ".venv-engine" / "bin" / "python"),
        "SERVED_MODEL_NAME": MODEL,
        "SMOKE_TEST": "off",
        "HELD": "8",
        "MAX_LORAS": "2",
    }
    base = ROOT / ".pointsman" / "models" / MODEL
    return EngineKind(base, settings, folders, is_text_of, 420.0, 8)


KINDS: Mapping[str, Callable[[Path], EngineKind]] = {"scripted": scripted, "real": real}
