"""compose.yaml: valid by the compose specification's schema, and consistent with images, settings and monitoring."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_lora_server.settings import Settings as LoraSettings
from pointsman_retriever.settings import Settings as RetrieverSettings
from pointsman_servicekit.service_tokens import Role, parse_peers

from deploy.supply.images import PROJECT
from tests.deploy.manifest_lint.rollouts import shutdown_seconds

FILE = PROJECT / "compose.yaml"
SETTINGS = {
    f"{settings.model_config['env_prefix']}{field.upper()}"
    for settings in (GatewaySettings, RetrieverSettings, LoraSettings)
    for field in settings.model_fields
}
OURS = ("gateway", "retriever", "lora-server-cpu", "lora-server-gpu")


def interpolated(content: Any, **given: str) -> Any:
    """Replaces ${NAME:-default} and ${NAME:?error} in all strings: by the given value, else by the default, or by 64
    zeros for a required variable.
    """

    def value(found: re.Match[str]) -> str:
        return given.get(found[1]) or (found[3] if found[2] == "-" else "0" * 64)

    match content:
        case dict():
            return {key: interpolated(each, **given) for key, each in content.items()}
        case list():
            return [interpolated(each, **given) for each in content]
        case str():
            return re.sub(r"\$\{(\w+):([-?])([^{}]*)\}", value, content)
    return content


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(interpolated(yaml.safe_load(FILE.read_text())))


def environment(service: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in service.get("env_file", ()):
        lines = (PROJECT / file).read_text().splitlines()
        found |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return found | {name: str(value) for name, value in service.get("environment", {}).items()}


def mounts(service: dict[str, Any]) -> dict[str, str]:
    return {target: source for source, target, *_ in (each.split(":") for each in service.get("volumes", ()))}


def test_it_is_valid_by_the_specifications_schema(tmp_path: Path) -> None:
    plain = tmp_path / "compose.json"  # with the YAML anchors resolved
    plain.write_text(json.dumps(yaml.safe_load(FILE.read_text())))
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(plain)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_images_are_ours_by_name_or_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"(pointsman-[a-z-]+|docker\.io/[a-z/]+):v?\d+\.\d+\.\d+(-\w+)?", service["image"]), name
        if "build" in service:
            assert name in OURS
            assert (PROJECT / service["build"]["dockerfile"]).is_file()


def test_profiles_add_an_engine_or_notifications(compose: dict[str, Any]) -> None:
    profiles = {name: service["profiles"] for name, service in compose["services"].items() if "profiles" in service}
    assert profiles == {"lora-server-cpu": ["cpu"], "lora-server-gpu": ["gpu"], "alertmanager": ["alerts"]}


@pytest.mark.parametrize("name", OURS)
def test_every_setting_exists_and_writes_only_to_volumes(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    variables = environment(service)
    ours = {each for each in variables if each.startswith(("POINTSMAN_GATEWAY_", "POINTSMAN_RETRIEVER_"))}
    ours |= {each for each in variables if each.startswith("POINTSMAN_LORA_") and each != "POINTSMAN_LORA_SERVER"}
    assert ours - SETTINGS == set()
    given = {*mounts(service), *(each["target"] for each in service["configs"])}
    folders = [value for each, value in variables.items() if each in ours and value.startswith(("/var/", "/etc/"))]
    assert folders
    assert [path for path in folders if not any(path == at or path.startswith(f"{at}/") for at in given)] == []


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_the_time_to_answer_before_it_is_killed(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert float(service["stop_grace_period"].removesuffix("s")) >= shutdown_seconds(
        name.removesuffix("-cpu").removesuffix("-gpu"), environment(service)
    )


def test_every_mounted_file_exists_and_every_volume_is_declared(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for source in mounts(service).values():
            if source.startswith("."):
                assert (PROJECT / source).exists() or source == "./base-model", f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"


def test_named_volumes_of_unprivileged_images_belong_to_their_user(compose: dict[str, Any]) -> None:
    services = compose["services"]
    writable = {v for name in OURS for v in mounts(services[name]).values() if not v.startswith(".")}
    assert {source: target for target, source in mounts(services["folders"]).items()}.keys() == writable
    assert {*services["folders"]["entrypoint"][2:]} == {*mounts(services["folders"])}
    assert all("folders" in services[name]["depends_on"] for name in OURS)


def test_all_containers_are_confined_and_ports_stay_on_this_machine(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("read_only") or name == "folders", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_prometheus_scrapes_every_service_at_its_metrics_port(compose: dict[str, Any]) -> None:
    jobs = {
        job["job_name"].removeprefix("pointsman-")
        for job in yaml.safe_load((PROJECT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    }
    targets = {
        file.stem: yaml.safe_load(file.read_text())[0]["targets"]
        for file in (PROJECT / "deploy/compose/targets").iterdir()
    }
    assert targets.keys() == jobs
    variables = {name: environment(compose["services"][name]) for name in OURS}
    ports = {
        "gateway": variables["gateway"]["POINTSMAN_GATEWAY_METRICS_LISTEN"],
        "retriever": variables["retriever"]["POINTSMAN_RETRIEVER_METRICS_LISTEN"],
        "lora-server": variables["lora-server-cpu"]["POINTSMAN_LORA_METRICS_LISTEN"],
        "engine": variables["lora-server-gpu"]["POINTSMAN_LORA_ENGINE_LISTEN"],
    }
    hosts = {"engine": "lora-server"}
    assert targets == {job: [f"{hosts.get(job, job)}:{at.rpartition(':')[2]}"] for job, at in ports.items()}


def test_prometheus_reaches_the_alertmanager_in_its_own_network(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((PROJECT / "deploy/prometheus/prometheus.yml").read_text())
    (manager,) = config["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["127.0.0.1:9093"]}]
    assert compose["services"]["alertmanager"]["network_mode"] == "service:prometheus"
    assert "127.0.0.1:9093:9093" in compose["services"]["prometheus"]["ports"]


def test_no_two_profiles_share_a_volume_and_no_password_has_a_default(compose: dict[str, Any]) -> None:
    cpu, gpu = (set(mounts(compose["services"][f"lora-server-{kind}"]).values()) for kind in ("cpu", "gpu"))
    assert not {volume for volume in cpu & gpu if not volume.startswith(".")}
    assert not re.findall(r"\$\{\w*(?:PASSWORD|TOKEN):-", FILE.read_text())


def test_an_engine_on_gpus_gets_their_number_its_context_window_and_arguments() -> None:
    given = {"POINTSMAN_GPUS": "8", "POINTSMAN_MAX_MODEL_LEN": "32768", "POINTSMAN_ENGINE_ARGS": "--enforce-eager"}
    service = interpolated(yaml.safe_load(FILE.read_text()), **given)["services"]["lora-server-gpu"]
    variables = environment(service)
    assert variables["POINTSMAN_LORA_ENGINE_ARGS"] == "--tensor-parallel-size=8 --enforce-eager"
    assert variables["POINTSMAN_LORA_MAX_MODEL_LEN"] == "32768"
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["count"] == "8"
    assert service["shm_size"] == "20gb"


def test_grafana_gets_the_datasource_and_the_dashboards(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    provisioning = PROJECT / mounts(grafana)["/etc/grafana/provisioning"]
    wanted = {name for file in provisioning.rglob("*.yml") for name in re.findall(r"\$\{(\w+)\}", file.read_text())}
    assert wanted
    assert wanted <= grafana["environment"].keys()
    dashboards = mounts(grafana)[grafana["environment"]["POINTSMAN_DASHBOARDS"]]
    assert list((PROJECT / dashboards).glob("*.json"))


def test_the_tokens_are_those_that_the_services_parse(compose: dict[str, Any]) -> None:
    peers = parse_peers(compose["configs"]["peers"]["content"].replace("0" * 64, "1" * 64, 1))
    assert {(peer.name, peer.role) for peer in peers.values()} == {("gateway", Role.ADMIN), ("cli", Role.ADMIN)}


def test_env_example_names_every_variable_without_a_default(compose: dict[str, Any]) -> None:
    required = set(re.findall(r"\$\{(\w+):\?", FILE.read_text()))
    named = set(re.findall(r"^#? ?(\w+)=", (PROJECT / "deploy/compose/env.example").read_text(), re.MULTILINE))
    assert required <= named
    assert named - {"OPENAI_API_KEY"} <= set(re.findall(r"\$\{(\w+)", FILE.read_text()))
