"""A certificate has digests of an adapter's files, by which a change of the weights is noticed without an engine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pointsman_cli.certificate.adapter_files import AdapterFiles, parse_folders, read_adapters
from pointsman_cli.certificate.catalog_checks import catalog_checks
from pointsman_cli.certificate.checks import Outcome
from pointsman_cli.certificate.statement import Statement
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.catalog import Catalog

from tests.cli.certificate.reports import adapter_of, catalog_of, path_of, report_of, statement_of

STATEMENT = statement_of(report_of(path_of("few_shot", [1.0, 0.0] * 20, 5.0), adapter_of("adapter", [1.0] * 40, 2.0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter's folder."""
    folder = tmp_path / "triage"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    record = {"name": "triage", "seconds": 9, "data": {"sha256": "ab"}, "recipe": {"seed": 7}}
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def test_the_files_beside_a_training_record_are_certified(folder: Path) -> None:
    (found,) = read_adapters([folder / "training.json"], {})
    assert (found.adapter, found.data_sha256, found.seed, found.has_weights) == ("triage", "ab", 7, True)
    (named,) = read_adapters([folder / "training.json"], parse_folders([f"triage={folder}"]))
    assert named == found


def with_adapter(files: AdapterFiles, resolved: bool) -> tuple[Statement, Catalog]:
    """A certified adapter, and the catalog of a configuration whose alias an engine has reported, or none has."""
    statement = replace(STATEMENT, adapters=(files,))
    catalog = catalog_of(statement.report)
    if not resolved:
        paths = dict(catalog.paths)
        paths["adapter"] = replace(paths["adapter"], versions=("triage@prod",))
        catalog = replace(catalog, paths=paths)
    return statement, catalog


def test_without_an_engine_an_adapter_is_compared_by_its_files(folder: Path) -> None:
    (files,) = read_adapters([], parse_folders([f"triage={folder}"]))
    statement, catalog = with_adapter(files, resolved=False)

    def found() -> dict[str, Outcome]:
        return {check.subject: check.outcome for check in catalog_checks(statement, catalog, {"triage": folder})}

    assert (found()["adapter of adapter"], found()["files of triage"]) == (Outcome.OK, Outcome.OK)
    (folder / "training.json").write_text("{}")
    assert found()["files of triage"] is Outcome.WEAKENED
    (folder / "adapter_model.safetensors").write_bytes(b"other weights")
    assert found()["files of triage"] is Outcome.INVALID


def test_without_an_engine_and_files_nothing_is_known_of_an_adapter(folder: Path) -> None:
    (files,) = read_adapters([], parse_folders([f"triage={folder}"]))
    statement, catalog = with_adapter(files, resolved=False)
    found = {check.subject: check.outcome for check in catalog_checks(statement, catalog, {})}
    assert found["adapter of adapter"] is Outcome.WEAKENED
    uncertified = replace(statement, adapters=())
    found = {check.subject: check.outcome for check in catalog_checks(uncertified, catalog, {"triage": folder})}
    assert (found["adapter of adapter"], found["files of triage"]) == (Outcome.WEAKENED, Outcome.WEAKENED)


@pytest.mark.parametrize(
    ("text", "says"),
    [("triage", "it must be NAME=FOLDER, such as"), ("triage=nowhere", "the folder has no adapter_config.json")],
)
def test_a_folder_without_an_adapter_is_rejected(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_folders([text])
