"""Texts of a certificate are only texts in the comment on a pull request, whatever a stranger has written into it."""

from pathlib import Path

import pytest
from pointsman_cli.certificate.checks import Check, Outcome
from pointsman_cli.certificate.statement import read_certificate, to_json, write_certificate
from pointsman_cli.certificate.tables import to_markdown

from tests.cli.certificate.reports import path_of, report_of, statement_of


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "<img src=x> | `a` **b** [c](d)",
            "&#60;img src=x&#62; &#124; &#96;a&#96; &#42;&#42;b&#42;&#42; &#91;c&#93;(d)",
        ),
        ("a\nb\u202ec", "a b c"),
        # GitHub looks for names of users and numbers of issues after it has replaced character references.
        ("@octocat #1", "&#64;&#8203;octocat &#35;&#8203;1"),
        ("https://example.org www.example.org", "https&#58;//example.org www&#46;example.org"),
    ],
)
def test_texts_have_no_markup_links_or_mentions(tmp_path: Path, text: str, shown: str) -> None:
    write_certificate(to_json(statement_of(report_of(path_of("one", [1.0] * 9, 1.0)))), None, tmp_path / "c.json")
    page = to_markdown(text, read_certificate(tmp_path / "c.json"), [Check("data", Outcome.OK, text)])
    assert f"### {shown}: valid\n" in page
    assert f"| data | ok | {shown} |\n" in page
