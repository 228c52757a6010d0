"""The integrity of a certificate's file is checked by its digest alone; a signature also proves who issued it."""

import hashlib
import json
from collections.abc import Callable
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

from tests.cli.certificate.reports import ISSUED, adapter_of, path_of, report_of, statement_of

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


def test_a_certificate_of_the_future_is_invalid_until_then(tmp_path: Path) -> None:
    """Clocks differ, but not by a day."""
    file = written(tmp_path)
    assert outcomes(file, days=-0.5)["age"][0] is Outcome.OK
    assert outcomes(file, days=-2)["age"] == (Outcome.INVALID, "it is issued in the future: 2026-12-01")


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
    ec = tmp_path / "ec.pem"
    ec.write_bytes(generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="is not an Ed25519 key"):
        outcomes(file, ec)
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


def other_seed(statement: dict[str, Any]) -> None:
    statement["seed"] = 99


def no_score_at_all(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"][0]["paths"][0]["row_scores"][1] = 7.0


EDITS = [other_verdict, better_score, one_row_more_right, cheaper, surer, wider, other_seed, no_score_at_all]


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


def no_task(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"], statement["verdicts"] = [], []
    statement["paths"], statement["tasks"], statement["price_bounds"] = {}, {}, []


def unknown_kind(statement: dict[str, Any]) -> None:
    statement["report"]["tasks"][0]["paths"][0]["kind"] = "magic"


@pytest.mark.parametrize("edit", [other_task, other_path, lost_model, more_tasks, no_task, unknown_kind])
def test_a_statement_whose_parts_do_not_fit_together_is_rejected(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(UsageError, match="with statement, sha256 and signature: ValueError"):
        read_certificate(edited(written(tmp_path), edit, True))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "with statement, sha256 and signature: JSONDecodeError"),
        ("[]", "with statement, sha256 and signature: TypeError"),
        ('{"statement": {"format": 2}}', "has the format 2; this command reads 1"),
        ('{"statement": {"format": 1}}', "is not a certificate of `pointsman advise`: issued: Field required"),
        ('{"statement": {"format": NaN}}', "NaN is not a number in JSON"),
        ("[" * 100_000, "with statement, sha256 and signature: RecursionError"),
    ],
)
def test_a_file_that_is_no_certificate_is_rejected(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=says):
        read_certificate(file)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("max_price_change", "1000000000", "max_price_change: Input should be less than or equal to 0.9"),
        ("max_price_change", "-1", "max_price_change: Input should be greater than or equal to 0"),
        ("difference", "5", "difference.*: Input should be less than or equal to 0.5"),
        ("power", "1", "power: Input should be less than"),
        ("power", "1e999", "power: Input should be less than"),
        ("search_usd", "1e999", "Out of range float values are not JSON compliant"),
        ("software", r'{"python": "\ud800"}', "surrogates not allowed"),
    ],
)
def test_values_that_no_certificate_can_have_are_rejected(tmp_path: Path, field: str, value: str, says: str) -> None:
    file = edited(written(tmp_path), lambda statement: statement.update({field: "here"}))
    file.write_text(file.read_text().replace('"here"', value))
    with pytest.raises(UsageError, match=says):
        read_certificate(file)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nnothing\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_a_key_signs_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.pem"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is not a private key in PEM"):
        sign(b"", file)
    with pytest.raises(UsageError, match="cannot read"):
        sign(b"", tmp_path / "none.pem")


def test_a_key_of_another_algorithm_signs_nothing(tmp_path: Path) -> None:
    key = generate_private_key(SECP256R1())
    file = tmp_path / "ec.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="is not an Ed25519 key; make one with `openssl genpkey -algorithm ed25519`"):
        sign(b"", file)
