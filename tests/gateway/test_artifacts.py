"""A stored classifier is equal after loading, byte-identical for the same input, and rejected with an error if it is
outdated."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.bootstrap.models import (
    MAX_STORED_CLASSIFIERS,
    EmbeddingModels,
    example_texts,
    fit_settings,
    train_classifier,
)
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.classifier_file import (
    CorruptClassifier,
    FitOrigin,
    StaleClassifier,
    fit_origin,
    load,
    save,
)
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import ClassifierModel, FitSettings
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config

from tests.gateway.doubles.config_folder import IN_NONE, IN_TRIAGE, ConfigFolder

Examples = Mapping[str, Sequence[str]]


class Models:
    def __init__(self, static_model: StaticModel, encoder: MiniLM) -> None:
        self.static_model, self.encoder = static_model, encoder

    def fit(self, examples: Examples, tuning: FitSettings, out_of_scope: Sequence[str] = ()) -> ClassifierModel:
        return fit_classifier(examples, out_of_scope, self.static_model, self.encoder, tuning)

    def origin(self, examples: Examples, tuning: FitSettings, out_of_scope: Sequence[str] = ()) -> FitOrigin:
        return fit_origin(examples, out_of_scope, self.static_model, self.encoder, tuning)

    def classifier(self, fitted: ClassifierModel) -> CascadeClassifier:
        return CascadeClassifier(fitted, self.static_model, self.encoder)


@pytest.fixture(scope="module")
def models(static_model: StaticModel, minilm: MiniLM) -> Models:
    return Models(static_model, minilm)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    rows = ConfigFolder(tmp_path_factory.mktemp("config")).examples
    return {task: [text for text, _ in pairs] for task, pairs in rows.items()}


@pytest.fixture(scope="module")
def origin(models: Models, examples: Examples) -> FitOrigin:
    return models.origin(examples, FitSettings())


@pytest.fixture(scope="module")
def fitted(models: Models, examples: Examples) -> ClassifierModel:
    return models.fit(examples, FitSettings())


@pytest.fixture
def artifact(tmp_path: Path, fitted: ClassifierModel, origin: FitOrigin) -> Path:
    path = tmp_path / "made" / "helpdesk.classifier"
    save(fitted, origin, path)
    return path


@pytest.mark.parametrize("stages", [("static",), ("encoder",), ("static", "encoder")])
def test_a_loaded_classifier_equals_the_saved_one(
    tmp_path: Path, models: Models, examples: Examples, stages: tuple[str, ...]
) -> None:
    tuning, out_of_scope = (
        FitSettings(stages=stages, target_coverages={"chat": 0.8}),
        ["Bake a cake with plums", "2 + 2"],
    )
    written, origin = models.fit(examples, tuning, out_of_scope), models.origin(examples, tuning, out_of_scope)
    save(written, origin, tmp_path / "a")
    read = load(tmp_path / "a", origin)
    assert read.report == written.report
    assert read.threshold == written.threshold
    for task, vectors in written.vectors.items():
        np.testing.assert_array_equal(read.vectors[task], vectors)
    for text in (IN_TRIAGE, IN_NONE, "Do you like music?", ""):
        before, after = models.classifier(written).classify_now(text), models.classifier(read).classify_now(text)
        assert (after.task, after.probabilities, after.in_distribution_score, after.stage) == (
            (before.task, before.probabilities, before.in_distribution_score, before.stage)
        )


def test_the_same_examples_and_settings_give_the_same_bytes(
    artifact: Path, models: Models, examples: Examples, origin: FitOrigin
) -> None:
    again = artifact.with_name("again")
    reordered = dict(reversed(list(examples.items())))
    save(models.fit(reordered, FitSettings()), models.origin(reordered, FitSettings()), again)
    assert again.read_bytes() == artifact.read_bytes()
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["again", artifact.name]


def test_another_seed_gives_another_classifier(models: Models, examples: Examples, fitted: ClassifierModel) -> None:
    assert models.fit(examples, FitSettings(seed=8)).thresholds.tolist() != fitted.thresholds.tolist()


def test_the_file_contains_no_pickle(artifact: Path) -> None:
    with zipfile.ZipFile(artifact) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert name == "manifest.json" or (content.startswith(b"\x93NUMPY") and b"'|O'" not in content[:128])


CHANGES: dict[str, Callable[[Examples], tuple[Examples, Sequence[str], FitSettings]]] = {
    "examples": lambda e: ({**e, "chat": [*e["chat"], "Good evening"]}, (), FitSettings()),
    "examples:moved": lambda e: (
        {**e, "chat": e["chat"][1:], "policy": [*e["policy"], e["chat"][0]]},
        (),
        FitSettings(),
    ),
    "examples:negative": lambda e: (e, ["Bake a cake"], FitSettings()),
    "tuning": lambda e: (e, (), FitSettings(target_coverage=0.9)),
    "tuning:task": lambda e: (e, (), FitSettings(target_coverages={"chat": 0.9})),
    "tuning:stages": lambda e: (e, (), FitSettings(stages=("encoder",))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_classifier_trained_on_other_data_is_rejected_naming_the_difference(
    artifact: Path, models: Models, examples: Examples, origin: FitOrigin, change: str
) -> None:
    changed, out_of_scope, tuning = CHANGES[change](examples)
    wanted = models.origin(changed, tuning, out_of_scope)
    part = change.split(":")[0]
    with pytest.raises(StaleClassifier) as caught:
        load(artifact, wanted)
    difference = f"({part}: has {getattr(origin, part)}, wanted {getattr(wanted, part)})"
    assert difference in caught.value.message
    assert "pointsman classifier fit" in caught.value.message
    assert caught.value.code == "stale_classifier"


@pytest.mark.parametrize("part", ["static_model", "encoder", "numpy", "scipy", "format"])
def test_other_models_or_libraries_make_it_outdated(artifact: Path, origin: FitOrigin, part: str) -> None:
    other: dict[str, Any] = {part: "other"}
    with pytest.raises(StaleClassifier, match=f"{part}: has .*, wanted other"):
        load(artifact, dataclasses.replace(origin, **other))


def test_a_missing_file_is_reported(tmp_path: Path, origin: FitOrigin) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none", origin)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "text": lambda whole: b"not an archive at all",
    "a bit turned": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_rejected_with_the_command_that_recreates_it(
    artifact: Path, origin: FitOrigin, damage: str
) -> None:
    artifact.write_bytes(DAMAGE[damage](artifact.read_bytes()))
    with pytest.raises(CorruptClassifier, match=r"is damaged: .*pointsman classifier fit") as caught:
        load(artifact, origin)
    assert str(artifact) in caught.value.message
    assert caught.value.code == "corrupt_classifier"


def test_a_file_with_mixed_parts_is_rejected(artifact: Path, origin: FitOrigin) -> None:
    with zipfile.ZipFile(artifact) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(content["manifest.json"])
    manifest["fitted"]["tasks"].reverse()
    content["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(artifact, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(CorruptClassifier, match="its content is not what its manifest describes"):
        load(artifact, origin)


def test_a_fit_in_a_process_of_its_own_gives_the_same_classifier(
    config_folder: ConfigFolder, models: Models, model_folder: Path, examples: Examples
) -> None:
    config = load_config(config_folder.write())
    trained = train_classifier(config, EmbeddingModels.load(model_folder)).classifier
    assert trained
    here = models.classifier(models.fit(example_texts(config), fit_settings(config), config.out_of_scope))
    for text in (IN_TRIAGE, IN_NONE, "Do you like music?"):
        assert trained.classify_now(text).probabilities == here.classify_now(text).probabilities


def test_the_gateway_loads_no_scipy() -> None:
    """scipy would take 27 MB, and only fitting needs it."""
    program = "import sys, pointsman_gateway.bootstrap.models; print([name for name in sys.modules if name == 'scipy'])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_the_reason_why_a_fit_failed_is_reported(config_folder: ConfigFolder, model_folder: Path) -> None:
    config = load_config(config_folder.write())
    models = EmbeddingModels.load(model_folder)
    one_task = dataclasses.replace(config, examples={"chat": config.examples["chat"]})
    with pytest.raises(ConfigError, match="needs two tasks or more"):
        train_classifier(one_task, models)
    with pytest.raises(ConfigError, match=r"^no embedding model in .*no-models: .* make it with"):
        train_classifier(config, dataclasses.replace(models, folder=Path("no-models")))


def test_a_fit_that_breaks_off_is_reported_with_its_status_and_its_last_line(
    config_folder: ConfigFolder, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threadpoolctl.py").write_text('raise OSError("libgomp.so.1 is missing")')
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(":")]))
    config = load_config(config_folder.write())
    with pytest.raises(ConfigError, match=r"ended with status 1: OSError: libgomp\.so\.1 is missing$"):
        train_classifier(config, EmbeddingModels.load(model_folder))


def test_a_stored_fit_is_used_until_the_examples_change(
    config_folder: ConfigFolder, model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, models, store = load_config(config_folder.write()), EmbeddingModels.load(model_folder), tmp_path / "store"
    train_classifier(config, models, store)

    def stored() -> list[Path]:
        return [file for file in store.iterdir() if file.suffix != ".lock"]

    (file,) = stored()
    written = file.stat().st_mtime_ns
    train_classifier(config, models, store)
    assert file.stat().st_mtime_ns == written

    file.write_bytes(b"cut off")
    again = train_classifier(config, models, store).classifier
    assert again
    assert again.classify_now(IN_TRIAGE).task == "triage"
    assert "is damaged" in caplog.text
    assert file.stat().st_size > len(b"cut off")

    others = [store / f"{number}.classifier" for number in range(MAX_STORED_CLASSIFIERS)]
    for other in others:
        other.touch()
    os.utime(file, ns=(0, 0))
    train_classifier(config, models, store)  # which uses the oldest, and so keeps it
    train_classifier(dataclasses.replace(config, out_of_scope=("Bake a cake with plums",)), models, store)
    assert len(set(stored()) - {file, *others}) == 1
    assert file in stored()
    assert len(stored()) == MAX_STORED_CLASSIFIERS
