"""`pointsman advise --certificate` and `--verify`: writes, verifies and prints a certificate."""

from pathlib import Path

import typer
from rich.console import Group
from rich.text import Text

from pointsman_cli.certificate.checks import overall
from pointsman_cli.certificate.signing import sign
from pointsman_cli.certificate.statement import Statement, canonical, digest_of, to_json, write_certificate
from pointsman_cli.certificate.tables import (
    check_lines,
    checks_as_json,
    to_markdown,
    verdict_lines,
    verdicts_as_json,
)
from pointsman_cli.certificate.verification import ConfigurationSource, Verification, verify
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.options import print_json, table_console

EXIT_CODES = {"valid": 0, "weakened": 3, "invalid": 4}
"""The exit code of `--verify` by the result of the verification."""
NO_VERDICT_EXIT_CODE = 3
"""The exit code of `--certificate` if the evaluated rows are too few to decide which path a task should use."""


def issue_certificate(statement: Statement, file: Path, signing_key: Path | None, as_json: bool) -> None:
    """Writes a certificate to `file` and prints its verdicts, as JSON if `as_json`.

    The certificate is signed with the private key in the PEM file `signing_key`; None: not signed. Raises UsageError if
    a file cannot be read or written. Ends the command with NO_VERDICT_EXIT_CODE if a task has no verdict.
    """
    content = to_json(statement)
    signature = sign(canonical(content), signing_key) if signing_key else None
    write_certificate(content, signature, file)
    digest = digest_of(content)
    if as_json:
        print_json({"file": str(file), "sha256": digest, "verdicts": verdicts_as_json(statement)})
    else:
        how = "signed" if signing_key else "not signed"
        table_console().print(Group(verdict_lines(statement), Text(f"\n{file} ({how}): SHA-256 {digest}")))
    if not all(verdict.is_decided for verdict in statement.verdicts):
        raise typer.Exit(NO_VERDICT_EXIT_CODE)


def verify_certificate(
    file: Path, source: ConfigurationSource, given: Verification, markdown: Path | None, as_json: bool
) -> None:
    """Verifies the certificate in `file`, prints all checks, and ends the command with one of EXIT_CODES.

    The result is also written to the file `markdown` as Markdown; None: it is not. Raises UsageError or CommandError as
    `verify` does, and UsageError if the Markdown cannot be written.
    """
    certificate, checks = run_interruptibly(verify(file, source, given))
    result = overall(checks)
    if markdown:
        _write_text(to_markdown(file.name, certificate, checks), markdown)
    if as_json:
        print_json(checks_as_json(checks, certificate.statement))
    else:
        shown = Text(f"\n{file}: {result}", style="bold")
        table_console().print(Group(verdict_lines(certificate.statement), Text(), check_lines(checks), shown))
    raise typer.Exit(EXIT_CODES[result])


def _write_text(text: str, file: Path) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from error
