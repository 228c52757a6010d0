"""Rules for services and network policies: which pods and ports they select."""

from collections.abc import Iterator

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
    """A gRPC client keeps its connection; behind one address it would never use another pod."""
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
            if "namespaceSelector" not in peer and not cluster.selected(peer["podSelector"]):
                yield Fault("NetworkPolicy's peer is nobody", where(policy), str(peer["podSelector"]))


def policy_ports(cluster: Cluster) -> Iterator[Fault]:
    """Every allowed port must belong to a selected pod; port numbers of other pods are unknown."""
    for policy in cluster.all("NetworkPolicy"):
        for rule, peers, listening in _rules(cluster, policy):
            here = all("namespaceSelector" not in peer for peer in peers)
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
    """With default-deny, traffic that one side may send must be accepted by the other."""
    policies = cluster.all("NetworkPolicy")
    ways = {way: set(_edges(cluster, policies, way)) for way in ("egress", "ingress")}
    for here, there, port in sorted(ways["egress"] ^ ways["ingress"]):
        missing = "let in" if (here, there, port) in ways["egress"] else "let out"
        yield Fault("one-sided edge", f"{here} -> {there}", f"port {port} is not {missing}")


def _edges(cluster: Cluster, policies: list[Object], way: str) -> Iterator[tuple[str, str, int]]:
    for policy in policies:
        subjects = cluster.selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get(way, []):
            peers = rule.get("to" if way == "egress" else "from", [])
            others = [o for p in peers if "namespaceSelector" not in p for o in cluster.selected(p["podSelector"])]
            sources, targets = (subjects, others) if way == "egress" else (others, subjects)
            for source in sources:
                for target in targets:
                    ports = [port["port"] for port in rule.get("ports", [])]
                    yield from ((source.name, target.name, target.ports[p]) for p in ports if p in target.ports)


def _rules(cluster: Cluster, policy: Object) -> Iterator[tuple[Object, list[Object], list[Workload]]]:
    """Yields each rule, its peers, and the workloads that listen at its ports."""
    for rule in policy["spec"].get("ingress", []):
        yield rule, rule.get("from", []), cluster.selected(policy["spec"]["podSelector"])
    for rule in policy["spec"].get("egress", []):
        peers = [peer for peer in rule.get("to", []) if "namespaceSelector" not in peer]
        yield rule, rule.get("to", []), [w for peer in peers for w in cluster.selected(peer["podSelector"])]


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
)
