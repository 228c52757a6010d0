"""Errors of the Kubernetes API, of what is between it and a pod, and of the pod's service account, as ApiFailed."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from pointsman_servicekit.kubernetes import ApiFailed, get_or_none, open_api

from tests.kubernetes_api import KubernetesDouble, running_kubernetes

GET = "GET /api/v1/namespaces/pointsman/configmaps/names"
JSON = {"content-type": "application/json"}


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesDouble]:
    async with running_kubernetes(tmp_path) as double:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", double.host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(double.port))
        yield double


async def read(api: KubernetesDouble, name: str = "names") -> object:
    from lightkube.resources.core_v1 import ConfigMap

    async with open_api(api.service_account) as client:
        return await get_or_none(client, ConfigMap, name)


async def failure(api: KubernetesDouble) -> ApiFailed:
    with pytest.raises(ApiFailed) as caught:
        await read(api)
    return caught.value


async def test_a_missing_object_is_none_and_a_present_one_is_returned(api: KubernetesDouble) -> None:
    assert await read(api) is None
    api.put("api/v1", "configmaps", "pointsman", {"metadata": {"name": "names"}, "data": {}})
    assert await read(api) is not None


async def test_a_kind_that_the_cluster_does_not_know_is_an_error_and_not_a_missing_object(
    api: KubernetesDouble,
) -> None:
    api.kinds.clear()
    failed = await failure(api)
    assert failed.status == 404
    assert not failed.is_missing


async def test_a_missing_permission_is_recognized(api: KubernetesDouble) -> None:
    api.forbidden.add(("get", "configmaps"))
    assert (await failure(api)).is_forbidden


@pytest.mark.parametrize(
    ("status", "headers", "body", "message"),
    [
        (502, {"content-type": "text/html"}, b"<p>Bad gateway", f"the Kubernetes API answered 502 to {GET}"),
        (502, JSON, b"<p>Bad gateway", f"the Kubernetes API answered 502 to {GET}"),
        (503, JSON, b'{"kind": "Status", "reason": "Busy"}', "the Kubernetes API answered: Busy"),
        (200, JSON, b"<p>Welcome", "the Kubernetes API sent an object that cannot be read"),
    ],
)
async def test_unreadable_answers_are_failures_with_their_status(
    api: KubernetesDouble, status: int, headers: Mapping[str, str], body: bytes, message: str
) -> None:
    api.garbled = status, headers, body
    failed = await failure(api)
    assert failed.message.startswith(message)
    assert failed.status == (status if status >= 400 else 0)


async def test_a_token_that_disappears_is_a_failure(api: KubernetesDouble) -> None:
    async def read_without_token() -> None:
        from lightkube.resources.core_v1 import ConfigMap

        async with open_api(api.service_account) as client:
            (api.service_account / "token").unlink()
            await client.get(ConfigMap, "names")

    with pytest.raises(ApiFailed, match="token cannot be read"):
        await read_without_token()


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ("[]", "the kubeconfig names me, and does not define it"),
        (
            "[{name: me, user: {exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: not-here}}}]",
            "the kubeconfig's user cannot log in: .*not-here",
        ),
    ],
)
async def test_a_kubeconfig_that_gives_no_token_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: str, message: str
) -> None:
    (tmp_path / "kubeconfig").write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: me}}], "
        f"clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'}}}}], users: {users}}}"
    )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    async def read_as_kubectl() -> None:
        from lightkube.resources.core_v1 import ConfigMap

        async with open_api(None) as client:
            await client.get(ConfigMap, "names")

    with pytest.raises(ApiFailed, match=message):
        await read_as_kubectl()
