"""Slips that only the API server, a pod or nobody would notice: the chart refuses each with a sentence."""

import re
from pathlib import Path
from typing import Any

import pytest
from fsspec.registry import known_implementations
from pointsman_lora_server.engine.command import _FORBIDDEN_OPTIONS, _SHORT_OPTIONS

from deploy.helm.render import CHART, HelmError
from deploy.supply.images import IMAGES, locked
from tests.deploy.kubernetes_schemas import VERSIONS, fields
from tests.deploy.random_values import SCHEMA
from tests.deploy.rendering import needs_helm, render

Object = dict[str, Any]
HF: Object = {"name": "a", "kind": "cuda", "gpu": {"count": 1}, "model": {"source": "hf://a/b"}}
SEED: Object = {"name": "a", "image": "registry.example/a:1", "folder": "/a"}
POLICY: Object = {"policy": {"files": {"pointsman.yaml": "models: {}"}}}
OPTIONS = sorted({*_FORBIDDEN_OPTIONS, *_SHORT_OPTIONS})


def engine(**more: Any) -> Object:
    return {"engines": [{**HF, **more}]}


def gateway(**more: Any) -> Object:
    return {"gateway": more}


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        # resources
        (
            engine(resources={"requests": {"memory": "24Gi"}}),
            "'a': resources: the request of 24Gi memory is more than the limit of 12Gi: lower it or raise the limit",
        ),
        (gateway(resources={"limits": {"cpu": "500m"}}), "gateway.resources: the request of 1 cpu is more than"),
        (
            engine(resources={"requests": {"vpc.amazonaws.com/efa": "4"}}),
            "vpc.amazonaws.com/efa needs a limit that equals its request of 4",
        ),
        (engine(resources={"limits": {"nvidia.com/gpu": "2"}}), "gpu.count is 1, and resources have another number"),
        (gateway(resources={"requests": {"cpu": -1}}), "minimum: got -1, want 0"),
        # GPUs and vLLM's options
        (engine(extraArgs=["--tensor-parallel-size=4", "-pp 2"]), "extraArgs use 8 GPUs, and the engine has 1"),
        (engine(extraArgs=["--max_model_len=8"]), "--max-model-len is for the lora-server alone to set: use model.max"),
        (engine(model={}), "the image for GPUs has no model: set model.source"),
        (engine(model={"source": "hff://a/b"}), "engines: 'a': model.source: the image has no client for hff://"),
        (
            {**engine(), "adapters": {"store": {"url": "hf://a/b"}}},
            "adapters.store.url: versions cannot be stored at hf://",
        ),
        ({"adapters": {"store": {"url": "https://a/b"}}}, "adapters.store.url: versions cannot be stored at https://"),
        ({"adapters": {"store": {"url": "oss://a/b"}}}, "adapters.store.url: the image has no client for oss://"),
        (
            engine(model={"source": "oss://a/b"}, container={"image": "registry.example/mine:1"}),
            "engines: 'a': model.source: the image has no client for oss://",
        ),
        (
            engine(gpu={"count": 2}, resources={"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}),
            "gpu.count is 2, and resources have another number",
        ),
        (engine(kind="cpu", gpu={"count": 0}, nodes=2), "only engines with GPUs run on several nodes"),
        (
            {"retriever": {"gpu": {"count": 1}, "milvus": {"url": "http://milvus:19530"}}},
            "retriever.gpu: the vectors are in Milvus, and nothing would use the GPU",
        ),
        # names that are too long for the labels that controllers make of them
        (engine(name="a" * 39), "at '/engines/0/name'"),
        (engine(name="a" * 31, nodes=2), "whose name may have 30 characters"),
        ({"training": {"name": "a" * 40, "run": "b" * 20}}, "would have more than 63 characters"),
        # names of fields
        (gateway(pod={"nodeSelctor": {"a": "b"}}), "invalid propertyName 'nodeSelctor'"),
        (gateway(container={"volumeMount": []}), "invalid propertyName 'volumeMount'"),
        (gateway(pod={"tolerations": [{"kye": "a"}]}), "'kye' not allowed"),
        (gateway(strategy={"rollingupdate": {}}), "'rollingupdate' not allowed"),
        (engine(updateStrategy={"type": "Never"}), "updateStrategy/type"),
        (engine(keda={"authenticationRef": {"nme": "a"}}), "'nme' not allowed"),
        (
            gateway(httpRoute={"enabled": True, "parentRefs": [{"name": "a", "namespce": "b"}]}),
            "'namespce' not allowed",
        ),
        ({"extraObjects": [{}]}, "missing properties 'apiVersion', 'kind', 'metadata'"),
        # names of objects, labels, hosts, images and addresses
        ({"tls": {"mode": "existing", "secrets": {"gateway": ""}}}, "/tls/secrets/gateway"),
        ({"images": {"pullSecrets": [{}]}}, "missing property 'name'"),
        ({"images": {"registry": "https://registry.example"}}, "/images/registry"),
        ({"images": {"tag": "v 1"}}, "/images/tag"),
        ({"commonLabels": {"my label": "a"}}, "invalid propertyName 'my label'"),
        (gateway(podAnnotations={"my key": "a"}), "invalid propertyName 'my key'"),
        (gateway(ingress={"enabled": True, "hosts": ["-a"]}), "/gateway/ingress/hosts/0"),
        (gateway(ingress={"enabled": True, "hosts": ["a"], "paths": []}), "/gateway/ingress/paths"),
        ({"networkPolicy": {"clients": {"cidrs": ["10.0.0.0/33"]}}}, "/networkPolicy/clients/cidrs/0"),
        ({"policy": {"configMaps": {"policy": ["a", "a"]}}}, "items at 0 and 1 are equal"),
        ({"policy": {"files": {"a b.yaml": ""}}}, "invalid propertyName 'a b.yaml'"),
        # what services would only say when they start
        ({"policy": {"files": {"model.yaml": ""}}}, "there is neither pointsman.yaml nor models.yaml"),
        ({"policy": {"files": {"models.yaml": "", "paths.yaml": ""}}}, "neither pointsman.yaml nor tasks.yaml"),
        ({"policy": {"files": {"pointsman.yaml": "", "tasks.yaml": ""}}}, "tasks.yaml a part of it"),
        (
            {**POLICY, "retriever": {"embeddingConfig": "models.yaml"}},
            "retriever.embeddingConfig: the policy has no file",
        ),
        ({**POLICY, "retriever": {"collections": "a.yaml"}}, "retriever.collections: the policy has no file a.yaml"),
        ({"seed": {"adapters": [SEED, SEED]}}, "two containers of 'lora-server' are called copy-a"),
        ({"tracing": {"endpoint": "http://otel:4317"}}, "usually 4318"),
        # variables that would undo a value
        (gateway(env={"POINTSMAN_GATEWAY_AUTH": "off"}), "POINTSMAN_GATEWAY_AUTH is the chart's: use gateway.auth"),
        (gateway(env={"POINTSMAN_GATEWAY_HTTP_LISTEN": "0.0.0.0:80"}), "POINTSMAN_GATEWAY_HTTP_LISTEN is the chart's"),
    ],
    ids=lambda part: part[:40] if isinstance(part, str) else "",
)
def test_a_slip_is_refused_with_a_sentence(tmp_path: Path, values: Object, reason: str) -> None:
    with pytest.raises(HelmError, match=re.escape(reason)):
        render(tmp_path, values)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_vllm_that_the_lora_server_refuses_are_refused_at_once(tmp_path: Path, option: str) -> None:
    with pytest.raises(HelmError, match=f"extraArgs: {option} is for the lora-server alone to set"):
        render(tmp_path, engine(extraArgs=[f"{option}=1"]))


