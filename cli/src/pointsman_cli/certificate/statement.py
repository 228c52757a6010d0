"""The statement of a certificate (the recommended path of each task, with all figures), and the certificate's file.

The file is a JSON object: the statement, its SHA-256, and a signature or null. The digest and the signature are of the
statement's canonical form, which is what Python's `json.dumps` returns with `sort_keys=True`, `separators=(",", ":")`
and `ensure_ascii=False`, in UTF-8.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError, with_config

from pointsman_cli.advise.costs import BreakEven, CostTerms
from pointsman_cli.advise.recommendation import VERDICTS, Requirements
from pointsman_cli.certificate.adapter_files import AdapterFiles
from pointsman_cli.certificate.verdict import PathStanding
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.catalog import CatalogTask, ModelFacts
from pointsman_cli.eval.report import Report

FORMAT = 1

MIN_DIFFERENCE, MAX_DIFFERENCE = 0.001, 0.5
MIN_POWER, MAX_POWER = 0.5, 0.99
MAX_PRICE_CHANGE = 0.9


@dataclass(frozen=True, slots=True)
class PriceBound:
    """One price in a certificate, and the lowest and highest price at which the certificate is valid, in dollars."""

    model: str
    """The name of the base model; empty for the price of a search."""
    kind: str
    """What the price is for: a million tokens of a kind ("prompt", "cached", "completion"), or one "request", "image",
    "tool" request or "retrieval" (a search).
    """
    usd: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """What a certificate states about one task: which path to use, or how many evaluated rows would decide it."""

    task: str
    verdict: str
    """The verdict in the words of `pointsman advise`, such as "train"; empty if the evaluated rows do not decide it."""
    path: str
    """The name of the path to use; empty if no path is good enough, or the evaluated rows do not decide it."""
    recommended: str
    """The name of the path that `pointsman advise` recommends even if the rows are not enough to be certain; empty if
    it recommends none.
    """
    margin: float
    """The smallest difference of two paths' mean scores (0 to 1) that matters to the user."""
    rows_needed: int
    """The total number of rows that would decide the verdict with the probability `Statement.power`; 0 if the verdict
    is decided.
    """
    standings: tuple[PathStanding, ...]
    """How each path compares with the others by its scores, preferred paths first.

    Only paths that meet the requirements on form and latency are compared.
    """
    left_out: Mapping[str, str]
    """Path name -> the reason why the path was not compared with the others."""
    break_evens: tuple[BreakEven, ...]

    @property
    def is_decided(self) -> bool:
        return bool(self.verdict)


