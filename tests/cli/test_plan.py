import socket
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import pytest
from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import UsageError
from pointsman_cli.example import load_example
from pointsman_cli.up.plan import Addresses, Programs, UpPlan, choose_addresses, make_plan, with_workers
from pointsman_cli.up.supervisor import REAPER_GRACE_SECONDS
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_lora_server.settings import Settings as LoraSettings
from pointsman_retriever.settings import Settings as RetrieverSettings
from pydantic_settings import BaseSettings

SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "lora-server": LoraSettings,
    "retriever": RetrieverSettings,
}
ADDRESSES = Addresses("127.0.0.1:8080", "127.0.0.1:8081", *(f"127.0.0.1:{port}" for port in range(9001, 9006)))


@pytest.fixture
def plan(example_folder: Path) -> UpPlan:
    programs = Programs(Path("/engine/python"), Path("/valkey-server"), python="/services/python")
    return make_plan(load_example(example_folder), DataDir(Path("/home/.pointsman")), ADDRESSES, programs)


def test_dependencies_start_first(plan: UpPlan) -> None:
    assert [service.name for service in plan.in_order] == ["valkey", "retriever", "lora-server", "gateway"]


def test_every_listen_address_is_passed_to_the_services_that_call_it(plan: UpPlan, example_folder: Path) -> None:
    assert plan.retriever
    assert plan.lora_server
    retriever, lora_server, gateway = (
        plan.retriever.environment,
        plan.lora_server.environment,
        plan.gateway.environment,
    )

    assert gateway["POINTSMAN_GATEWAY_RETRIEVER"] == retriever["POINTSMAN_RETRIEVER_LISTEN"] == plan.retriever.address
    assert gateway["POINTSMAN_GATEWAY_REDIS_URL"] == lora_server["POINTSMAN_LORA_REDIS_URL"]
    assert gateway["POINTSMAN_LORA_SERVER"] == lora_server["POINTSMAN_LORA_LISTEN"] == plan.lora_server.address
    assert lora_server["POINTSMAN_LORA_REDIS_URL"] == f"unix://{plan.valkey.address}?db=0"
    assert gateway["POINTSMAN_GATEWAY_HTTP_LISTEN"] == plan.gateway.address == "127.0.0.1:8080"
    assert gateway["POINTSMAN_GATEWAY_GRPC_LISTEN"] == plan.gateway_grpc == "127.0.0.1:8081"
    assert gateway["POINTSMAN_GATEWAY_CONFIG"] == str(example_folder / "config")


def test_every_service_may_end_by_itself_before_it_is_killed(plan: UpPlan) -> None:
    for service in plan.in_order:
        needed = shutdown_seconds(SETTINGS[service.name], service.environment) if service.name in SETTINGS else 0.0
        assert needed < service.grace < REAPER_GRACE_SECONDS, service.name


def shutdown_seconds(settings: type[BaseSettings], environment: Mapping[str, str]) -> float:
    fields = {name: settings.model_fields[name].default for name in ("shutdown_delay", "shutdown_timeout")}
    prefix = settings.model_config["env_prefix"]
    return sum(float(environment.get(f"{prefix}{name}".upper(), default)) for name, default in fields.items())


def test_the_gateway_may_have_several_workers(plan: UpPlan) -> None:
    assert "POINTSMAN_GATEWAY_WORKERS" not in plan.gateway.environment
    assert with_workers(plan.gateway, 3).environment["POINTSMAN_GATEWAY_WORKERS"] == "3"


def test_the_gateway_has_a_wal_folder_in_the_data_directory(plan: UpPlan) -> None:
    assert plan.gateway.environment["POINTSMAN_GATEWAY_WAL_DIR"] == "/home/.pointsman/wal"


def test_gateway_and_retriever_embed_with_the_same_model(plan: UpPlan) -> None:
    assert plan.retriever
    assert (
        plan.gateway.environment["POINTSMAN_GATEWAY_EMBEDDING_MODEL"]
        == plan.retriever.environment["POINTSMAN_RETRIEVER_EMBEDDING_MODEL"]
        == "/home/.pointsman/models/minilm"
    )


def test_the_engine_serves_the_base_model_from_the_data_directory(plan: UpPlan) -> None:
    assert plan.lora_server
    environment = plan.lora_server.environment

    assert environment["POINTSMAN_LORA_BASE_MODEL"] == "/home/.pointsman/models/smollm2-135m"
    assert environment["POINTSMAN_LORA_SERVED_MODEL_NAME"] == "smollm2-135m"
    assert environment["POINTSMAN_LORA_ENGINE_PYTHON"] == "/engine/python"
    assert environment["POINTSMAN_LORA_ENGINE_LISTEN"] == ADDRESSES.engine


def test_valkey_persists_its_data_and_listens_on_no_port(plan: UpPlan) -> None:
    program = " ".join(plan.valkey.program)

    assert "--port 0 --unixsocket /home/.pointsman/valkey/valkey.sock --unixsocketperm 700" in program
    assert "--dir /home/.pointsman/valkey --appendonly yes" in program


def test_services_run_in_this_python_and_not_in_the_engines(plan: UpPlan) -> None:
    modules = {service.name: service.program for service in plan.in_order if service.name != "valkey"}

    assert modules == {
        "retriever": ("/services/python", "-m", "pointsman_retriever"),
        "lora-server": ("/services/python", "-m", "pointsman_lora_server"),
        "gateway": ("/services/python", "-m", "pointsman_gateway"),
    }


def test_chosen_addresses_are_free_and_different() -> None:
    addresses = astuple(choose_addresses("127.0.0.1:0", "127.0.0.1:0"))

    assert len(set(addresses)) == 7
    for address in addresses:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", int(address.rpartition(":")[2])))


@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_a_port_in_use_is_named_with_the_option_that_changes_it(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        apis = {"--http": "127.0.0.1:0", "--grpc": "127.0.0.1:0", option: f"127.0.0.1:{port}"}

        with pytest.raises(UsageError, match=f"port {port} is taken by another program; choose another with {option}"):
            choose_addresses(apis["--http"], apis["--grpc"])


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", ":8080"])
def test_an_invalid_address_is_rejected_with_a_valid_example(address: str) -> None:
    with pytest.raises(UsageError, match=rf"^--http is '{address}': write .* such as 127\.0\.0\.1:8080"):
        choose_addresses(address, "127.0.0.1:0")
