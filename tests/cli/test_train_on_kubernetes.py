"""Trainings as Jobs of Kubernetes, against a double of its API with a controller that makes the scripted pods."""

import asyncio
import gzip
import json
import random
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman.v1 import lora_server_pb2, lora_server_pb2_grpc
from pointsman_cli.train import kubernetes_job
from pointsman_servicekit import kubernetes

from tests.kubernetes_api import KubernetesDouble, Object, running_kubernetes

Cli = Callable[..., Any]
GrpcServer = Callable[..., str]
Until = Callable[..., Any]

ROOT = "/var/lib/pointsman/adapters"
ROWS = '{"text": "lost my bag", "output": "lost_item"}\n'
TEMPLATE = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "training-job-1", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
    "spec": {
        "activeDeadlineSeconds": 86400,
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/name": "training"}},
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": "lora-server",
                "terminationGracePeriodSeconds": 120,
                "containers": [
                    {
                        "name": "training",
                        "image": "registry.example/engine:1",
                        "command": ["/opt/engine/bin/python", "-m", "pointsman_lora_server.training"],
                        "args": [
                            "--base-model=/models/base", "--data=/old.jsonl", "--name=job", "--rank=64",
                            f"--out={ROOT}/trained/job", f"--checkpoint={ROOT}/checkpoints/job", "--resume",
                        ],
                        "resources": {"requests": {"cpu": "4"}, "limits": {"nvidia.com/gpu": 1}},
                        "volumeMounts": [{"name": "adapters", "mountPath": ROOT}],
                    }
                ],
                "volumes": [{"name": "adapters", "persistentVolumeClaim": {"claimName": "adapters"}}],
            },
        },
    },
}  # fmt: skip


def event(kind: str, **facts: object) -> str:
    return json.dumps({"event": kind, **facts})


STEPS = [event("step", step=step, steps=2, loss=1 / step, tokens_per_second=260.0, eta_seconds=1.0) for step in (1, 2)]


def stamped(*lines: str, second: int = 0) -> list[str]:
    return [f"2026-12-02T10:00:{second:02d}.{number:09d}Z {line}" for number, line in enumerate(lines, 1)]


