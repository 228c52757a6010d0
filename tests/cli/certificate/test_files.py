"""The integrity of a certificate's file is checked by its digest alone; a signature also proves who issued it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pointsman_cli.certificate.adapter_files import AdapterFiles, parse_folders, read_adapters
from pointsman_cli.certificate.catalog_checks import catalog_checks
from pointsman_cli.certificate.checks import Outcome, figures_check, file_checks
from pointsman_cli.certificate.signing import sign
from pointsman_cli.certificate.statement import (
    Statement,
    canonical,
    read_certificate,
    to_json,
    write_certificate,
)
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.catalog import Catalog

from tests.cli.certificate.reports import ISSUED, adapter_of, catalog_of, path_of, report_of, statement_of

STATEMENT = statement_of(report_of(path_of("few_shot", [1.0, 0.0] * 20, 5.0), adapter_of("adapter", [1.0] * 40, 2.0)))
GRADED = statement_of(report_of(path_of("few_shot", [0.3, 0.7, None, 0.5] * 5, 5.0), path_of("long", [0.9] * 20, 8.0)))
LATER = ISSUED + timedelta(days=30)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key.pem"
    file.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def written(tmp_path: Path, key: Path | None = None, statement: Statement = STATEMENT) -> Path:
    content = to_json(statement)
    write_certificate(content, sign(canonical(content), key) if key else None, tmp_path / "certificate.json")
    return tmp_path / "certificate.json"


def outcomes(file: Path, trusted: Path | None = None, days: float = 30) -> dict[str, tuple[Outcome, str]]:
    checks = file_checks(read_certificate(file), trusted, ISSUED + timedelta(days=days))
    return {check.subject: (check.outcome, check.detail) for check in checks}


def edited(file: Path, edit: Callable[[dict[str, Any]], None], with_digest: bool = False) -> Path:
    whole = json.loads(file.read_text())
    edit(whole["statement"])
    if with_digest:
        whole["sha256"] = hashlib.sha256(canonical(whole["statement"])).hexdigest()
    file.write_text(json.dumps(whole))
    return file


def test_a_written_certificate_is_read_back_unchanged(tmp_path: Path) -> None:
    for statement in (STATEMENT, GRADED):
        assert read_certificate(written(tmp_path, statement=statement)).statement == statement


def test_the_digest_can_be_computed_with_python_alone(tmp_path: Path) -> None:
    whole = json.loads(written(tmp_path).read_text())
    text = json.dumps(whole["statement"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert whole["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_certificate_has_no_text_of_requests_and_answers(tmp_path: Path) -> None:
    whole = json.loads(written(tmp_path).read_text())
    (task,) = whole["statement"]["report"]["tasks"]
    assert (task["confusions"], task["disagreements"]) == ([], [])


def test_a_changed_statement_does_not_have_its_digest(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert outcomes(file)["digest"][0] is Outcome.OK
    edited(file, lambda statement: statement["models"]["model of adapter"].update(fingerprint="another"))
    assert outcomes(file)["digest"] == (Outcome.INVALID, "the statement was changed after its digest was made")


def test_a_certificate_expires(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert outcomes(file, days=89)["age"] == (Outcome.OK, "issued 2026-12-01, expires 2027-03-01")
    assert outcomes(file, days=91)["age"] == (Outcome.INVALID, "issued 2026-12-01, expired 2027-03-01")


def test_an_unsigned_certificate_is_checked_by_its_digest_and_says_that_nobody_vouches_for_it(
    tmp_path: Path, key: Path
) -> None:
    file = written(tmp_path)
    assert outcomes(file)["signature"] == (Outcome.NOT_CHECKED, "it is not signed: anybody may have written it")
    assert outcomes(file, key)["signature"][0] is Outcome.INVALID


def test_a_signature_is_checked_with_the_trusted_key(tmp_path: Path, key: Path) -> None:
    file, public, other = written(tmp_path, key), tmp_path / "public.pem", tmp_path / "other.pem"
    loaded = load_pem_private_key(key.read_bytes(), None)
    public.write_bytes(loaded.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    other.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert outcomes(file, public)["signature"] == (Outcome.OK, f"by the key of {public}")
    assert outcomes(file, key)["signature"][0] is Outcome.OK
    assert outcomes(file)["signature"][0] is Outcome.NOT_CHECKED
    outcome, detail = outcomes(file, other)["signature"]
    assert outcome is Outcome.INVALID
    assert "it is signed with another key" in detail


def test_a_signature_does_not_fit_another_statement_even_if_its_digest_does(tmp_path: Path, key: Path) -> None:
    file = edited(written(tmp_path, key), lambda statement: statement.update(expires="2099-01-01T00:00:00Z"), True)
    found = outcomes(file, key)
    assert found["digest"][0] is Outcome.OK
    assert found["signature"] == (Outcome.INVALID, "the signature is not of this statement")


def other_verdict(statement: dict[str, Any]) -> None:
    statement["verdicts"][0].update(verdict="stay with prompting", path="few_shot")


def better_score(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"][0]["paths"][0]["score"].update(mean=0.9)


def one_row_more_right(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"][0]["paths"][0]["row_scores"][1] = 1.0


def cheaper(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"][0]["paths"][0]["usd_per_1000"]["prompt"] /= 2


def surer(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"][0]["pairs"][0].update(p_adjusted=0.001)


def wider(statement: dict[str, Any]) -> None:
    statement["price_bounds"][0].update(high=1000.0)


def no_score_at_all(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"][0]["paths"][0]["row_scores"][1] = 7.0


EDITS = [other_verdict, better_score, one_row_more_right, cheaper, surer, wider, no_score_at_all]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("statement", [STATEMENT, GRADED], ids=["binary", "graded"])
def test_figures_that_do_not_follow_from_the_rows_are_found_although_the_digest_is_right(
    tmp_path: Path, statement: Statement, edit: Callable[[dict[str, Any]], None]
) -> None:
    file = written(tmp_path, statement=statement)
    assert figures_check(read_certificate(file).statement).outcome is Outcome.OK
    check = figures_check(read_certificate(edited(file, edit, True)).statement)
    assert (check.subject, check.outcome) == ("figures", Outcome.INVALID)


def test_figures_of_other_versions_of_the_libraries_only_weaken_if_they_are_nearly_the_same(tmp_path: Path) -> None:
    def near(statement: dict[str, Any]) -> None:
        statement["software"]["scipy"] = "1.0"
        statement["report"]["tasks"][0]["paths"][0]["score"]["low"] += 0.01

    check = figures_check(read_certificate(edited(written(tmp_path, statement=GRADED), near, True)).statement)
    assert (check.outcome, "scipy 1.0" in check.detail) == (Outcome.WEAKENED, True)
    check = figures_check(read_certificate(edited(tmp_path / "certificate.json", better_score, True)).statement)
    assert check.outcome is Outcome.INVALID


def other_task(statement: dict[str, Any]) -> None:
    statement["verdicts"][0]["task"] = "other"


def other_path(statement: dict[str, Any]) -> None:
    statement["verdicts"][0]["path"] = "other"


def lost_model(statement: dict[str, Any]) -> None:
    del statement["models"]["model of adapter"]


def more_tasks(statement: dict[str, Any]) -> None:
    statement["tasks"]["other"] = statement["tasks"]["triage"]


@pytest.mark.parametrize("edit", [other_task, other_path, lost_model, more_tasks])
def test_a_statement_whose_parts_do_not_fit_together_is_rejected(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(UsageError, match="is no certificate of `pointsman advise`: ValueError"):
        read_certificate(edited(written(tmp_path), edit, True))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no certificate of `pointsman advise`: JSONDecodeError"),
        ("[]", "is no certificate of `pointsman advise`: TypeError"),
        ('{"statement": {"format": 2}}', "has the format 2; this command reads 1"),
        ('{"statement": {"format": 1}}', "is no certificate of `pointsman advise`: issued: Field required"),
        ('{"statement": {"format": NaN}}', "NaN is no number of JSON"),
    ],
)
def test_a_file_that_is_no_certificate_is_rejected(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=says):
        read_certificate(file)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nnothing\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_a_key_signs_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.pem"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is no private key in PEM"):
        sign(b"", file)
    with pytest.raises(UsageError, match="cannot read"):
        sign(b"", tmp_path / "none.pem")


def test_a_key_of_another_algorithm_signs_nothing(tmp_path: Path) -> None:
    key = generate_private_key(SECP256R1())
    file = tmp_path / "ec.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="is no Ed25519 key; make one with `openssl genpkey -algorithm ed25519`"):
        sign(b"", file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns an adapter's folder."""
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
    """Returns a statement on a certified adapter, and the catalog of a configuration. If `resolved`, the catalog names
    the version that an engine reports, otherwise only the alias.
    """
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
