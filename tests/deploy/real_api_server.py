"""Sends every example of the chart to a real API server: `python -m tests.deploy.real_api_server FOLDER`.

FOLDER has the programs `kube-apiserver` and `etcd`. They can be downloaded from

    https://dl.k8s.io/v1.34.9/kubernetes-server-linux-amd64.tar.gz          (checksum: the same address with .sha512)
    https://github.com/etcd-io/etcd/releases/download/v3.5.16/etcd-v3.5.16-linux-amd64.tar.gz   (SHA256SUMS beside it)

Both listen on 127.0.0.1 and keep their data in a temporary folder. Each example is sent as a strict server-side dry
run, in a namespace that enforces Pod Security `restricted`; a warning counts as an error. The server knows only the
names of the operators' kinds, because other tests check their schemas. Then the chart is installed and upgraded as far
as that needs no controller, and the statements on upgrades in docs/kubernetes.md are checked.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.helm.render import CHART, HelmError, helm, template
from tests.deploy import crd_schemas
from tests.deploy.rendering import KUBECTL
from tests.ports import free_port

TOKEN = "a-token-of-this-server-alone"
START_SECONDS = 120
KINDS = {
    "certificates.cert-manager.io/v1": "Certificate",
    "scaledobjects.keda.sh/v1alpha1": "ScaledObject",
    "podmonitors.monitoring.coreos.com/v1": "PodMonitor",
    "prometheusrules.monitoring.coreos.com/v1": "PrometheusRule",
    "leaderworkersets.leaderworkerset.x-k8s.io/v1": "LeaderWorkerSet",
    "httproutes.gateway.networking.k8s.io/v1": "HTTPRoute",
    "grpcroutes.gateway.networking.k8s.io/v1": "GRPCRoute",
    "gcpbackendpolicies.networking.gke.io/v1": "GCPBackendPolicy",
    "healthcheckpolicies.networking.gke.io/v1": "HealthCheckPolicy",
    "backendconfigs.cloud.google.com/v1": "BackendConfig",
    "inferencepools.inference.networking.k8s.io/v1": "InferencePool",
    "inferenceobjectives.llm-d.ai/v1alpha2": "InferenceObjective",
}
"""The operators' kinds that the chart or its examples use, by PLURAL.GROUP/VERSION."""


def definitions() -> list[dict[str, Any]]:
    """Returns the given definitions of the operators' kinds, and for other kinds one that accepts any fields."""
    given = crd_schemas.given_definitions()
    groups = {name: name.partition("/")[0].partition(".")[2] for name in KINDS}
    return [given.get((groups[name], kind)) or _definition(name, kind) for name, kind in KINDS.items()]


def _definition(name: str, kind: str) -> dict[str, Any]:
    full, _, version = name.partition("/")
    plural, _, group = full.partition(".")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    # Groups below k8s.io need the address of their approval.
    approved = {"api-approved.kubernetes.io": "unapproved, for tests"} if group.endswith("k8s.io") else {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": full, "annotations": approved},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
    }