@dataclass
class Cluster:
    """A cluster whose Jobs end at once, with the pods and logs that `pods` lists."""

    api: KubernetesDouble
    pods: list[tuple[list[str], Object | None]] = field(default_factory=list)
    """The log and the container's state of each pod of a Job, in order; None if it has no container yet."""
    last: Object = field(default_factory=dict)
    """The state of the last run of each pod's container."""
    status: Object = field(default_factory=dict)
    """More of the status of each pod."""
    warning: str = ""
    """The message of an event for the newest pod, or for the Job if there is no pod; empty: none."""
    ends: str = "Complete"
    """The Job's condition; empty: it runs on."""
    restarts: int = 0

    def run(self, namespace: str, job: Object) -> None:
        name, is_plain = job["metadata"]["name"], job["kind"] == "Job"
        label = "batch.kubernetes.io/job-name" if is_plain else "jobset.sigs.k8s.io/jobset-name"
        for number, (log, state) in enumerate(self.pods):
            pod = f"{name}-{number}"
            metadata = {"name": pod, "labels": {label: name}, "creationTimestamp": f"2026-12-02T10:00:0{number}Z"}
            container = {"name": "training" if is_plain else "node", "state": state, "image": "", "imageID": "",
                         "ready": True, "restartCount": self.restarts, "lastState": self.last}  # fmt: skip
            self.api.logs[pod] = log
            status = {**self.status, "containerStatuses": [container] if state else []}
            self.api.put("api/v1", "pods", namespace, {"metadata": metadata, "status": status})
        if self.warning:
            owner = f"{name}-{len(self.pods) - 1}" if self.pods else name if is_plain else f"{name}-node-0"
            for kind in ("Normal", "Warning"):
                event = {"type": kind, "reason": "FailedSomehow", "message": self.warning,
                         "involvedObject": {"name": owner}, "metadata": {"name": f"{owner}.{kind}"}}  # fmt: skip
                self.api.put("api/v1", "events", namespace, event)
        if self.ends:
            condition = {"type": self.ends, "status": "True", "message": "the backoff limit is reached"}
            root, kinds = ("batch/v1", "jobs") if is_plain else ("trainer.kubeflow.org/v1alpha1", "trainjobs")
            self.api.put(f"apis/{root}", kinds, namespace, {**job, "status": {"conditions": [condition]}})

    def all(self, path: str) -> list[Object]:
        root, _, resource = path.rpartition("/")
        return list(self.api.objects.get(f"{root}/namespaces/ml/{resource}", {}).values())

    @property
    def job(self) -> Object:
        (job,) = self.all("apis/batch/v1/jobs")
        return job

    @property
    def options(self) -> dict[str, str]:
        (container,) = self.job["spec"]["template"]["spec"]["containers"]
        return dict(each.removeprefix("--").partition("=")[::2] for each in container["args"])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Yields a cluster whose API runs in its own thread; KUBECONFIG names it."""
    monkeypatch.setattr(kubernetes_job, "POLL_SECONDS", 0.01)
    loop, folder = asyncio.new_event_loop(), tmp_path / "api"
    folder.mkdir()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    lifetime = running_kubernetes(folder)
    api = asyncio.run_coroutine_threadsafe(lifetime.__aenter__(), loop).result()
    made = Cluster(api, [([*stamped(*STEPS)], {"terminated": {"exitCode": 0}})])
    api.controllers = {"jobs": made.run, "trainjobs": made.run}
    access = {"server": f"https://127.0.0.1:{api.port}", "certificate-authority": str(api.service_account / "ca.crt")}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
        "clusters": [{"name": "c", "cluster": access}], "users": [{"name": "u", "user": {"token": api.token}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield made
    asyncio.run_coroutine_threadsafe(lifetime.__aexit__(None, None, None), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    loop.close()


@pytest.fixture
def train(cli: Cli, tmp_path: Path) -> Callable[..., Any]:
    """Returns a function that calls `pointsman train --on-kubernetes` with a row of data and more arguments."""
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(TEMPLATE))
    (tmp_path / "data.jsonl").write_text(ROWS)
    data = ("--data", tmp_path / "data.jsonl")
    return lambda *more: cli("train", "--name", "triage_v2", "--on-kubernetes", tmp_path / "job.yaml", *data, *more)


def done(folder: str = f"{ROOT}/trained/triage_v2-1") -> str:
    return event("done", folder=folder, seconds=12.0, metrics={"heldout_loss": 0.1412})


def test_the_job_is_the_files_with_the_data_and_the_options_of_the_command(cluster: Cluster, train: Cli) -> None:
    outcome = train("--detach", "--epochs", 2, "--processes", 4, "--fsdp")
    name = cluster.job["metadata"]["name"]
    assert (outcome.code, outcome.out) == (0, f"{name}\n")
    assert name.startswith("training-triage-v2-")
    run = name.rpartition("-")[2]
    options = cluster.options
    assert options["base-model"] == "/models/base"
    assert (options["rank"], options["epochs"], options["processes"]) == ("4", "2", "4")
    assert options["out"] == f"{ROOT}/trained/triage_v2-{run}"
    assert options["checkpoint"] == f"{ROOT}/checkpoints/triage_v2-{run}"
    assert {"resume", "fsdp"} <= set(options)
    pod = cluster.job["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    (config_map,) = cluster.all("api/v1/configmaps")
    assert {"name": "training-data", "configMap": {"name": config_map["metadata"]["name"]}} in pod["volumes"]
    mounted = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}["training-data"]
    assert config_map["data"][options["data"].removeprefix(f"{mounted}/")] == ROWS


def test_progress_of_all_pods_is_shown_and_the_adapter_registered(
    cluster: Cluster, train: Cli, grpc_server: GrpcServer
) -> None:
    registered: list[lora_server_pb2.RegisterRequest] = []

    class LoraServer(lora_server_pb2_grpc.LoraServerServicer):
        async def Register(self, request: Any, context: Any) -> lora_server_pb2.AdapterVersion:
            registered.append(request)
            return lora_server_pb2.AdapterVersion(version="triage_v2@3f9a1c0b77de", aliases=["triage_v2@canary"])

    address = grpc_server(
        "pointsman.v1.LoraServer",
        lambda server: lora_server_pb2_grpc.add_LoraServerServicer_to_server(LoraServer(), server),
    )
    ended = {"terminated": {"exitCode": 0}}
    cluster.pods = [(stamped(STEPS[0]), ended), (stamped(STEPS[1], "a warning", done()), ended)]
    outcome = train("--alias", "canary", "--force", "--lora-server", address)
    assert outcome.code == 0, outcome.err
    assert "step 2/2 · loss 0.5000" in outcome.out
    assert "a warning\n" in outcome.out
    assert "registered as triage_v2@3f9a1c0b77de" in outcome.out
    (request,) = registered
    assert (request.folder, request.alias, request.force) == (f"{ROOT}/trained/triage_v2-1", "canary", True)
    assert request.facts["train_file"] == "data.jsonl"
    assert request.facts["heldout_loss"] == "0.1412"


def test_a_line_is_shown_once_although_a_running_pods_log_is_read_again(
    cluster: Cluster, train: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.pods, cluster.ends = [(stamped("first", "second"), {"running": {}})], ""
    finishing = threading.Thread(target=_finish, args=(cluster,))
    finishing.start()
    outcome = train()
    finishing.join()
    assert cluster.api.requests.count("get pods/log") > 2
    assert [outcome.out.count(f"{line}\n") for line in ("first", "second", "third")] == [1, 1, 1]
    assert f"pointsman adapters register triage_v2 {ROOT}/trained/triage_v2-1 --lora-server" in outcome.out


def test_lines_of_any_length_and_with_other_separators_lose_nothing(cluster: Cluster, train: Cli) -> None:
    bars, long = "loading 10%\rloading 100%", "x" * 1_000_000
    cluster.pods = [(stamped(bars, "wide\u2028space", long, done()), {"terminated": {"exitCode": 0}})]
    outcome = train()
    assert outcome.code == 0, outcome.err
    for line in ("loading 10%", "loading 100%", "wide", "space", long):
        assert f"{line}\n" in outcome.out


def test_lines_of_a_node_with_a_local_clock_are_shown_also_after_summer_time(cluster: Cluster, train: Cli) -> None:
    log = ["2026-10-25T02:59:59.9+02:00 summer", f"2026-10-25T02:00:00.100000001+01:00 {done()}"]
    cluster.pods = [(log, {"terminated": {"exitCode": 0}})]
    outcome = train()
    assert outcome.code == 0, outcome.err
    assert "summer\n" in outcome.out


def test_an_api_server_that_restarts_or_is_busy_loses_no_line(cluster: Cluster, train: Cli) -> None:
    cluster.pods = [(stamped("first", "second", done()), {"terminated": {"exitCode": 0}})]
    cluster.api.broken_logs = 2
    busy = [("get jobs", 503), ("list pods", 429), ("get pods/log", 404), ("get pods/log", 503)]
    cluster.api.refusals = [*busy, *busy]
    outcome = train()
    assert outcome.code == 0, outcome.err
    assert [outcome.out.count(f"{line}\n") for line in ("first", "second")] == [1, 1]
    assert cluster.api.refusals == []


def test_a_log_that_stays_unreadable_does_not_keep_the_command(cluster: Cluster, train: Cli) -> None:
    cluster.api.refusals = [("get pods/log", 404)] * 100
    outcome = train()
    assert (outcome.code, "the end of its log is gone" in outcome.err) == (1, True)


def test_an_api_server_that_stays_away_ends_the_command_and_not_the_training(
    cluster: Cluster, train: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_job, "MAX_UNREACHABLE_SECONDS", 0.1)
    cluster.ends, cluster.api.refusals = "", [("list events", 503), *[("list pods", 503)] * 1000]
    outcome = train()
    assert outcome.code == 1
    assert "goes on: `pointsman jobs watch training-triage-v2-" in outcome.err
    assert "metadata" in cluster.job


def test_an_api_server_that_never_answered_is_not_waited_for(cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    config = (tmp_path / "kubeconfig").read_text()
    (tmp_path / "kubeconfig").write_text(config.replace(f":{cluster.api.port}", ":1"))
    watched = cli("jobs", "watch", "training-x", "--kubernetes")
    assert (watched.code, "does not answer: ConnectError" in watched.err) == (1, True)


def test_progress_that_cannot_be_written_is_no_failure_of_the_api(cluster: Cluster, train: Cli) -> None:
    name = train("--detach").out.strip()
    command = [sys.executable, "-m", "pointsman_cli", "jobs", "watch", name, "--kubernetes"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "the output could not be written completely" in ended.stderr
    assert cluster.api.requests.count("get jobs") == 1


def test_a_container_that_restarts_in_its_pod_is_read_again(cluster: Cluster, train: Cli) -> None:
    cluster.pods, cluster.ends = [(stamped("error: before the restart"), {"terminated": {"exitCode": 3}})], ""
    restarting = threading.Thread(target=_restart, args=(cluster,))
    restarting.start()
    outcome = train("--train-job", "torch-distributed")
    restarting.join()
    assert outcome.code == 0, outcome.err
    assert "after the restart\n" in outcome.out


def _restart(cluster: Cluster) -> None:
    """Ends the training by the container's second run, once the log of its first was requested."""
    while "get pods/log" not in cluster.api.requests:
        time.sleep(0.01)
    (job,) = cluster.all("apis/trainer.kubeflow.org/v1alpha1/trainjobs")
    cluster.pods, cluster.ends = [(stamped("after the restart", done()), {"terminated": {"exitCode": 0}})], "Complete"
    cluster.restarts = 1
    cluster.run("ml", job)