@dataclass(frozen=True, slots=True)
class PathIdentity:
    """The base model and the adapter version that answered requests on one path during the evaluation."""

    model: str
    """The name of the base model."""
    version: str
    """The adapter version, such as "triage@3f9a1c0b77de"; empty if the path has no adapter."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Statement:
    """The content of a certificate: the verdict on each task, and all figures to compute the verdicts again."""

    format: int
    """The version number of the file format; this command reads and writes FORMAT."""
    issued: AwareDatetime
    expires: AwareDatetime
    software: Mapping[str, str]
    """Versions of Python, Pointsman, numpy and scipy at the time of issue, by name."""
    report: Report
    """The evaluation's report, with each row's score and without the texts of requests and answers."""
    paths: Mapping[str, PathIdentity]
    """The base model and adapter version that answered on each path of the report, by the path's name."""
    models: Mapping[str, ModelFacts]
    """Facts and prices of the base models in `paths`, by the model's name."""
    search_usd: float
    """Dollars for one search of the retriever."""
    tasks: Mapping[str, CatalogTask]
    """The evaluated tasks that the gateway knew, by name, with all paths that could answer them."""
    adapters: tuple[AdapterFiles, ...]
    """Digests of the files of the adapters whose folders or training.json files the issuer named."""
    requirements: Requirements
    terms: CostTerms
    difference: Annotated[float, Field(ge=MIN_DIFFERENCE, le=MAX_DIFFERENCE)] | None
    """The smallest difference of mean scores that matters, as the user has set it; None if the default of `pointsman
    advise` was used.
    """
    power: Annotated[float, Field(ge=MIN_POWER, le=MAX_POWER)]
    """The probability, such as 0.8, that `TaskVerdict.rows_needed` rows decide a verdict."""
    max_price_change: Annotated[float, Field(ge=0, le=MAX_PRICE_CHANGE)]
    """The largest change of any price, as a share of the measured price (0.2: up to 20 % lower or higher), with which
    the certificate is valid.

    If a smaller change of one price would already change a verdict, `price_bounds` has narrower limits for this price.
    """
    price_bounds: tuple[PriceBound, ...]
    seed: int
    """The random seed of the bootstrap intervals and permutation tests."""
    resamples: int
    """The number of random samples for each bootstrap interval and each permutation test."""
    verdicts: tuple[TaskVerdict, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature; `public_key` and `value` are bytes as hexadecimal digits."""

    algorithm: str
    public_key: str
    value: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as read from its file. Reading does not check the digest and the signature."""

    content: Mapping[str, Any]
    """The statement as JSON, as it is in the file; the digest and the signature are computed from this JSON."""
    statement: Statement
    sha256: str
    """The SHA-256 of the statement that the file states, in hexadecimal digits."""
    signature: Signature | None
    """The signature; None if the certificate is not signed."""


_STATEMENT = TypeAdapter(Statement)
_SIGNATURE = TypeAdapter(Signature | None)


def to_json(statement: Statement) -> dict[str, Any]:
    content: dict[str, Any] = _STATEMENT.dump_python(statement, mode="json")
    return content


def canonical(content: Mapping[str, Any]) -> bytes:
    """Returns a statement as canonical JSON (sorted keys, no spaces, UTF-8): the bytes that are hashed and signed.

    Raises ValueError if a number is infinite or not a number, or a text cannot be encoded as UTF-8.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()


def write_certificate(content: Mapping[str, Any], signature: Signature | None, file: Path) -> None:
    """Writes the statement `content`, its digest and `signature` to `file`; a signature of None is written as null.

    Raises UsageError if the file cannot be written.
    """
    signed = _SIGNATURE.dump_python(signature, mode="json")
    whole = {"statement": content, "sha256": digest_of(content), "signature": signed}
    try:
        file.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from error


def _check_names(statement: Statement) -> None:
    """Raises ValueError if there is no task, or a name of a task, path, model or kind appears in one place only."""
    tasks = [task.task for task in statement.report.tasks]
    if not tasks:
        raise ValueError("its report has no task")
    if unknown := {path.kind for task in statement.report.tasks for path in task.paths} - VERDICTS.keys():
        raise ValueError(f"there are no paths of the kind {min(unknown)!r}; known: {', '.join(VERDICTS)}")
    if [verdict.task for verdict in statement.verdicts] != tasks:
        raise ValueError("its verdicts are on other tasks than its report")
    for task, verdict in zip(statement.report.tasks, statement.verdicts, strict=True):
        paths = {path.path for path in task.paths}
        named = {*(each.path for each in verdict.standings), *verdict.left_out, *filter(None, [verdict.path])}
        if not named <= paths <= statement.paths.keys():
            raise ValueError(f"the parts on '{task.task}' name different paths")
    paths = {path.path for task in statement.report.tasks for path in task.paths}
    if {*statement.paths} != paths or not {*statement.tasks} <= {*tasks}:
        raise ValueError("it describes tasks or paths that its report lacks")
    models = {identity.model for identity in statement.paths.values()}
    if not models | {bound.model for bound in statement.price_bounds} <= {"", *statement.models}:
        raise ValueError("it names a base model, and has no facts and prices of it")


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def read_certificate(file: Path) -> Certificate:
    """Reads a certificate without checking its digest and signature.

    Raises UsageError if the file cannot be read, is not a certificate, or has another `format` than FORMAT.
    """
    try:
        whole = json.loads(file.read_bytes(), parse_constant=_reject_constant)
        content = whole["statement"]
        if content["format"] != FORMAT:
            raise UsageError(f"{file} has the format {content['format']}; this command reads {FORMAT}")
        statement = _STATEMENT.validate_python(content)
        _check_names(statement)
        canonical(content)
        return Certificate(content, statement, str(whole["sha256"]), _SIGNATURE.validate_python(whole["signature"]))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UsageError(f"{file} is not a certificate of `pointsman advise`: {where}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{file} is not a certificate of `pointsman advise`, a JSON object with statement, sha256 and signature: "
            f"{error!r}"
        ) from error
