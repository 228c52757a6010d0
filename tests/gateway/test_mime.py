"""Of a raw e-mail, with its full headers and parts, the text is read that its reader sees."""

from base64 import b64encode
from time import thread_time

import pytest
from pointsman_gateway.classification.mime import mime_to_text

WORDS = "I left my umbrella on the ferry"
HEADERS = (
    "Received: from a\n\tby b; Mon, 1 Jun 2026\nFrom: Martha <m@a.example>\nTo: help@b.example\nSubject: x\n"
    "MIME-Version: 1.0\n"
)
PARTS = (
    'Content-Type: multipart/mixed; boundary="b"\n\n'
    '--b\nContent-Type: multipart/alternative;\n boundary="c"\n\n'
    "--c\nContent-Type: text/html\n\n<p>another form</p>\n"
    f"--c\nContent-Type: text/plain\n\n{WORDS}\n--c--\n"
    "--b\nContent-Type: text/plain\nContent-Disposition: attachment\n\nterms and conditions\n--b--\n"
)
ENCODED = b64encode(f"{WORDS} \N{EURO SIGN}".encode()).decode()


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        (f"{HEADERS}Content-Type: text/plain\n\n{WORDS}\n", WORDS),
        (HEADERS + PARTS, WORDS),
        (f"{HEADERS}Content-Type: text/html\n\n<p>{WORDS}</p>\n", f"<p>{WORDS}</p>"),
        (f"{HEADERS}Content-Transfer-Encoding: quoted-printable\n\nI left my umb=\nrella=21\n", "I left my umbrella!"),
        (f"{HEADERS}Content-Transfer-Encoding: base64\n\n{ENCODED}\n", f"{WORDS} \N{EURO SIGN}"),
        (
            f'{HEADERS}Content-Type: text/plain; charset="no"\nContent-Transfer-Encoding: base64\n\n{ENCODED}\n',
            f"{WORDS} \N{EURO SIGN}",
        ),
        (f"{HEADERS}\n{WORDS} \ud83d\n", f"{WORDS} ?"),
        (f"Classify the mail below.\n\n{HEADERS}\n{WORDS}\n", WORDS),
        (f"I got this, is it a fraud?\n\n{HEADERS}\n{WORDS}\n", f"I got this, is it a fraud?\n\n{WORDS}"),
    ],
)
def test_the_readable_part_of_a_raw_mail_is_read(mail: str, expected: str) -> None:
    assert mime_to_text(mail) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        WORDS,
        f"From: Boston\nTo: Denver\nDate: Friday\n\n{WORDS}",
        f"Sender: a\nReceived: today\nAttachments: 0\n{WORDS}",
        HEADERS,
        f"{HEADERS}Content-Type: image/png\nContent-Transfer-Encoding: base64\n\n{ENCODED}\n",
        HEADERS + "Content-Type: message/rfc822\n\n" * 600,
    ],
)
def test_a_text_that_is_no_readable_mail_is_unchanged(text: str) -> None:
    assert mime_to_text(text) == text


def test_the_time_for_parts_within_parts_is_bounded() -> None:
    nested = "".join(f'--{depth}\nContent-Type: multipart/mixed; boundary="{depth + 1}"\n\n' for depth in range(9))
    text = f'{HEADERS}Content-Type: multipart/mixed; boundary="0"\n\n{nested}' + "x\n" * 8_000
    started = thread_time()
    mime_to_text(text)
    assert thread_time() - started < 0.5