def test_a_model_that_the_defaults_name_can_be_downloaded_past_the_policies(tmp_path: Path) -> None:
    defaults = {"kind": "cuda", "gpu": {"count": 1}, "model": {"source": "hf://a/b"}}
    values = {"engineDefaults": defaults, "engines": [{"name": "a"}], "networkPolicy": {"enabled": True}}
    assert render(tmp_path, values).has("NetworkPolicy", "model-to-outside")


def test_more_rules_for_the_seed_are_rendered_with_a_redis_of_the_chart_too(tmp_path: Path) -> None:
    rule = {"ports": [{"port": 8443}]}
    policy = {"enabled": True, "egress": {"more": {"seed": [rule]}}}
    cluster = render(tmp_path, {"networkPolicy": policy, "seed": {"adapters": [SEED]}})
    found = cluster.get("NetworkPolicy", "seed-to-outside")
    assert found
    assert found["spec"]["egress"] == [rule]


@pytest.mark.parametrize(
    "values",
    [
        {"images": {"pullSecrets": [{"name": "a.name.with.dots-" + "a" * 60}]}},
        {"networkPolicy": {"enabled": True, "monitoringNamespace": "a" * 63}},
        engine(extraArgs=["--tensor-parallel-size=4"], gpu={"count": 4}),
        engine(model={"source": "image"}, image="registry.example/mine:1"),
        engine(model={"source": "oss://a/b"}, image="registry.example/mine:1"),
        engine(model={"source": "image"}, container={"image": "registry.example/mine:1"}),
        engine(container={"image": "registry.example/mine:1"}) | {"adapters": {"store": {"url": "oss://a/b"}}},
        *[engine(model={"source": f"{scheme}://a/b"}) for scheme in ("s3a", "file", "https", "webhdfs", "hf")],
        *[{"adapters": {"store": {"url": f"{scheme}://a/b"}}} for scheme in ("s3a", "file", "webhdfs", "abfss")],
        engine(gpu={"count": 4}, resources={"requests": {"nvidia.com/gpu": "4"}}),
        {"retriever": {"gpu": {"count": 1}, "resources": {"requests": {"nvidia.com/gpu": 1}}}},
        engine(gpu={"count": 0}, resources={"limits": {"example.com/gpu-memory": 8}}),
        engine(gpu={"count": 0}, model={"source": "pvc:a"}, attach={"url": "http://vllm:8000"}),
        engine(extraArgs=["--data-parallel-size=4", "--data-parallel-size-local=1"]),
        engine(gpu={"count": 4}, extraArgs=["--tensor_parallel_size=4"]),
        engine(resources={"requests": {"memory": "11000Mi", "cpu": 1.5}, "limits": {"memory": "11Gi", "cpu": "2500m"}}),
        gateway(env={"POINTSMAN_GATEWAY_EXT_PROC_LISTEN": "127.0.0.1:9"}),
        gateway(ingress={"enabled": True, "hosts": ["*.example.com"]}),
    ],
)
def test_values_that_look_unusual_are_accepted(tmp_path: Path, values: Object) -> None:
    assert render(tmp_path, values).workload("gateway")


