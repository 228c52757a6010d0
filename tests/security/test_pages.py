"""`/docs` and `/redoc` run no script of another site on the console's origin."""

import http.client
import re

import pytest
from pointsman_gateway.http.asgi_app import OPEN_PATHS
from pointsman_gateway.http.console.page import CONTENT_SECURITY_POLICY

from tests.security.target import Addresses

PATHS = sorted({*OPEN_PATHS, "/docs", "/redoc", "/docs/oauth2-redirect", "/console", "/console/app.js"})
SOURCE_OF_ANOTHER_SITE = re.compile(rb"""(src|href)\s*=\s*["']?(https?:)?//""", re.IGNORECASE)


def get(target: Addresses, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(target.http, timeout=20)
    try:
        connection.request("GET", path, headers={"accept": "text/html", "authorization": f"Bearer {target.key}"})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
def test_pages_load_the_gateways_own_files_only(target: Addresses, path: str) -> None:
    response, body = get(target, path)
    assert not SOURCE_OF_ANOTHER_SITE.search(body), body[:500]
    if response.headers.get_content_type() == "text/html":
        assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_docs_leads_to_the_schema(target: Addresses) -> None:
    response, _ = get(target, "/docs")
    assert (response.status, response.headers["location"]) == (307, "openapi.json")
    schema, body = get(target, "/openapi.json")
    assert (schema.status, schema.headers.get_content_type()) == (200, "application/json")
    assert b'"/v1/chat/completions"' in body