@dataclass(frozen=True)
class ApiServer:
    url: str

    def kubectl(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [KUBECTL, "--server", self.url, "--token", TOKEN, "--insecure-skip-tls-verify", *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=300, check=False)

    def helm(self, *arguments: str) -> str:
        """Returns Helm's error; empty if it succeeds."""
        server = ("--kube-apiserver", self.url, "--kube-token", TOKEN, "--kube-insecure-skip-tls-verify")
        try:
            helm(*arguments, "--namespace", "pointsman", *server)
        except HelmError as error:
            return str(error)
        return ""

    def is_ready(self) -> bool:
        return self.kubectl("get", "--raw", "/readyz").returncode == 0

    def prepare(self) -> None:
        """Creates the namespace and the operators' kinds; raises RuntimeError."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pointsman", "labels": labels}}
        made = self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all([namespace, *definitions()]))
        if made.returncode:
            raise RuntimeError(made.stderr)
        self.kubectl("wait", "--for=condition=Established", "--all", "crd", "--timeout=60s")

    def rejections(self, objects: str) -> str:
        """Returns the errors and warnings of a strict dry run; empty if the server accepts all objects."""
        options = ("--dry-run=server", "--server-side", "--validate=strict", "--warnings-as-errors")
        done = self.kubectl("apply", *options, "-n", "pointsman", "-f", "-", given=objects)
        return done.stderr if done.returncode else ""


@contextmanager
def running(programs: Path) -> Iterator[ApiServer]:
    """Runs etcd and the API server; raises TimeoutError if they are not ready within START_SECONDS."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores, peers, port = free_port(), free_port(), free_port()
        etcd = [f"http://127.0.0.1:{at}" for at in (stores, peers)]
        with (
            _process(_etcd(programs, folder, *etcd), folder / "etcd.log"),
            _process(_api_server(programs, folder, etcd[0], port), folder / "api-server.log") as process,
        ):
            server = ApiServer(f"https://127.0.0.1:{port}")
            deadline = time.monotonic() + START_SECONDS
            while not server.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise TimeoutError((folder / "api-server.log").read_text()[-2000:])
                time.sleep(1)
            yield server


def _etcd(programs: Path, folder: Path, store: str, peer: str) -> list[str]:
    clients = ["--listen-client-urls", store, "--advertise-client-urls", store]
    peers = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    return [str(programs / "etcd"), "--data-dir", str(folder / "etcd"), *clients, *peers]


def _api_server(programs: Path, folder: Path, etcd: str, port: int) -> list[str]:
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    return [
        *(str(programs / "kube-apiserver"), "--etcd-servers", etcd, "--cert-dir", str(folder / "certificates")),
        *("--bind-address", "127.0.0.1", "--secure-port", str(port), "--service-cluster-ip-range", "10.96.0.0/16"),
        *("--token-auth-file", str(folder / "tokens.csv"), "--authorization-mode", "RBAC"),
        *("--service-account-issuer", "https://127.0.0.1", "--service-account-key-file", str(key)),
        *("--service-account-signing-key-file", str(key), "--disable-admission-plugins", "ServiceAccount"),
    ]


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def untrue_statements(server: ApiServer) -> list[str]:
    """Installs and upgrades the chart. Returns the statements of docs/kubernetes.md on upgrades that turn out to be
    untrue.
    """
    chart = ("pointsman", str(CHART), "-f", str(CHART / "ci" / "kind.yaml"))
    server.helm("install", *chart)
    server.kubectl("-n", "pointsman", "scale", "deployment/gateway", "--replicas=5")
    three = ("upgrade", *chart, "--set", "gateway.replicas=3")
    happens = {
        "after kubectl scale, an upgrade fails with a conflict": "conflict" in server.helm(*three),
        "with --force-conflicts it does not": not server.helm(*three, "--force-conflicts"),
        "a claim template's size cannot be changed": "Forbidden"
        in server.helm("upgrade", *chart, "--set", "retriever.persistence.size=50Gi"),
        "another access mode makes a new claim": not server.helm(
            "upgrade", *chart, "--set", "adapters.store.accessMode=ReadWriteMany"
        ),
        "and keeps the old one, at which a rollback fails": '"adapters" not found'
        in server.helm("rollback", "pointsman"),
        "an upgrade with the old values goes back": not server.helm("upgrade", *chart),
    }
    return [statement for statement, is_true in happens.items() if not is_true]


def main(programs: Path) -> int:
    """Returns the number of rejected examples and untrue statements."""
    rejected = {}
    with running(programs) as server:
        server.prepare()
        for values in sorted((CHART / "ci").glob("*.yaml")):
            try:
                rejected[values.stem] = server.rejections(template("-f", str(values)))
            except HelmError as error:
                rejected[values.stem] = str(error)
            print(f"{values.stem}: {rejected[values.stem].strip() or 'accepted'}", flush=True)
        untrue = untrue_statements(server)
    faults = sum(map(bool, rejected.values()))
    print(json.dumps({"examples": len(rejected), "rejected": faults, "untrue": untrue}))
    return faults + len(untrue)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
