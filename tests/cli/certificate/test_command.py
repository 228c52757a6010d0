"""The command line writes and verifies a certificate with a real gateway, and a pull request shows the result."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.certificate.conftest import Ended
from tests.cli.certificate.reports import write_adapter
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Gateway, Neighbours

ROOT = Path(__file__).parents[3]
Command = Callable[..., Awaitable[Ended]]

GITHUB = """\
import json, os, sys
arguments = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    body = next((text.partition("@")[2] for text in arguments if text.startswith("body=@")), "")
    calls.write(json.dumps([arguments, open(body).read() if body else ""]) + "\\n")
if os.environ.get("FORBIDDEN"):
    sys.exit("HTTP 403: Resource not accessible by integration")
if "--paginate" in arguments and os.environ.get("COMMENTED"):
    print("17\\n18")
"""
"""A double of GitHub's `gh`: it records how it is called, and lists comments if there is one already."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with the files of the adapter that answers, and a key beside it."""
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    return write_adapter(tmp_path / "triage")


@pytest.fixture
def issued(tmp_path: Path, report: Path, gateway: Gateway, folder: Path) -> Sequence[object]:
    """Returns the arguments of the command that issues a signed certificate in `tmp_path`."""
    return (
        "advise", report, "--certificate", tmp_path / "certificate.json", "--signing-key", tmp_path / "key.pem",
        "--training-cost", "triage=0.5", "--adapter", f"triage={folder}", "--gateway", gateway.url,
    )  # fmt: skip


async def test_a_certificate_is_issued_signed_verified_and_found_invalid_when_the_answers_change(
    issued: Sequence[object],
    command: Command,
    gateway: Gateway,
    engine: ScriptedEngine,
    folder: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    certificate, key = tmp_path / "certificate.json", tmp_path / "key.pem"
    written = await command(*issued, "--difference", "0.1")
    assert written.code == 0, written.err
    assert "triage: train (triage_adapter)" in written.out
    assert "certificate.json (signed): SHA-256" in written.out

    verify = (
        "advise", "--verify", certificate, "--gateway", gateway.url, "--data", data, "--trusted-key", key,
        "--adapter", f"triage={folder}", "--sample", 20,
    )  # fmt: skip
    engine.bodies.clear()
    valid = await command(*verify, "--json")
    assert valid.code == 0, valid.out
    found = json.loads(valid.out)
    assert {check["outcome"] for check in found["checks"]} == {"ok"}
    assert found["verdicts"] == [{"task": "triage", "verdict": "train", "path": "triage_adapter", "rows_needed": 0}]
    assert len(engine.bodies) == 3 * 20

    engine.script = lambda body: answer("Here you are.")
    invalid = await command(*verify)
    assert invalid.code == 4
    assert "certificate.json: invalid" in invalid.out


async def test_rows_that_decide_nothing_end_with_their_own_status_and_the_number_of_rows(
    issued: Sequence[object], command: Command, tmp_path: Path
) -> None:
    refused = await command(*issued, "--min-score", "0.95")
    assert refused.code == 3, refused.err
    assert "triage: no verdict from 40 rows; about " in refused.out
    assert "in all decide it with a probability of 80%, if a difference of 0.03 matters" in refused.out
    (verdict,) = json.loads((tmp_path / "certificate.json").read_text())["statement"]["verdicts"]
    assert (verdict["verdict"], verdict["path"]) == ("", "")
    assert f"about {verdict['rows_needed']:,} in all" in refused.out
    again = await command("advise", "--verify", tmp_path / "certificate.json", "--config", tmp_path / "config")
    assert again.code == 3
    assert "the rows decided none" in again.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--live", "--certificate", "c.json"), "--certificate is made of a REPORT, not of --live"),
        (("--live", "--verify", "c.json"), "give either a REPORT"),
        (("report.json", "--power", "0.9"), "--power is for --certificate, not for a REPORT"),
        (("--verify", "c.json", "--min-score", "0.9"), "--min-score is for a REPORT, not for --verify"),
        (("report.json", "--certificate", "c.json", "--sample", "3"), "--sample is for --verify, not for --cert"),
        (("report.json", "--requests-per-month", "inf"), "--requests-per-month is inf; it must be finite"),
        (("report.json", "--min-score", "nan"), "Invalid value for '--min-score'"),
        (("--verify", "none.json"), "cannot read none.json"),
        (("--verify", "none.json", "--adapter", "triage"), "--adapter is 'triage'; it must be NAME=FOLDER"),
    ],
)
def test_options_that_do_not_go_together_are_rejected(cli: Any, arguments: tuple[str, ...], says: str) -> None:
    outcome = cli("advise", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.err


@dataclass
class PullRequest:
    """A checkout in which the steps of the action run."""

    folder: Path
    inputs: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)
    """The arguments of each call of GitHub's API, and the text that the call sent."""

    async def run(self) -> tuple[int, str]:
        """Runs all steps except the installation; returns the exit status of the last one, and the output of all."""
        action = yaml.safe_load((ROOT / "deploy/ci/action.yml").read_text())
        defaults = {name: str(each.get("default", "")) for name, each in action["inputs"].items()}
        said, code = "", 0
        for step in action["runs"]["steps"][1:]:
            given = {name: self._value(text, defaults | self.inputs) for name, text in step["env"].items()}
            code, out = await self._bash(step["run"], given)
            said += out
            if code:
                break
        log = self.folder / "calls"
        self.calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return code, said

    def _value(self, text: str, inputs: dict[str, str]) -> str:
        name = text.removeprefix("${{ ").removesuffix(" }}")
        if name.startswith("inputs."):
            return inputs[name.removeprefix("inputs.")]
        if name == "steps.verify.outputs.result":
            return self.result
        return text.replace("${{ github.repository }}", "owner/name").replace("${{ github.event.number }}", "5")

    @property
    def result(self) -> str:
        lines = (self.folder / "output").read_text().splitlines()
        return dict(line.split("=") for line in lines)["result"]

    async def _bash(self, script: str, given: dict[str, str]) -> tuple[int, str]:
        environment = os.environ | self.environment | given | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(self.folder),
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            "CALLS": str(self.folder / "calls"),
        }  # fmt: skip
        program = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script)
        process = await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=STDOUT, env=environment)
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


