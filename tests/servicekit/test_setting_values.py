"""A setting with an invalid value is an error of one line at the start of each service."""

import os
import subprocess
import sys

import pytest
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_lora_server.settings import Settings as LoraSettings
from pointsman_retriever.settings import Settings as RetrieverSettings
from pointsman_servicekit.setting_values import WrongSetting, require_address, require_grpc_address

SERVICES = [("gateway", "GATEWAY"), ("lora_server", "LORA"), ("retriever", "RETRIEVER")]
ADDRESS = "write HOST:PORT, such as 127.0.0.1:8080 or [::]:8080, with a port from 0 to 65535"
LOG_LEVEL = ("LOG_LEVEL", "verbose", "Input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'")
LISTENS = [
    (GatewaySettings, "http_listen"),
    (GatewaySettings, "grpc_listen"),
    (GatewaySettings, "metrics_listen"),
    (RetrieverSettings, "listen"),
    (RetrieverSettings, "metrics_listen"),
    (LoraSettings, "listen"),
    (LoraSettings, "metrics_listen"),
    (LoraSettings, "engine_listen"),
]


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:65535", "[::]:9082", "[fd00::5]:8101", ":8080"])
def test_addresses_with_a_numeric_port_are_accepted(listen: str) -> None:
    assert require_address(listen) == require_grpc_address(listen) == listen


@pytest.mark.parametrize(
    "listen", ["", "8080", "localhost", "localhost:", "[::]", "a:http", "a:65536", "a:-1", "a: 80", "a:8_0", "a:\u0664"]
)
def test_an_address_without_a_numeric_port_is_refused(listen: str) -> None:
    for require in (require_address, require_grpc_address):
        with pytest.raises(ValueError, match=r"write HOST:PORT, such as 127\.0\.0\.1:8080 or"):
            require(listen)


def test_a_unix_socket_is_an_address_for_grpc_only() -> None:
    assert require_grpc_address("unix:/run/pointsman.sock") == "unix:/run/pointsman.sock"
    with pytest.raises(ValueError, match="write HOST:PORT"):
        require_address("unix:/run/pointsman.sock")


@pytest.mark.parametrize(("settings", "name"), LISTENS)
def test_each_listen_address_is_checked(settings: type[GatewaySettings], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}\n.*write HOST:PORT"):
        settings.model_validate({name: "127.0.0.1:http"})
    assert getattr(settings.model_validate({name: "127.0.0.1:0"}), name) == "127.0.0.1:0"


def test_addresses_that_have_a_default_elsewhere_may_be_empty() -> None:
    assert GatewaySettings(metrics_listen="").metrics_listen == ""
    assert LoraSettings(engine_listen="").engine_listen == "127.0.0.1:8101"


def test_several_workers_cannot_listen_at_a_unix_socket() -> None:
    with pytest.raises(ValueError, match="write HOST:PORT, or set POINTSMAN_GATEWAY_WORKERS=1"):
        GatewaySettings(grpc_listen="unix:/run/pointsman.sock", workers=2)
    assert GatewaySettings(grpc_listen="unix:/run/pointsman.sock").workers == 1


def test_each_wrong_value_is_named_with_its_variable() -> None:
    errors: list[dict[str, object]] = [
        {"msg": "Value error, write a name", "loc": ("data_roots", 0), "input": "5"},
        {"msg": "Value error, APP_A and APP_B exclude each other", "loc": (), "input": {"a": "secret"}},
    ]
    text = str(WrongSetting("APP_", errors))
    assert text == "APP_DATA_ROOTS is '5': write a name; APP_A and APP_B exclude each other"


@pytest.mark.parametrize(("setting", "value", "remedy"), [("METRICS_LISTEN", "localhost", ADDRESS), LOG_LEVEL])
@pytest.mark.parametrize(("service", "prefix"), SERVICES)
def test_a_service_with_a_wrong_value_says_so_in_one_line(
    service: str, prefix: str, setting: str, value: str, remedy: str
) -> None:
    environment = {**os.environ, f"POINTSMAN_{prefix}_{setting}": value}
    command = [sys.executable, "-m", f"pointsman_{service}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    message = f"pointsman_{service}: POINTSMAN_{prefix}_{setting} is '{value}': {remedy}\n"
    assert (ended.returncode, ended.stderr) == (1, message)
