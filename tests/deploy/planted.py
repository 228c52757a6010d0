"""Faults to insert into the rendered manifests: one small change each, and the rule that must report it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.deploy.manifest_lint.cluster import Cluster, Object

Plant = Callable[[Cluster], None]


@dataclass(frozen=True)
class Planted:
    rule: str
    how: str
    plant: Plant


PLANTED: list[Planted] = []


def fault(rule: str, how: str) -> Callable[[Plant], Plant]:
    def keep(plant: Plant) -> Plant:
        PLANTED.append(Planted(rule, how, plant))
        return plant

    return keep


def found(cluster: Cluster, kind: str, name: str) -> Object:
    object = cluster.get(kind, name)
    assert object, f"{kind}/{name}"
    return object


def spec(cluster: Cluster, kind: str, name: str) -> Any:
    return found(cluster, kind, name)["spec"]


def pod(cluster: Cluster, kind: str, name: str) -> Any:
    return spec(cluster, kind, name)["template"]["spec"]


def gateway(cluster: Cluster) -> Any:
    return pod(cluster, "Deployment", "gateway")["containers"][0]


def engine(cluster: Cluster) -> Any:
    return pod(cluster, "StatefulSet", "lora-server")["containers"][0]


def set_env(container: Any, name: str, value: str) -> None:
    container["env"] = [*(entry for entry in container["env"] if entry["name"] != name), {"name": name, "value": value}]


def retriever(cluster: Cluster) -> Any:
    return pod(cluster, "StatefulSet", "retriever")["containers"][0]


@contextmanager
def volume(cluster: Cluster, name: str) -> Iterator[Any]:
    yield next(v for v in pod(cluster, "Deployment", "gateway")["volumes"] if v["name"] == name)


# -- dangling references


@fault("no part-of label", "a policy that nobody finds")
def _(c: Cluster) -> None:
    del found(c, "NetworkPolicy", "default-deny")["metadata"]["labels"]


@fault("scale target", "an HPA for a Deployment that is not there")
def _(c: Cluster) -> None:
    spec(c, "HorizontalPodAutoscaler", "gateway")["scaleTargetRef"]["name"] = "gateways"


@fault("scale target", "a ScaledObject for the wrong kind")
def _(c: Cluster) -> None:
    spec(c, "ScaledObject", "lora-server")["scaleTargetRef"]["kind"] = "Deployment"


@fault("ConfigMap", "a volume of a ConfigMap that is not there")
def _(c: Cluster) -> None:
    with volume(c, "policy") as policy:
        policy["projected"]["sources"][0]["configMap"]["name"] = "pointsman-polices"


@fault("ConfigMap", "an environment from a ConfigMap that is not there")
def _(c: Cluster) -> None:
    engine(c)["envFrom"] = [{"configMapRef": {"name": "lora-settings"}}]


@fault("ConfigMap key", "an item that its ConfigMap has not")
def _(c: Cluster) -> None:
    with volume(c, "policy-prompts") as prompts:
        prompts["projected"]["sources"][0]["configMap"]["items"] = [{"key": "persona.md", "path": "persona.md"}]


@fault("Secret", "a secret that nobody is told to make")
def _(c: Cluster) -> None:
    gateway(c)["env"][0]["valueFrom"]["secretKeyRef"]["name"] = "redis"


@fault("Secret", "a key that its secret has not")
def _(c: Cluster) -> None:
    gateway(c)["env"][0]["valueFrom"]["secretKeyRef"]["key"] = "uri"


@fault("ServiceAccount", "an account that is not there")
def _(c: Cluster) -> None:
    pod(c, "StatefulSet", "retriever")["serviceAccountName"] = "retrievers"


@fault("claim", "a volume claim that is not there")
def _(c: Cluster) -> None:
    c.objects.remove(found(c, "PersistentVolumeClaim", "adapters-rwx"))


@fault("volume", "a mount of no volume")
def _(c: Cluster) -> None:
    gateway(c)["volumeMounts"].append({"name": "cache", "mountPath": "/var/cache"})


@fault("governing Service", "a StatefulSet whose Service has an address of its own")
def _(c: Cluster) -> None:
    spec(c, "Service", "retriever").pop("clusterIP")


@fault("own selector", "a Deployment that does not select its own pods")
def _(c: Cluster) -> None:
    spec(c, "Deployment", "gateway")["selector"]["matchLabels"]["tier"] = "front"


@fault("topology spread", "a spread of other pods")
def _(c: Cluster) -> None:
    pod(c, "Deployment", "gateway")["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] = {"app": "gateway"}


@fault("disruption budget", "a budget for nobody")
def _(c: Cluster) -> None:
    spec(c, "PodDisruptionBudget", "gateway")["selector"]["matchLabels"] = {"app": "gateway"}


# -- the network


@fault("Service selects nothing", "a Service whose label is spelt otherwise")
def _(c: Cluster) -> None:
    spec(c, "Service", "gateway")["selector"] = {"app": "gateway"}


@fault("targetPort", "a target port by a name that no container has")
def _(c: Cluster) -> None:
    spec(c, "Service", "gateway")["ports"][0]["targetPort"] = "web"


@fault("targetPort", "a target port by a number that no container has")
def _(c: Cluster) -> None:
    spec(c, "Service", "lora-server")["ports"][0]["targetPort"] = 8084


@fault("gRPC without headless Service", "gRPC behind one address")
def _(c: Cluster) -> None:
    spec(c, "Service", "gateway-grpc").pop("clusterIP")


@fault("NetworkPolicy selects nothing", "a policy for nobody")
def _(c: Cluster) -> None:
    spec(c, "NetworkPolicy", "retriever-from-gateway")["podSelector"]["matchLabels"] = {"app": "retriever"}


@fault("NetworkPolicy's peer is nobody", "a policy that lets nobody in")
def _(c: Cluster) -> None:
    spec(c, "NetworkPolicy", "retriever-from-gateway")["ingress"][0]["from"] = [
        {"podSelector": {"matchLabels": {"app": "gateway"}}}
    ]


@fault("NetworkPolicy's port", "a policy for a port that is not there")
def _(c: Cluster) -> None:
    spec(c, "NetworkPolicy", "retriever-from-gateway")["ingress"][0]["ports"][0]["port"] = 8092


@fault("no default-deny", "policies without the one that denies")
def _(c: Cluster) -> None:
    c.objects.remove(found(c, "NetworkPolicy", "default-deny"))


@fault("one-sided edge", "an edge that may be left and not entered")
def _(c: Cluster) -> None:
    c.objects.remove(found(c, "NetworkPolicy", "retriever-from-gateway"))


@fault("no way out", "gateways that reach no provider")
def _(c: Cluster) -> None:
    c.objects.remove(found(c, "NetworkPolicy", "gateway-to-outside"))


@fault("no way out", "lora-servers that reach no bucket")
def _(c: Cluster) -> None:
    spec(c, "NetworkPolicy", "lora-server-to-outside")["egress"][0]["ports"][0]["port"] = 80


@fault("traces are stopped", "an OTLP agent that no policy names")
def _(c: Cluster) -> None:
    set_env(retriever(c), "OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector.observability.svc:4317")


@fault("Redis is out of reach", "an external Redis that no policy names")
def _(c: Cluster) -> None:
    c.objects.remove(found(c, "StatefulSet", "valkey"))
    c.objects.remove(found(c, "Deployment", "valkey-proxy"))


@fault("names of the cluster only", "a DNS cache on the node that nobody may ask")
def _(c: Cluster) -> None:
    del spec(c, "NetworkPolicy", "names")["egress"][0]["to"][1:]


@fault("load balancer is kept out", "a load balancer whose addresses are in no namespace")
def _(c: Cluster) -> None:
    spec(c, "Service", "gateway")["type"] = "LoadBalancer"


# -- probes


@fault("readiness needs an engine", "gateways that all go while the one engine restarts")
def _(c: Cluster) -> None:
    gateway(c)["readinessProbe"]["httpGet"]["path"] = "/readyz"


@fault("no probe", "no readiness probe")
def _(c: Cluster) -> None:
    del gateway(c)["readinessProbe"]


@fault("no probe", "no startup probe at the engine")
def _(c: Cluster) -> None:
    del engine(c)["startupProbe"]


@fault("probe's port", "a probe at a port that is not there")
def _(c: Cluster) -> None:
    gateway(c)["livenessProbe"]["httpGet"]["port"] = "admin"


@fault("hasty probe", "a probe that waits one second")
def _(c: Cluster) -> None:
    del gateway(c)["readinessProbe"]["timeoutSeconds"]


@fault("initialDelaySeconds", "a guess at how long the start takes")
def _(c: Cluster) -> None:
    engine(c)["livenessProbe"]["initialDelaySeconds"] = 300


@fault("liveness before readiness", "a restart before it is out of the Service")
def _(c: Cluster) -> None:
    gateway(c)["readinessProbe"]["failureThreshold"] = 40


@fault("liveness asks others", "a liveness that depends on engines")
def _(c: Cluster) -> None:
    gateway(c)["livenessProbe"]["httpGet"]["path"] = "/readyz"


@fault("gRPC probe of TLS", "a kubelet that would have to speak TLS over gRPC")
def _(c: Cluster) -> None:
    engine(c)["livenessProbe"] = {"grpc": {"port": 8083}, "timeoutSeconds": 5, "failureThreshold": 6}


@fault("probe's scheme", "a plain probe of a TLS listener")
def _(c: Cluster) -> None:
    gateway(c)["readinessProbe"]["httpGet"]["port"] = "http"


# -- pods


@fault("runs as root", "root by the image's choice")
def _(c: Cluster) -> None:
    del pod(c, "Deployment", "gateway")["securityContext"]["runAsNonRoot"]


@fault("may gain privileges", "privileges can be gained")
def _(c: Cluster) -> None:
    del gateway(c)["securityContext"]["allowPrivilegeEscalation"]


@fault("can write its root", "a root that can be written")
def _(c: Cluster) -> None:
    gateway(c)["securityContext"]["readOnlyRootFilesystem"] = False


@fault("keeps capabilities", "a capability is added")
def _(c: Cluster) -> None:
    gateway(c)["securityContext"]["capabilities"]["add"] = ["NET_BIND_SERVICE"]


@fault("has no seccomp profile", "no seccomp profile")
def _(c: Cluster) -> None:
    del pod(c, "StatefulSet", "valkey")["securityContext"]["seccompProfile"]


@fault("shares the node", "the node's network")
def _(c: Cluster) -> None:
    pod(c, "StatefulSet", "lora-server")["hostNetwork"] = True


@fault("token mounted", "a token for the API server")
def _(c: Cluster) -> None:
    del pod(c, "Deployment", "gateway")["automountServiceAccountToken"]


@fault("service links", "VLLM_PORT from a Service's name")
def _(c: Cluster) -> None:
    del pod(c, "StatefulSet", "lora-server")["enableServiceLinks"]


@fault("memory without bounds", "no memory limit")
def _(c: Cluster) -> None:
    del gateway(c)["resources"]["limits"]["memory"]


@fault("CPU limit", "a CPU limit at the gateway")
def _(c: Cluster) -> None:
    gateway(c)["resources"]["limits"]["cpu"] = "1"


@fault("no share of the CPU", "no CPU request")
def _(c: Cluster) -> None:
    del gateway(c)["resources"]["requests"]["cpu"]


@fault("GPU request is not its limit", "GPUs asked for and not limited alike")
def _(c: Cluster) -> None:
    engine(c)["resources"]["requests"]["nvidia.com/gpu"] = "2"


@fault("GPU without toleration", "a GPU's pod that its nodes would not take")
def _(c: Cluster) -> None:
    del pod(c, "StatefulSet", "lora-server")["tolerations"]


@fault("small /dev/shm", "shared memory as a container has it")
def _(c: Cluster) -> None:
    engine(c)["volumeMounts"] = [mount for mount in engine(c)["volumeMounts"] if mount["name"] != "shm"]


@fault("no /tmp", "nowhere to write")
def _(c: Cluster) -> None:
    gateway(c)["volumeMounts"] = [mount for mount in gateway(c)["volumeMounts"] if mount["name"] != "tmp"]


# -- exposure


@fault("image without a version", "the tag `latest`")
def _(c: Cluster) -> None:
    gateway(c)["image"] = "registry.example:5000/pointsman-gateway:latest"


@fault("image without a version", "no tag at all, behind a registry's port")
def _(c: Cluster) -> None:
    gateway(c)["image"] = "registry.example:5000/pointsman-gateway"


@fault("Secret", "a file that its secret has not")
def _(c: Cluster) -> None:
    with volume(c, "tokens") as tokens:
        tokens["secret"]["items"][0]["key"] = "token"


@fault("secret in the open", "a Secret that is written down")
def _(c: Cluster) -> None:
    c.objects.append({"kind": "Secret", "metadata": {"name": "pointsman-redis", "namespace": "pointsman"}})


@fault("secret in the open", "a password in the environment")
def _(c: Cluster) -> None:
    pod(c, "StatefulSet", "valkey")["containers"][0]["env"].append({"name": "REDIS_PASSWORD", "value": "hunter2"})


@fault("secret in the open", "a password in an address")
def _(c: Cluster) -> None:
    set_env(gateway(c), "POINTSMAN_GATEWAY_CACHE_REDIS_URL", "redis://:hunter2@valkey:6379/1")


@fault("subPath", "a file of the policy by subPath")
def _(c: Cluster) -> None:
    gateway(c)["volumeMounts"][0]["subPath"] = "models.yaml"


@fault("policy's name", "the policy with a hash in its name")
def _(c: Cluster) -> None:
    found(c, "ConfigMap", "pointsman-policy")["metadata"]["name"] = "pointsman-policy-7tb2m4fhc9"
    with volume(c, "policy") as policy:
        policy["projected"]["sources"][0]["configMap"]["name"] = "pointsman-policy-7tb2m4fhc9"


@fault("settings without a hash", "settings whose change starts nothing anew")
def _(c: Cluster) -> None:
    del spec(c, "StatefulSet", "valkey")["template"]["metadata"]["annotations"]


@fault("ConfigMap too large", "more examples than etcd takes")
def _(c: Cluster) -> None:
    found(c, "ConfigMap", "pointsman-policy-tasks")["data"]["chat.jsonl"] = "x" * 1_100_000


@fault("several namespaces", "an object in another namespace")
def _(c: Cluster) -> None:
    found(c, "Service", "retriever")["metadata"]["namespace"] = "default"


@fault("namespace not restricted", "a namespace that takes any pod")
def _(c: Cluster) -> None:
    found(c, "Namespace", "pointsman")["metadata"]["labels"] = {}


# -- settings


@fault("unknown setting", "a slip in a setting's name")
def _(c: Cluster) -> None:
    set_env(gateway(c), "POINTSMAN_GATEWAY_SHUTDOWN_DELA", "5")


@fault("bad setting", "a value that the service refuses")
def _(c: Cluster) -> None:
    set_env(engine(c), "POINTSMAN_LORA_MAX_LORA_RANK", "1024")


@fault("listens to itself", "a listener that nobody outside reaches")
def _(c: Cluster) -> None:
    set_env(retriever(c), "POINTSMAN_RETRIEVER_LISTEN", "127.0.0.1:8082")


@fault("listens at no port of its", "another port than is declared")
def _(c: Cluster) -> None:
    set_env(retriever(c), "POINTSMAN_RETRIEVER_METRICS_LISTEN", "0.0.0.0:9999")


@fault("address of nobody", "a neighbour by a port that it has not")
def _(c: Cluster) -> None:
    set_env(gateway(c), "POINTSMAN_GATEWAY_RETRIEVER", "dns:///retriever:8083")


@fault("file of nowhere", "a file in a folder that is not mounted")
def _(c: Cluster) -> None:
    set_env(gateway(c), "POINTSMAN_GATEWAY_WAL_DIR", "/var/lib/pointsman/other")


@fault("keys are off", "a production for everyone")
def _(c: Cluster) -> None:
    set_env(gateway(c), "POINTSMAN_GATEWAY_AUTH", "off")


# -- rolling updates


@fault("grace too short", "less time than the drain takes")
def _(c: Cluster) -> None:
    pod(c, "Deployment", "gateway")["terminationGracePeriodSeconds"] = 60


@fault("grace too short", "less time than the engine's drain takes")
def _(c: Cluster) -> None:
    del pod(c, "StatefulSet", "lora-server")["terminationGracePeriodSeconds"]


@fault("no preStop", "no time for balancers to hear of it")
def _(c: Cluster) -> None:
    del gateway(c)["lifecycle"]


@fault("goes before another comes", "a roll-out that takes one away first")
def _(c: Cluster) -> None:
    spec(c, "Deployment", "gateway")["strategy"]["rollingUpdate"]["maxUnavailable"] = 1


@fault("surge of GPUs", "engines as a Deployment")
def _(c: Cluster) -> None:
    found(c, "StatefulSet", "lora-server")["kind"] = "Deployment"


@fault("one after another", "engines that wait for each other")
def _(c: Cluster) -> None:
    del spec(c, "StatefulSet", "lora-server")["podManagementPolicy"]


@fault("one after another", "a retriever whose rollback waits for its broken pod")
def _(c: Cluster) -> None:
    spec(c, "StatefulSet", "retriever")["podManagementPolicy"] = "OrderedReady"


@fault("labelled claim template", "a label that could never be changed")
def _(c: Cluster) -> None:
    spec(c, "StatefulSet", "valkey")["volumeClaimTemplates"][0]["metadata"]["labels"] = {"team": "trains"}


@fault("disruption budgets", "no budget")
def _(c: Cluster) -> None:
    c.objects.remove(found(c, "PodDisruptionBudget", "retriever"))


@fault("budget that blocks", "a budget that never lets a node be emptied")
def _(c: Cluster) -> None:
    budget = spec(c, "PodDisruptionBudget", "retriever")
    del budget["maxUnavailable"]
    budget["minAvailable"] = 1


@fault("budget keeps broken pods", "a budget that keeps broken pods")
def _(c: Cluster) -> None:
    del spec(c, "PodDisruptionBudget", "gateway")["unhealthyPodEvictionPolicy"]


@fault("all on one node", "no spread")
def _(c: Cluster) -> None:
    del pod(c, "Deployment", "gateway")["topologySpreadConstraints"]


# -- scaling and monitoring


@fault("two autoscalers", "an HPA beside KEDA's")
def _(c: Cluster) -> None:
    target = {"kind": "StatefulSet", "name": "lora-server"}
    spec(c, "HorizontalPodAutoscaler", "gateway")["scaleTargetRef"] = target


@fault("replicas of the scaled", "a number that each apply sets back")
def _(c: Cluster) -> None:
    spec(c, "Deployment", "gateway")["replicas"] = 2


@fault("scales down in haste", "gateways that go all at once")
def _(c: Cluster) -> None:
    del spec(c, "HorizontalPodAutoscaler", "gateway")["behavior"]["scaleDown"]


@fault("scales down in haste", "engines that go all at once")
def _(c: Cluster) -> None:
    del spec(c, "ScaledObject", "lora-server")["advanced"]


@fault("a single gateway", "one gateway at night")
def _(c: Cluster) -> None:
    spec(c, "HorizontalPodAutoscaler", "gateway")["minReplicas"] = 1


@fault("monitor selects nothing", "a monitor for nobody")
def _(c: Cluster) -> None:
    spec(c, "PodMonitor", "retriever")["selector"]["matchLabels"] = {"app": "retriever"}


@fault("monitor's port", "a monitor at a port that is not there")
def _(c: Cluster) -> None:
    spec(c, "PodMonitor", "retriever")["podMetricsEndpoints"][0]["port"] = "prometheus"


@fault("monitor without limits", "a monitor without limits")
def _(c: Cluster) -> None:
    del spec(c, "PodMonitor", "engine")["labelValueLengthLimit"]


@fault("jobs", "a job that no rule knows")
def _(c: Cluster) -> None:
    spec(c, "PodMonitor", "engine")["podMetricsEndpoints"][0]["relabelings"][0]["replacement"] = "vllm"


@fault("monitor's scheme", "a plain scrape of a TLS listener")
def _(c: Cluster) -> None:
    spec(c, "PodMonitor", "gateway")["podMetricsEndpoints"][0]["port"] = "http"


@fault("PromQL", "a rule that does not parse")
def _(c: Cluster) -> None:
    spec(c, "PrometheusRule", "pointsman")["groups"][0]["rules"][0]["expr"] = "sum by (job) (up{job='gateway')"


@fault("PromQL", "a trigger that does not parse")
def _(c: Cluster) -> None:
    metadata = spec(c, "ScaledObject", "lora-server")["triggers"][0]["metadata"]
    metadata["query"] = 'sum(vllm:num_requests_waiting{model_name="smollm2-135m"}'


@fault("scales by another model", "a trigger for a model that is not served")
def _(c: Cluster) -> None:
    set_env(engine(c), "POINTSMAN_LORA_SERVED_MODEL_NAME", "llama-3")


@fault("query not aggregated", "a trigger of one series for each engine")
def _(c: Cluster) -> None:
    metadata = spec(c, "ScaledObject", "lora-server")["triggers"][0]["metadata"]
    metadata["query"] = 'vllm:num_requests_waiting{model_name="smollm2-135m"}'


@fault("scales by what nobody measures", "KEDA without monitoring")
def _(c: Cluster) -> None:
    for monitor in c.all("PodMonitor"):
        c.objects.remove(monitor)
