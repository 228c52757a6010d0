"""The routes of the console for single sign-on, which need no credential."""

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument, NotFound
from pydantic import Field, ValidationError
from starlette.responses import Response

from pointsman_gateway.http.console.site_check import check_site
from pointsman_gateway.http.dependencies import dependencies_of
from pointsman_gateway.http.fields import StrictBody, invalid_field
from pointsman_gateway.http.json_answer import json_answer
from pointsman_gateway.tenancy.login import LoginCode

MAX_LOGIN_BYTES = 8192
"""Maximum number of bytes of a login's body. The limit is needed because a login requires no credential."""


class LoginBody(StrictBody):
    code: str = Field(min_length=1, max_length=4096)
    verifier: str = Field(pattern="^[A-Za-z0-9._~-]{43,128}$", description="RFC 7636")
    redirect_uri: str = Field(max_length=500)
    nonce: str = Field(min_length=16, max_length=128)


async def login_request(request: Request) -> Response:
    """Returns how the page starts a login: the URL of the issuer's authorization endpoint, and its query
    parameters; null if there is no single sign-on, or the issuer is unavailable.
    """
    check_site(request, True, ())
    login = dependencies_of(request).login()
    return json_answer(login and await login.login_request())


async def log_in(request: Request) -> Response:
    """Exchanges an authorization code for the token that the page then sends as its credential, and the Unix time at
    which the token expires.
    """
    check_site(request, True, ())
    login = dependencies_of(request).login()
    if login is None:
        raise NotFound("this gateway has no single sign-on", code="unknown_route")
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_LOGIN_BYTES:
        raise InvalidArgument(f"content-length must be 1 to {MAX_LOGIN_BYTES}", code="body_too_large")
    try:
        body = LoginBody.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid_field(error.errors()[0]) from error
    session = await login.log_in(LoginCode(**body.model_dump()))
    return json_answer({"token": session.token, "expires": session.expires})