@pytest.fixture
async def pull_request(
    issued: Sequence[object], command: Command, folder: Path, data: Path, neighbours: Neighbours, tmp_path: Path
) -> PullRequest:
    written = await command(*issued, "--difference", "0.1")
    assert written.code == 0, written.err
    programs = tmp_path / "bin"
    programs.mkdir()
    pointsman = "import sys\nfrom pointsman_cli.__main__ import main\nsys.argv[0] = 'pointsman'\nmain()\n"
    for name, code in (("gh", GITHUB), ("pointsman", pointsman)):
        (programs / name).write_text(f"#!{sys.executable}\n{code}")
        (programs / name).chmod(0o755)
    inputs = {
        "certificate": str(tmp_path / "certificate.json"),
        "config": str(neighbours.config.folder),
        "data": str(data),
        "adapters": f"triage={folder}\n",
        "trusted-key": str(tmp_path / "key.pem"),
    }
    return PullRequest(tmp_path, inputs)


async def test_a_pull_request_gets_a_comment_and_passes_while_the_verdict_holds(pull_request: PullRequest) -> None:
    code, said = await pull_request.run()
    assert (code, pull_request.result) == (0, "valid"), said
    _, (arguments, body) = pull_request.calls
    assert "POST" in arguments
    assert "repos/owner/name/issues/5/comments" in arguments
    assert body.splitlines()[:2] == ["<!-- pointsman certificate -->", "### certificate.json: valid"]
    assert "| triage | train | triage&#95;adapter | 1.000 (0.91 to 1.00) |" in body
    assert (pull_request.folder / "summary").read_text() == body


async def test_a_pull_request_that_changes_a_prompt_fails_and_its_comment_is_replaced(
    pull_request: PullRequest, neighbours: Neighbours
) -> None:
    neighbours.config.prompts["triage.txt"] = "Sort the message. <!-- | @everybody -->"
    neighbours.config.write()
    pull_request.environment["COMMENTED"] = "1"
    code, said = await pull_request.run()
    assert (code, pull_request.result) == (1, "invalid"), said
    assert "the certificate is invalid: evaluate again, or undo the change" in said
    _, (arguments, body) = pull_request.calls
    assert "PATCH" in arguments
    assert "repos/owner/name/issues/comments/17" in arguments
    changed = "| path triage&#95;few&#95;shot | **invalid** | its settings, prompts or examples have changed |"
    assert changed in body
    assert "everybody" not in body


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
async def test_a_comment_that_somebody_else_began_with_the_same_line_is_not_replaced(pull_request: PullRequest) -> None:
    """Its author could edit the table afterwards."""
    await pull_request.run()
    (listing, _), _ = pull_request.calls
    body = "<!-- pointsman certificate -->\nvalid"
    comments = [{"id": number, "body": body, "user": {"type": kind}} for number, kind in ((1, "User"), (2, "Bot"))]
    assert await asyncio.to_thread(jq, listing[listing.index("--jq") + 1], comments) == "2\n"


def jq(program: str, content: object) -> str:
    ended = subprocess.run(["jq", program], input=json.dumps(content), capture_output=True, text=True, check=True)
    return ended.stdout


async def test_without_the_right_to_comment_the_result_is_in_the_summary_alone(pull_request: PullRequest) -> None:
    pull_request.environment["FORBIDDEN"] = "1"
    del pull_request.inputs["adapters"]  # so that nobody knows the adapter's version
    code, said = await pull_request.run()
    assert (code, pull_request.result) == (0, "weakened"), said
    assert "::warning::the token may not comment" in said
    assert "### certificate.json: weakened" in (pull_request.folder / "summary").read_text()
    pull_request.inputs["fail-on"] = "weakened"
    assert (await pull_request.run())[0] == 1
