"""Rules for services and network policies: which pods and ports they select."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.deploy.manifest_lint.cluster import Cluster, Fault, Object, Workload, where


def selecting_services(cluster: Cluster) -> Iterator[Fault]:
    for service in cluster.all("Service"):
        if not cluster.selected(service["spec"].get("selector") or {"": ""}):
            yield Fault("Service selects nothing", where(service), str(service["spec"].get("selector")))


def target_ports(cluster: Cluster) -> Iterator[Fault]:
    for service in cluster.all("Service"):
        for workload in cluster.selected(service["spec"].get("selector") or {"": ""}):
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if target not in workload.ports:
                    yield Fault("targetPort", where(service), f"{workload.where} has no port {target}")


def headless_grpc(cluster: Cluster) -> Iterator[Fault]:
    """Finds gRPC services that are not headless: a gRPC client keeps its connection, so behind one address it would
    never use another pod.
    """
    for service in cluster.all("Service"):
        speaks = any(port.get("appProtocol") == "grpc" or port["name"] == "grpc" for port in service["spec"]["ports"])
        if speaks and service["spec"].get("clusterIP") != "None":
            yield Fault("gRPC without headless Service", where(service), "has an address of its own")


def policies_select(cluster: Cluster) -> Iterator[Fault]:
    for policy in cluster.all("NetworkPolicy"):
        if not cluster.selected(policy["spec"]["podSelector"]):
            yield Fault("NetworkPolicy selects nothing", where(policy), str(policy["spec"]["podSelector"]))


def policy_peers(cluster: Cluster) -> Iterator[Fault]:
    for policy in cluster.all("NetworkPolicy"):
        for _, peer in _rules_and_peers(policy):
            if _of_pods([peer]) and not cluster.selected(peer["podSelector"]):
                yield Fault("NetworkPolicy's peer is nobody", where(policy), str(peer["podSelector"]))


def policy_ports(cluster: Cluster) -> Iterator[Fault]:
    """Finds policies that allow a port which no selected pod has."""
    for policy in cluster.all("NetworkPolicy"):
        for rule, peers, listening in _rules(cluster, policy):
            here = len(_of_pods(peers)) == len(peers)
            if listening is None or not (here or "from" in rule):
                continue
            for port in rule.get("ports", []):
                if listening and not any(port["port"] in workload.ports for workload in listening):
                    yield Fault("NetworkPolicy's port", where(policy), f"nobody who is meant has a port {port['port']}")


def denied_by_default(cluster: Cluster) -> Iterator[Fault]:
    policies = cluster.all("NetworkPolicy")
    closed = [p for p in policies if p["spec"]["podSelector"] == {} and not _rules_and_peers(p)]
    if policies and not any(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in closed):
        yield Fault("no default-deny", "NetworkPolicy", "what no policy selects may speak to everyone")


def both_ends(cluster: Cluster) -> Iterator[Fault]:
    """Finds traffic that only one side allows: with default-deny, what one side may send must be accepted by the
    other.
    """
    policies = cluster.all("NetworkPolicy")
    ways = {way: set(_edges(cluster, policies, way)) for way in ("egress", "ingress")}
    for here, there, port in sorted(ways["egress"] ^ ways["ingress"]):
        missing = "let in" if (here, there, port) in ways["egress"] else "let out"
        yield Fault("one-sided edge", f"{here} -> {there}", f"port {port} is not {missing}")


def ways_out(cluster: Cluster) -> Iterator[Fault]:
    """Finds services without an egress policy: with default-deny they cannot reach providers, buckets, an OTLP agent
    or an external Redis.
    """
    if not cluster.all("NetworkPolicy"):
        return
    for workload in cluster.services:
        if workload.service not in ("gateway", "retriever", "lora-server"):
            continue
        ports = _ports_out(cluster, workload)
        if 443 not in ports:
            yield Fault("no way out", workload.where, "cannot call providers, buckets or rerankers at port 443")
        environment = cluster.environment(workload, workload.pod["containers"][0])
        agent = urlsplit(environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
        if agent.hostname and (agent.port or 443) not in ports:
            yield Fault("traces are stopped", workload.where, f"no policy allows port {agent.port}")
        has_redis = bool(cluster.selected({"app.kubernetes.io/component": "redis"}))
        if workload.service != "retriever" and not has_redis and len(ports - {443, agent.port}) == 0:
            yield Fault("Redis is out of reach", workload.where, "no policy allows its port")


def names_from_the_node(cluster: Cluster) -> Iterator[Fault]:
    """Finds policies that block DNS caches on nodes: NodeLocal DNSCache and Cloud DNS have the node's address, which
    no pod selector includes.
    """
    asks = [p for p in cluster.all("NetworkPolicy") if p["metadata"]["name"] == "names"]
    for policy in asks:
        if not any("ipBlock" in peer for _, peer in _rules_and_peers(policy)):
            yield Fault("names of the cluster only", where(policy), "a DNS cache on the node is out of reach")


def clients_outside(cluster: Cluster) -> Iterator[Fault]:
    """Finds policies that block a load balancer, whose addresses are in no namespace."""
    balancers = [s for s in cluster.all("Service") if s["spec"].get("type") == "LoadBalancer"]
    for policy in cluster.all("NetworkPolicy") if balancers else []:
        is_clients = policy["metadata"]["name"] == "gateway-from-clients"
        if is_clients and not any("ipBlock" in peer for _, peer in _rules_and_peers(policy)):
            yield Fault("load balancer is kept out", where(policy), "no ipBlock lets its addresses in")


def _ports_out(cluster: Cluster, workload: Workload) -> set[int]:
    """Returns the ports that the workload may reach at addresses outside the cluster."""
    rules = [
        rule
        for policy in cluster.all("NetworkPolicy")
        if policy["spec"]["podSelector"] and workload in cluster.selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get("egress", [])
    ]
    open_rules = [rule for rule in rules if not rule.get("to") or any("ipBlock" in peer for peer in rule["to"])]
    return {port["port"] for rule in open_rules for port in rule.get("ports", [])}


def _of_pods(peers: list[Object]) -> list[Object]:
    """Returns the peers that are pods in this namespace."""
    return [peer for peer in peers if "namespaceSelector" not in peer and "ipBlock" not in peer]


def _edges(cluster: Cluster, policies: list[Object], way: str) -> Iterator[tuple[str, str, int]]:
    for policy in policies:
        subjects = cluster.selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get(way, []):
            peers = rule.get("to" if way == "egress" else "from", [])
            others = [other for peer in _of_pods(peers) for other in cluster.selected(peer["podSelector"])]
            sources, targets = (subjects, others) if way == "egress" else (others, subjects)
            for source in sources:
                for target in targets:
                    ports = [port["port"] for port in rule.get("ports", [])]
                    yield from ((source.name, target.name, target.ports[p]) for p in ports if p in target.ports)


def _rules(cluster: Cluster, policy: Object) -> Iterator[tuple[Object, list[Object], list[Workload]]]:
    """Yields each rule of a policy with its peers and the workloads that listen at its ports."""
    for rule in policy["spec"].get("ingress", []):
        yield rule, rule.get("from", []), cluster.selected(policy["spec"]["podSelector"])
    for rule in policy["spec"].get("egress", []):
        peers = rule.get("to", [])
        yield rule, peers, [w for peer in _of_pods(peers) for w in cluster.selected(peer["podSelector"])]


def _rules_and_peers(policy: Object) -> list[tuple[Object, Object]]:
    rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
    return [(rule, peer) for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]


RULES = (
    selecting_services,
    target_ports,
    headless_grpc,
    policies_select,
    policy_peers,
    policy_ports,
    denied_by_default,
    both_ends,
    ways_out,
    names_from_the_node,
    clients_outside,
)
