"""Rules for the number of replicas: set by one autoscaler, or by the manifest."""

from collections import Counter
from collections.abc import Iterator

from tests.deploy.manifest_lint.cluster import Cluster, Fault, Object, where


def one_scaler_each(cluster: Cluster) -> Iterator[Fault]:
    scalers = cluster.all("HorizontalPodAutoscaler", "ScaledObject")
    for target, count in Counter(_target(scaler) for scaler in scalers).items():
        if count > 1:
            yield Fault("two autoscalers", target, "would undo each other's work")


def replicas_by_the_scaler(cluster: Cluster) -> Iterator[Fault]:
    for scaler in cluster.all("HorizontalPodAutoscaler", "ScaledObject"):
        kind, _, name = _target(scaler).partition("/")
        target = cluster.get(kind, name)
        if target and "replicas" in target["spec"]:
            yield Fault("replicas of the scaled", where(target), "each apply would set their number back")


def down_slowly(cluster: Cluster) -> Iterator[Fault]:
    for scaler in cluster.all("HorizontalPodAutoscaler", "ScaledObject"):
        down = _behavior(scaler).get("scaleDown", {})
        steps = down.get("policies", [])
        slow = all(step["type"] == "Pods" and step["value"] == 1 and step["periodSeconds"] >= 60 for step in steps)
        if down.get("stabilizationWindowSeconds", 0) < 300 or not steps or not slow:
            yield Fault("scales down in haste", where(scaler), str(down))


def several_gateways(cluster: Cluster) -> Iterator[Fault]:
    """Finds autoscalers that allow a single gateway, which a rolling update or a lost node would stop."""
    if not cluster.all("HorizontalPodAutoscaler"):
        return
    for scaler in cluster.all("HorizontalPodAutoscaler"):
        if scaler["spec"].get("minReplicas", 1) < 2:
            yield Fault("a single gateway", where(scaler), "minReplicas")


def _behavior(scaler: Object) -> Object:
    spec = scaler["spec"]
    of_keda = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    behavior: Object = spec.get("behavior") or of_keda.get("behavior") or {}
    return behavior


def _target(scaler: Object) -> str:
    reference = scaler["spec"]["scaleTargetRef"]
    return f"{reference.get('kind', 'Deployment')}/{reference['name']}"


RULES = (one_scaler_each, replicas_by_the_scaler, down_slowly, several_gateways)
