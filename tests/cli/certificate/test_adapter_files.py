"""A certificate has digests of an adapter's files, by which a change of the weights is noticed without an engine."""

from dataclasses import replace
from pathlib import Path

import pytest
from pointsman_cli.advise.costs import CostTerms
from pointsman_cli.advise.recommendation import Requirements
from pointsman_cli.certificate.adapter_files import AdapterFiles, parse_folders, read_adapters
from pointsman_cli.certificate.catalog_checks import catalog_checks
from pointsman_cli.certificate.checks import Outcome
from pointsman_cli.certificate.issue import Validity, make_statement
from pointsman_cli.certificate.statement import Statement
from pointsman_cli.certificate.task_verdicts import VerdictTerms
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.catalog import Catalog

from tests.cli.certificate.reports import (
    ISSUED,
    VERSION,
    adapter_of,
    catalog_of,
    path_of,
    report_of,
    statement_of,
    write_adapter,
)

STATEMENT = statement_of(report_of(path_of("few_shot", [1.0, 0.0] * 20, 5.0), adapter_of("adapter", [1.0] * 40, 2.0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "triage")


def test_the_files_beside_a_training_record_are_certified(folder: Path) -> None:
    (found,) = read_adapters([folder / "training.json"], {})
    assert (found.adapter, found.data_sha256, found.seed, found.has_weights) == ("triage", "ab", 7, True)
    (named,) = read_adapters([folder / "training.json"], parse_folders([f"triage={folder}"]))
    assert named == found


def without_engine(version: str = VERSION, *certified: AdapterFiles) -> tuple[Statement, Catalog]:
    """A statement on the adapter path, which `version` answered, and a catalog in which no engine names its version."""
    paths = {**STATEMENT.paths, "adapter": replace(STATEMENT.paths["adapter"], version=version)}
    statement, catalog = replace(STATEMENT, paths=paths, adapters=certified), catalog_of(STATEMENT.report)
    unresolved = replace(catalog.paths["adapter"], versions=("triage@prod",))
    return statement, replace(catalog, paths={**catalog.paths, "adapter": unresolved})


def found(folder: Path | None, version: str = VERSION, *certified: AdapterFiles) -> tuple[Outcome, Outcome | None]:
    """Returns the outcomes of the checks of the adapter and of its files."""
    statement, catalog = without_engine(version, *certified)
    checks = catalog_checks(statement, catalog, {"triage": folder} if folder else {})
    outcomes = {check.subject: check.outcome for check in checks}
    return outcomes["adapter of adapter"], outcomes.get("files of triage")


def test_without_an_engine_an_adapter_is_compared_by_its_files(folder: Path) -> None:
    (files,) = read_adapters([], parse_folders([f"triage={folder}"]))
    assert found(folder, VERSION, files) == (Outcome.OK, Outcome.OK)
    (folder / "training.json").write_text("{}")
    assert found(folder, VERSION, files) == (Outcome.OK, Outcome.WEAKENED)
    (folder / "adapter_model.safetensors").write_bytes(b"other weights")
    assert found(folder, VERSION, files) == (Outcome.OK, Outcome.INVALID)
    assert found(None, VERSION, files) == (Outcome.WEAKENED, None)


def test_files_are_compared_with_the_hash_in_the_versions_name_if_they_were_not_certified(folder: Path) -> None:
    assert found(folder) == (Outcome.OK, Outcome.OK)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    assert found(folder) == (Outcome.OK, Outcome.INVALID)


@pytest.mark.parametrize("version", ["triage", "triage@somebodys-name"])
def test_a_version_without_a_hash_needs_certified_files(folder: Path, version: str) -> None:
    (files,) = read_adapters([], parse_folders([f"triage={folder}"]))
    assert found(folder, version) == (Outcome.WEAKENED, Outcome.WEAKENED)
    assert found(folder, version, files) == (Outcome.OK, Outcome.OK)


def test_files_of_another_version_than_the_one_that_answered_are_not_certified(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"newer weights")
    report = STATEMENT.report
    with pytest.raises(UsageError, match=f"{VERSION} answered in the evaluation; give the folder of that version"):
        make_statement(
            report,
            catalog_of(report),
            VerdictTerms(Requirements(), CostTerms(training={"triage": 0.5}), None, 0.8),
            Validity(90, 0.2),
            adapters=read_adapters([], {"triage": folder}),
            issued=ISSUED,
        )


@pytest.mark.parametrize(
    ("text", "says"),
    [("triage", "it must be NAME=FOLDER, such as"), ("triage=nowhere", "the folder has no adapter_config.json")],
)
def test_a_folder_without_an_adapter_is_rejected(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_folders([text])
