"""The parts of uvicorn that the gateway uses although they are not public: a new version may change them."""

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pointsman_gateway.http as http
import uvicorn.protocols.http.httptools_impl as uvicorn_http
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

ROOT = Path(__file__).parents[2]
FILES = ("fast_connection.py", "guarded_connection.py", "sinks.py")
USED_OF_CYCLE = {"transport", "keep_alive", "scope", "more_body", "response_complete", "response_started"} | {
    "disconnected",
    "message_event",
}


def test_the_installed_version_is_the_pinned_one() -> None:
    project = tomllib.loads((ROOT / "services" / "gateway" / "pyproject.toml").read_text("utf-8"))["project"]
    (pinned,) = [one for one in project["dependencies"] if one.startswith("uvicorn")]
    installed = re.match(r"\d+\.\d+", version("uvicorn"))
    assert installed
    assert pinned.startswith(f"uvicorn>={installed[0]},<")


def test_the_lock_files_have_the_pinned_minor_version() -> None:
    minor = ".".join(version("uvicorn").split(".")[:2])
    locks = [file for file in (ROOT / "deploy").rglob("locks/*.txt") if "uvicorn==" in file.read_text("utf-8")]
    assert locks
    for lock in locks:
        assert re.findall(r"^uvicorn==(\d+\.\d+)", lock.read_text("utf-8"), re.MULTILINE) == [minor], lock


def test_a_request_in_progress_has_the_used_attributes() -> None:
    source = "".join((Path(http.__file__).parent / name).read_text("utf-8") for name in FILES)
    assert set(re.findall(r"\bcycle\.(\w+)", source)) == USED_OF_CYCLE
    assigned = set(re.findall(r"self\.(\w+)(?:: [^=]+)? = ", inspect.getsource(RequestResponseCycle)))
    assert assigned >= USED_OF_CYCLE


def test_a_connection_has_the_used_attributes_and_methods() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    assigned = set(re.findall(r"self\.(\w+)(?:: [^=]+)? = ", source))
    assert assigned >= {"cycle", "flow", "scope", "transport", "timeout_keep_alive_task", "pipeline", "parser"}
    assert list(inspect.signature(HttpToolsProtocol._unset_keepalive_if_required).parameters) == ["self"]
    for name in ("data_received", "connection_made", "connection_lost", "eof_received", "pause_writing", "shutdown"):
        assert callable(getattr(HttpToolsProtocol, name))
    assert {"pause_reading", "resume_reading"} <= vars(FlowControl).keys()
    assert set(re.findall(r"self\.(\w+) = ", inspect.getsource(FlowControl))) >= {"read_paused", "write_paused"}


def test_status_lines_are_whole_lines() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert set(STATUS_LINE) >= {400, 401, 404, 408, 413, 429, 431, 500, 503, 504}
    assert uvicorn_http.STATUS_LINE is STATUS_LINE