def test_clients_of_the_accepted_storage_are_in_the_image() -> None:
    checks = (CHART / "templates" / "checks-engines.yaml").read_text()
    lists = re.findall(r"\$written := (list .+) }}|concat \$written \((list .+?)\)", checks)
    schemes = {scheme for found in lists for scheme in re.findall(r'"(\w+)"', "".join(found))}
    assert schemes >= {"s3", "s3a", "file", "webhdfs", "hf", "https"}
    packages = {each.name for each in locked(next(image for image in IMAGES if image.name == "lora-server").lock)}
    classes = {name: known["class"] for name, known in known_implementations.items()}
    classes["abfss"] = "adlfs.AzureBlobFileSystem"  # an entry point of adlfs
    modules = {classes[scheme].partition(".")[0] for scheme in schemes}
    assert {module.replace("_", "-") for module in modules} <= packages


def test_the_schema_knows_every_field_of_pods_and_containers() -> None:
    definitions = SCHEMA["$defs"]
    known = {name: set(definitions[name]["propertyNames"]["enum"]) for name in ("pod", "container")}
    assert known["pod"] == fields("PodSpec", VERSIONS[-1])
    assert known["container"] == fields("Container", VERSIONS[-1]) - {"name"}


def test_whole_numbers_for_the_export_stay_whole_and_tracing_settings_can_be_replaced(tmp_path: Path) -> None:
    values = {
        "export": {"target": "s3://records/a", "env": {"POINTSMAN_EXPORT_MAX_ROWS": 1000000}},
        "tracing": {"endpoint": "http://otel:4318"},
        "gateway": {"env": {"OTEL_TRACES_SAMPLER_ARG": "1"}},
    }
    cluster = render(tmp_path, values)
    workload = cluster.workload("gateway")
    (sidecar,) = workload.pod["initContainers"]
    assert cluster.environment(workload, sidecar)["POINTSMAN_EXPORT_MAX_ROWS"] == "1000000"
    assert cluster.environment(workload, workload.pod["containers"][0])["OTEL_TRACES_SAMPLER_ARG"] == "1"
