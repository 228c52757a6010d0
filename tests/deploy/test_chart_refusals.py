"""The chart rejects values that contradict each other or that nothing would use, with an error in plain words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm.render import HelmError
from tests.deploy.rendering import chart, needs_helm

Object = dict[str, Any]
GPUS: Object = {"name": "large", "kind": "cuda", "gpu": {"count": 8}, "model": {"source": "pvc:existing"}}
DOCUMENTS: Object = {"collection": "a", "image": "registry.example/a:1", "folder": "/a"}
ADAPTER: Object = {"name": "a", "folder": "/a"}
EXTERNAL: Object = {"mode": "external", "existingSecret": "my-redis"}


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"engines": [{"name": "a"}, {"name": "a"}]}, "'a' is there twice"),
        ({"engines": [{"name": "a", "kind": "cuda"}]}, "'a' is of kind cuda and has no GPU: set gpu.count"),
        ({"engines": [{"name": "a", "gpu": {"count": 1}}]}, "'a' is of kind cpu and would not use its GPUs"),
        (
            {"engines": [{**GPUS, "gpu": {"count": 2, "resource": "nvidia.com/mig-3g.40gb"}}]},
            "parts of GPUs cannot share a model: set gpu.count to 1",
        ),
        ({"engineDefaults": {"keda": {"enabled": True, "min": 5, "max": 2}}}, "keda.min is more than keda.max"),
        ({"redis": {"mode": "external"}}, "set redis.existingSecret to a Secret"),
        ({"tls": {"mode": "certManager"}}, "set tls.issuerRef.name"),
        ({"gateway": {"autoscaling": {"enabled": True, "min": 5, "max": 2}}}, "autoscaling: min is more than max"),
        ({"gateway": {"ingress": {"enabled": True}}}, "ingress: set hosts"),
        ({"gateway": {"autoscaling": None}}, "at '/gateway': missing property 'autoscaling'"),
        ({"engineDefaults": {"model": None}}, "at '/engineDefaults': missing property 'model'"),
        ({"tls": None}, "at '': missing property 'tls'"),
        ({"gateway": {"resources": {"requests": {"cpu": "1 core"}}}}, "requests/cpu"),
        ({"redis": {"image": ""}}, "image"),
        ({"gateway": {"httpRoute": {"enabled": True}}}, "gateway.httpRoute: set parentRefs"),
        ({"commonLabels": {"team": "two words"}}, "commonLabels/team"),
        (
            {"policy": {"files": {"pointsman.yaml": "a: 1"}, "configMaps": {"tasks": ["a"]}}},
            "policy: files and configMaps are two sources of one configuration",
        ),
        ({"policy": {"configMaps": {"tasks": ["a"]}}}, "policy.configMaps: the folders prompts and tasks belong to"),
        (
            {"retriever": {"enabled": False}, "seed": {"documents": [DOCUMENTS]}},
            "seed.documents: retriever.enabled is false",
        ),
        ({"engines": [], "seed": {"adapters": [ADAPTER]}}, "seed.adapters: there are no engines"),
        ({"retriever": {"milvus": {"secret": "milvus"}}}, "retriever.milvus: the secret is for the server in url"),
        ({"engines": [{"name": "a", "attach": {"store": "/a"}}]}, "'a': attach.secret and attach.store are of an"),
        (
            {"gateway": {"env": {"POINTSMAN_GATEWAY_REDIS_URL": ""}}},
            "gateway: the variable POINTSMAN_GATEWAY_REDIS_URL is the chart's: use redis.existingSecret",
        ),
        (
            {"engineDefaults": {"env": {"POINTSMAN_LORA_ENGINE_URL": "http://a"}}},
            "'local': the variable POINTSMAN_LORA_ENGINE_URL is the chart's: use attach.url",
        ),
        (
            {"gateway": {"pod": {"volumes": [{"name": "tmp", "emptyDir": {}}]}}},
            "two volumes of 'gateway' are called tmp",
        ),
        (
            {"retriever": {"pod": {"initContainers": [{"name": "retriever"}]}}},
            "two containers of 'retriever' are called retriever",
        ),
        (
            {"engineDefaults": {"container": {"env": [{"name": "POD_IP", "value": "::1"}]}}},
            "two variables of 'lora-server' are called POD_IP",
        ),
        (
            {
                "engines": [],
                "retriever": {"enabled": False},
                "redis": EXTERNAL,
                "backup": {"url": "s3://bucket/copies"},
            },
            "backup.url: there is nothing to copy",
        ),
        ({"retriever": {"milvus": {"url": "milvus:19530"}}}, "milvus/url"),
        ({"redis": {"podLabels": {"app.kubernetes.io/name": "a"}}}, "redis: the label app.kubernetes.io/name is the"),
        ({"commonLabels": {"app.kubernetes.io/version": "1"}}, "commonLabels: the label app.kubernetes.io/version is"),
    ],
    ids=lambda part: part[:30] if isinstance(part, str) else "",
)
def test_contradictions_are_refused_with_a_sentence(tmp_path: Path, values: Object, reason: str) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(HelmError, match=reason):
        chart("-f", str(tmp_path / "values.yaml"))
