"""Bedrock with the role of a pod: LiteLLM's SDK gets credentials as on EKS, and signs its requests with them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.ports import serving

# The SDK reads a deprecated attribute of pydantic's.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")

ROLE = {
    "AccessKeyId": "ASIAROLE",
    "SecretAccessKey": "secret",
    "Token": "of-the-session",
    "Expiration": "2099-01-01T00:00:00Z",
}
CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"


@contextmanager
def answering(status: int, body: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Runs a server that gives this answer to every request; yields its address and the headers of the requests."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers.get("content-length", 0)))
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, format: str, *words: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, asked


async def test_requests_are_signed_by_the_role_of_the_pod(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("of-the-account")
    with answering(200, ROLE) as (agent, given), answering(403, {"message": "no"}) as (bedrock, asked):
        settings = {
            "CONFIG_FILE": tmp_path / "none",
            "SHARED_CREDENTIALS_FILE": tmp_path / "none",
            "REGION": "eu-central-1",
        }
        settings |= {"CONTAINER_CREDENTIALS_FULL_URI": f"{agent}/v1/credentials"}
        settings |= {"CONTAINER_AUTHORIZATION_TOKEN_FILE": tmp_path / "token"}
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", str(value))
        models = neighbours.config.models
        models["models"]["claude"] = {**models["models"]["tiny"], "upstream": CLAUDE}
        models["engines"]["claude"] = {"model": "claude", "provider": "litellm/bedrock", "url": bedrock}
        models["resilience"] = {"retries": {"max_retries": 0}}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            http.timeout = httpx.Timeout(60)
            request = {"model": "claude", "messages": [{"role": "user", "content": "Hello"}]}
            answered = await http.post("/v1/chat/completions", json=request)
    assert answered.status_code >= 400
    assert given[0]["authorization"] == "of-the-account"
    signed = asked[-1]
    assert signed["authorization"].startswith("AWS4-HMAC-SHA256 Credential=ASIAROLE/")
    assert "/eu-central-1/bedrock/aws4_request" in signed["authorization"]
    assert signed["x-amz-security-token"] == "of-the-session"
