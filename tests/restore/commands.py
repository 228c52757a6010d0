"""Doubles of `kubectl`, `docker compose` and `valkey-cli`, as far as the commands of docs/howto/backup-and-restore.md
use them.

A command in a container is run here, with the container's paths and addresses replaced by the test's. To start and stop
services, the doubles ask the test, which owns the processes, over a socket. $RESTORE_WORLD names a file with the paths
and addresses. `python -m tests.restore.commands NAME ARGUMENT...` runs one double.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

EOF_MARK = b"e" * 40
"""The mark with which a server ends an RDB file of unknown size; `valkey-cli --rdb -` does not remove it."""
WORLD: dict[str, Any] = json.loads(Path(os.environ["RESTORE_WORLD"]).read_text())


def replaced(text: str) -> str:
    """Replaces the container's paths and addresses in a text by the test's."""
    names = sorted(WORLD["replace"], key=len, reverse=True)
    return re.sub("|".join(map(re.escape, names)), lambda found: WORLD["replace"][found[0]], text)


def run_in_container(command: Sequence[str], environment: Mapping[str, str] = {}) -> int:
    """Runs a command with this process's standard streams, and returns its exit code."""
    given = {name: replaced(value) for name, value in environment.items() if name != "HOME"}
    return subprocess.run([replaced(word) for word in command], env={**os.environ, **given}, check=False).returncode


def ask_test(action: str, service: str) -> int:
    """Asks the test to `start`, `stop` or `restart` a service, and waits until that is done."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(WORLD["socket"])
        connection.sendall(f"{action} {service}\n".encode())
        return 0 if connection.recv(2) == b"ok" else 1


def run_job(spec: Mapping[str, Any]) -> int:
    """Runs the containers of a Job one after another, as a kubelet would run init containers."""
    pod = spec["template"]["spec"]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        code = run_in_container(container["command"], environment)
        if code:
            return code
    return 0


def kubectl(words: list[str]) -> int:
    words = words[2:] if words[:2] == ["-n", "pointsman"] else words
    match words:
        case ["create", "secret", "generic", *_] | ["wait", *_] | ["rollout", "status", *_]:
            return 0  # the commands before have waited
        case ["create", "job", _, source]:
            (cron_job,) = (each for each in WORLD["objects"] if each["kind"] == "CronJob")
            assert source == f"--from=cronjob/{cron_job['metadata']['name']}"
            return run_job(cron_job["spec"]["jobTemplate"]["spec"])
        case ["create", "-f", "-"]:
            return run_job(yaml.safe_load(sys.stdin)["spec"])
        case ["exec", "-i", "valkey-0", "-c", "valkey", "--", *command]:
            return run_in_container(command)
        case ["scale", "statefulset/valkey", replicas]:
            return ask_test("stop" if replicas == "--replicas=0" else "start", "valkey")
        case ["rollout", "restart", *workloads]:
            return max(ask_test("restart", workload.partition("/")[2]) for workload in workloads)
    raise AssertionError(f"kubectl {words}: the test does not know this command")


def docker(words: list[str]) -> int:
    match words:
        case ["compose", "exec", "-T", _, *command]:
            return run_in_container(command)
        case ["compose", "restart", *services]:
            return max(ask_test("restart", service.removesuffix("-cpu")) for service in services)
    raise AssertionError(f"docker {words}: the test does not know this command")


def valkey_cli(words: list[str]) -> int:
    """Implements what the page and its script use of valkey-cli."""
    words = words[2:] if words[:1] == ["-h"] else words
    with socket.create_connection(("127.0.0.1", WORLD["valkey_port"])) as connection:
        answer = connection.makefile("rb")
        if words[0] == "--rdb":
            connection.sendall(b"SYNC\r\n")
            size = next(line for line in answer if line.strip())
            data = answer.read(int(size[1:]))
            if words[1] == "-":
                sys.stdout.buffer.write(data + EOF_MARK)
            else:
                Path(words[1]).write_bytes(data)
            return 0
        parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
        connection.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
        first = answer.readline().decode().strip()
        values = [first[1:]]
        if first.startswith("*"):
            values = [answer.readline().decode().strip() for _ in range(2 * int(first[1:]))][1::2]
        print("\n".join(values))
    return 0


if __name__ == "__main__":
    sys.exit({"kubectl": kubectl, "docker": docker, "valkey-cli": valkey_cli}[sys.argv[1]](sys.argv[2:]))
