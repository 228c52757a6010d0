"""The training program's command line."""

from pathlib import Path

import pytest
from pointsman_lora_server.training.adapter_folder import with_parent_recipe
from pointsman_lora_server.training.exits import TrainingError
from pointsman_lora_server.training.options import TrainingOptions, parse

LEAST = ("--base-model", "base", "--data", "rows.jsonl", "--out", "out")


def parsed(*options: str) -> TrainingOptions:
    return parse([*LEAST, *options])


def test_each_method_has_its_own_default_learning_rate() -> None:
    rates = {method: parsed("--method", method).recipe.learning_rate for method in ("lora", "rslora", "dpo")}
    assert rates == {"lora": 2e-3, "rslora": 1e-3, "dpo": 2e-4}
    assert parsed("--method", "dpo", "--learning-rate", "1e-5").recipe.learning_rate == 1e-5


@pytest.mark.parametrize(
    "options",
    [
        ("--resume",),
        ("--method", "qlora", "--merged-out", "merged"),
        ("--method", "ia3"),
        ("--evaluate-only", "--method", "dpo"),
        ("--eval-data", "h.jsonl", "--heldout-share", "0.1"),
        ("--learning-rate", "nan"),
    ],
)
def test_conflicting_options_are_rejected_with_the_usage(options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*options)
    assert ended.value.code == 2


def test_the_help_shows_the_defaults_of_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "19 is the lowest priority (default: 0)" in shown
    assert "of one row; longer rows are left out (default: 2048)" in shown
    assert "(default: None)" not in shown
    assert "(default: False)" not in shown


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    folder = tmp_path / "parent"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "base", "r": 8, "lora_alpha": 32, "use_dora": false}'
    )
    return folder


def test_rank_and_alpha_are_those_of_the_parent(parent: Path) -> None:
    recipe = with_parent_recipe(parsed("--init-from", str(parent), "--rank", "4")).recipe
    assert (recipe.rank, recipe.alpha) == (8, 32)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--base-model-name", "other"), "belongs to the base model 'base', not to 'other'"),
        (("--method", "dora"), "is not a DoRA adapter; --method dora continues from those only"),
        (("--method", "rslora"), "is not an rsLoRA adapter"),
    ],
)
def test_an_unusable_parent_is_rejected(parent: Path, options: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(TrainingError, match=complaint):
        with_parent_recipe(parsed("--init-from", str(parent), *options))


def test_a_folder_without_an_adapter_is_rejected_as_parent(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"adapter_config.json cannot be read"):
        with_parent_recipe(parsed("--init-from", str(tmp_path)))