def _finish(cluster: Cluster, request: str = "get pods/log") -> None:
    """Ends the training once a request was made three times."""
    while cluster.api.requests.count(request) < 3:
        time.sleep(0.01)
    job = (cluster.all("apis/batch/v1/jobs") + cluster.all("apis/trainer.kubeflow.org/v1alpha1/trainjobs"))[0]
    cluster.pods, cluster.ends = (
        [(stamped("first", "second", "third", done()), {"terminated": {"exitCode": 0}})],
        "Complete",
    )
    cluster.run("ml", job)


@pytest.mark.parametrize("more", [(), ("--train-job", "torch-distributed")])
def test_a_failed_training_says_what_the_trainer_said(cluster: Cluster, train: Cli, more: tuple[str, ...]) -> None:
    cluster.pods = [(stamped("error: data.jsonl:1: not JSON", "and more"), {"terminated": {"exitCode": 1}})]
    cluster.ends = "Failed"
    outcome = train(*more)
    assert outcome.code == 1
    assert "failed: data.jsonl:1: not JSON and more\n" in outcome.err


@pytest.mark.parametrize(
    ("state", "status", "why"),
    [
        ({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, {}, "OOMKilled: it needs more memory"),
        ({"terminated": {"exitCode": 3, "reason": "Error"}}, {}, "exit code 3"),
        (None, {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted: low on memory"),
        (
            {"terminated": {"exitCode": 143}},
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Preemption", "message": "a"}]},
            "Preemption: a",
        ),
    ],
)  # fmt: skip
def test_a_killed_training_says_why_each_pod_stopped_and_why_the_job_ended(
    cluster: Cluster, train: Cli, state: Object | None, status: Object, why: str
) -> None:
    cluster.pods, cluster.ends, cluster.status = [(stamped(STEPS[0]), state)] * 2, "Failed", status
    outcome = train()
    for number in (0, 1):
        assert f"-{number} stopped: {why}" in outcome.out
    assert "failed: the backoff limit is reached; training-triage-v2-" in outcome.err
    assert f"-1 stopped: {why}" in outcome.err


@pytest.mark.parametrize("more", [(), ("--train-job", "torch-distributed")])
@pytest.mark.parametrize(("lines", "why"), [(["error: no rows"], "failed: no rows\n"), ([], "-0 stopped: OOMKilled: ")])
def test_a_container_that_waits_for_its_restart_says_why_it_ended(
    cluster: Cluster, train: Cli, more: tuple[str, ...], lines: list[str], why: str
) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
    cluster.pods, cluster.ends = [(stamped(*lines), waiting)], "Failed"
    cluster.last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    assert why in train(*more).err


def test_the_error_of_the_newest_pod_counts(cluster: Cluster, train: Cli) -> None:
    failed = {"terminated": {"exitCode": 1}}
    cluster.pods, cluster.ends = [(stamped(), failed), (stamped("error: no rows"), failed)], "Failed"
    assert "failed: no rows\n" in train().err


def test_a_pod_that_cannot_start_says_why(cluster: Cluster, train: Cli) -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    cluster.pods, cluster.ends = [([], waiting)], "Failed"
    assert "waiting: ImagePullBackOff: no such image\n" in train().out


def test_a_pod_that_no_node_takes_says_why_and_ends_by_a_deadline(cluster: Cluster, train: Cli, tmp_path: Path) -> None:
    del (spec := deepcopy(TEMPLATE))["spec"]["activeDeadlineSeconds"]  # type: ignore[attr-defined]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: no GPU"}
    cluster.pods, cluster.ends, cluster.status = [([], None)], "Failed", {"conditions": [unscheduled]}
    outcome = train()
    assert "waiting: 0/3 nodes are available: no GPU\n" in outcome.out
    assert "the backoff limit is reached; waiting: 0/3 nodes are available: no GPU\n" in outcome.err
    assert cluster.job["spec"]["activeDeadlineSeconds"] == 86_400


@pytest.mark.parametrize("more", [(), ("--train-job", "torch-distributed")])
@pytest.mark.parametrize("has_pod", [True, False])
def test_events_say_what_keeps_a_container_from_starting(
    cluster: Cluster, train: Cli, more: tuple[str, ...], has_pod: bool
) -> None:
    cluster.pods = [([], {"waiting": {"reason": "ContainerCreating"}})] if has_pod else []
    cluster.ends, cluster.warning = "", "exceeded quota" if not has_pod else "claim not found"
    finishing = threading.Thread(target=_finish, args=(cluster, "list events"))
    finishing.start()
    outcome = train(*more)
    finishing.join()
    assert f"waiting: FailedSomehow: {cluster.warning}\n" in outcome.out
    assert outcome.code == 0, outcome.err


def test_a_user_who_may_not_list_events_can_watch(cluster: Cluster, train: Cli) -> None:
    cluster.pods, cluster.ends, cluster.api.forbidden = [], "", {("list", "events")}
    finishing = threading.Thread(target=_finish, args=(cluster, "list events"))
    finishing.start()
    outcome = train()
    finishing.join()
    assert outcome.code == 0, outcome.err


def test_a_job_can_be_watched_later_and_cancelled_with_all_that_it_owns(cluster: Cluster, train: Cli, cli: Cli) -> None:
    cluster.pods = [(stamped(done()), {"terminated": {"exitCode": 0}})]
    name = train("--detach", "--alias", "canary").out.strip()
    watched = cli("jobs", "watch", name, "--kubernetes")
    assert f"adapters register triage_v2 {ROOT}/trained/triage_v2-1 --alias canary" in watched.out
    assert cli("jobs", "cancel", name, "--kubernetes").code == 0
    assert cluster.api.deletions == [("jobs", name, "Foreground")]
    assert cluster.all("api/v1/configmaps") == []
    again = cli("jobs", "cancel", name, "--kubernetes")
    assert (again.code, f"there is no training {name} in the namespace ml" in again.err) == (1, True)


def test_a_job_that_is_no_training_is_not_deleted(cluster: Cluster, cli: Cli) -> None:
    cluster.api.put("apis/batch/v1", "jobs", "ml", {"kind": "Job", "metadata": {"name": "backup"}, "spec": {}})
    assert "there is no training backup" in cli("jobs", "cancel", "backup", "--kubernetes").err
    assert cluster.job["metadata"]["name"] == "backup"


def test_a_job_whose_data_are_refused_is_deleted_again(cluster: Cluster, train: Cli) -> None:
    cluster.api.forbidden = {("create", "configmaps")}
    outcome = train()
    assert (outcome.code, "configmaps is forbidden" in outcome.err) == (1, True)
    assert cluster.all("apis/batch/v1/jobs") == []


def test_a_job_whose_creation_is_not_confirmed_is_deleted(
    cluster: Cluster, train: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "TIMEOUT_SECONDS", 0.3)
    cluster.api.unconfirmed = {"create jobs"}
    outcome = train()
    assert (outcome.code, "does not answer" in outcome.err) == (1, True)
    assert cluster.all("apis/batch/v1/jobs") == []


def test_a_job_that_cannot_be_deleted_again_is_named_with_the_cause(cluster: Cluster, train: Cli) -> None:
    cluster.api.forbidden = {("create", "configmaps"), ("delete", "jobs")}
    outcome = train()
    name = cluster.job["metadata"]["name"]
    assert "configmaps is forbidden" in outcome.err
    assert f"delete it: kubectl delete job/{name}" in outcome.err


def test_a_job_of_another_with_the_same_name_is_kept(
    cluster: Cluster, train: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda length: "0a0b0c")
    assert train("--detach").code == 0
    before = cluster.job
    outcome = train("--detach")
    assert (outcome.code, "already exists" in outcome.err) == (1, True)
    assert (cluster.job, cluster.api.deletions) == (before, [])


def test_two_trainings_of_an_adapter_share_nothing(cluster: Cluster, train: Cli) -> None:
    assert [train("--detach").code, train("--detach").code] == [0, 0]
    first, second = cluster.all("apis/batch/v1/jobs")
    folders = [
        {part for part in each["spec"]["template"]["spec"]["containers"][0]["args"] if "=/var/lib" in part}
        for each in (first, second)
    ]
    assert folders[0].isdisjoint(folders[1])
    assert len(cluster.all("api/v1/configmaps")) == 2


async def test_ctrl_c_leaves_the_training_and_says_how_to_go_on_or_delete_it(
    cluster: Cluster, train: Cli, tmp_path: Path, until: Until
) -> None:
    cluster.pods, cluster.ends = [], ""
    command: list[str | Path] = [sys.executable, "-m", "pointsman_cli", "train", "--name", "triage"]
    command += ["--data", tmp_path / "data.jsonl", "--on-kubernetes", tmp_path / "job.yaml"]
    command += ["--data-dir", tmp_path / "home"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    await until(lambda: "list pods" in cluster.api.requests, "the training is watched")
    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()
    name = cluster.job["metadata"]["name"]
    assert process.returncode == 130
    assert f"{name} goes on: `pointsman jobs watch {name} --kubernetes` follows it" in out.decode()
    assert f"`pointsman jobs cancel {name} --kubernetes` deletes it" in out.decode()


def test_large_data_are_compressed_and_too_large_ones_refused(cluster: Cluster, train: Cli, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(ROWS * 30_000)
    assert train("--detach").code == 0
    (config_map,) = cluster.all("api/v1/configmaps")
    assert cluster.options["data"] == "/etc/pointsman/training/data.jsonl.gz"
    assert gzip.decompress(b64decode(config_map["binaryData"]["data.jsonl.gz"])).decode() == ROWS * 30_000
    (tmp_path / "data.jsonl").write_text(random.Random(7).randbytes(1_000_000).hex())
    refused = train("--detach")
    assert (refused.code, "copy the data to the adapters' claim" in refused.err) == (2, True)


def test_a_train_job_has_the_pods_fields_that_its_runtime_can_take(train: Cli) -> None:
    outcome = train("--dry-run", "--train-job", "torch-distributed", "--processes", 2)
    assert outcome.code == 0, outcome.err
    config_map, job = yaml.safe_load_all(outcome.out)
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"]["labels"] == TEMPLATE["metadata"]["labels"]  # type: ignore[index]
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], "--processes=2" in trainer["args"]) == (1, True)
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "2"}
    (replicated,) = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]
    assert (replicated["name"], pod["spec"]["containers"][0]["name"]) == ("node", "node")
    assert pod["metadata"]["labels"] == {"app.kubernetes.io/name": "training"}
    assert pod["spec"]["serviceAccountName"] == "lora-server"
    volumes = {each["name"] for each in pod["spec"]["volumes"]}
    assert (
        volumes
        == {each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
        == {"adapters", "training-data"}
    )
    assert "decides instead of" in outcome.err
    assert "terminationGracePeriodSeconds" in outcome.err
    assert config_map["metadata"]["name"] == job["metadata"]["name"]


def test_a_dry_run_prints_the_objects_and_needs_no_cluster(train: Cli) -> None:
    outcome = train("--dry-run")
    config_map, job = yaml.safe_load_all(outcome.out)
    assert [config_map["kind"], job["kind"]] == ["ConfigMap", "Job"]


@pytest.mark.parametrize(
    "text", ["kind: Deployment", "kind: Job", "{", "kind: Job\nspec: {template: {spec: {containers: [{}]}}}"]
)
def test_a_file_without_a_training_is_refused(train: Cli, tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    outcome = train("--dry-run")
    assert (outcome.code, "--on-kubernetes" in outcome.err) == (2, True)


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PASSWORD"])
def test_a_secret_in_the_file_is_refused_and_not_shown(train: Cli, tmp_path: Path, name: str) -> None:
    (file := deepcopy(TEMPLATE))["spec"]["template"]["spec"]["containers"][0]["env"] = [  # type: ignore[index]
        {"name": "TOKENIZERS_PARALLELISM", "value": "false"},
        {"value": "of no name"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(file))
    assert train("--dry-run").code == 0
    file["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": name, "value": "hunter2"})  # type: ignore[index]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(file))
    outcome = train("--dry-run")
    assert (outcome.code, f"has the value of {name}" in outcome.err) == (2, True)
    assert "hunter2" not in outcome.out + outcome.err


def test_a_namespace_in_the_file_is_refused(train: Cli, tmp_path: Path) -> None:
    (file := deepcopy(TEMPLATE))["metadata"]["namespace"] = "other"  # type: ignore[index]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(file))
    outcome = train("--dry-run")
    assert (outcome.code, "names the namespace other: leave it out" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    "request_", [("create", "jobs"), ("create", "configmaps"), ("get", "jobs"), ("list", "pods"), ("get", "pods/log")]
)
def test_a_missing_permission_is_named_by_verb_and_resource(
    cluster: Cluster, train: Cli, request_: tuple[str, str]
) -> None:
    cluster.api.forbidden = {request_}
    outcome = train()
    assert outcome.code == 1
    assert f'cannot {request_[0]} resource "{request_[1]}" in "ml"' in outcome.err


@pytest.mark.parametrize("option", [("--out", "x"), ("--check-only",), ("--on-server",), ("--base-model", "x")])
def test_options_of_other_trainings_are_refused(train: Cli, option: tuple[str, ...]) -> None:
    assert train(*option).code == 2


def test_without_a_kubeconfig_the_command_says_what_to_set(train: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert "set KUBECONFIG" in train().err
