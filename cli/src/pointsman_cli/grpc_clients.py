"""gRPC channels and stubs for the services, and calls that ask a question and that list and register adapters.

Channels use plain text, or TLS if POINTSMAN_CLIENT_TLS_CA names a file. POINTSMAN_CLIENT_TLS_CERTIFICATE and
POINTSMAN_CLIENT_TLS_KEY name a client certificate for services that ask for one. POINTSMAN_CLIENT_TLS_SERVER_NAME is
the name in the service's certificate, if it differs from the address (for example through a forwarded port).
`data_dir` says which token is sent to which service.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pointsman.v1 import (
    gateway_pb2,
    gateway_pb2_grpc,
    lora_server_pb2,
    lora_server_pb2_grpc,
    retriever_pb2_grpc,
    training_pb2_grpc,
)
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit import grpc_client
from pointsman_servicekit.errors import DeadlineExceeded
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.tls import ClientTls, TlsError, client_tls

from pointsman_cli.data_dir import token_for
from pointsman_cli.errors import CommandError
from pointsman_cli.example import ExampleAdapter
from pointsman_cli.gateway_http import AnswerEnd, ConsideredPath, Decision, Event, Question, TextChunk
from pointsman_cli.options import bearer

CALL_SECONDS = 10.0
"""Timeout in seconds of a call that the lora-server answers from Redis, without waiting for an engine."""
LOAD_SECONDS = 180.0
"""Timeout in seconds of a call that waits until the engine has loaded an adapter or finished running requests."""

_TIMEOUT_SECONDS = 130.0

_REGISTER_SECONDS = 600.0
"""Timeout in seconds of a registration.

It covers checks, a copy, a smoke test, loading and the first slow generation. A smoke test and the start of its process
take 12 s of one core, and beside a busy engine they get a tenth of a core. Smoke tests run one after the other.
"""
_LIST_SECONDS = 10.0


def open_channel(address: str) -> grpc.aio.Channel:
    """Opens a channel to the lora-server or the retriever at `address` ("HOST:PORT"), with its access token, if any.

    `token_for` of `data_dir` says which token this is. Raises CommandError if the token file, or a TLS file that the
    environment names, cannot be used.
    """
    return open_anonymous_channel(address, token_for(address))


def open_anonymous_channel(address: str, token: grpc_client.Token | None = None) -> grpc.aio.Channel:
    """Opens a channel to `address` ("HOST:PORT") without an access token from the data directory.

    Used for calls to the gateway and for health checks. `token` is a function that returns the token to send; None: no
    token is sent. Raises CommandError if a TLS file that the environment names cannot be used.
    """
    try:
        return grpc_client.open_channel(address, _tls(), token=token)
    except TlsError as error:
        raise CommandError(f"POINTSMAN_CLIENT_TLS_*: {error}") from error


def _tls() -> ClientTls | None:
    ca, certificate, key = (_file(f"POINTSMAN_CLIENT_TLS_{name}") for name in ("CA", "CERTIFICATE", "KEY"))
    return client_tls(ca, certificate, key, os.environ.get("POINTSMAN_CLIENT_TLS_SERVER_NAME", ""))


def _file(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def gateway_stub(channel: grpc.aio.Channel) -> gateway_pb2_grpc.GatewayStub:
    return gateway_pb2_grpc.GatewayStub(channel)


def retriever_stub(channel: grpc.aio.Channel) -> retriever_pb2_grpc.RetrieverStub:
    return retriever_pb2_grpc.RetrieverStub(channel)


def lora_server_stub(channel: grpc.aio.Channel) -> lora_server_pb2_grpc.LoraServerStub:
    return lora_server_pb2_grpc.LoraServerStub(channel)


def training_stub(channel: grpc.aio.Channel) -> training_pb2_grpc.TrainingStub:
    return training_pb2_grpc.TrainingStub(channel)


@contextmanager
def service_errors(service: str) -> Iterator[None]:
    """Converts the gRPC error of a call that fails in the `with` block to a PointsmanError with a readable message.

    This is the error that the service reported, else DeadlineExceeded or Unavailable. `service` is the service's name
    in the message.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, service) from error


async def call_lora_server(address: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """Connects to the lora-server at `address` ("HOST:PORT"), awaits `call` with a client stub, returns the result.

    Raises a PointsmanError if the call fails, and CommandError if a token or TLS file cannot be used.
    """
    async with open_channel(address) as channel:
        with service_errors("lora-server"):
            return await call(lora_server_stub(channel))


async def fetch_adapters(address: str, name: str) -> pb.ListAdaptersResponse:
    """Returns the versions, aliases and placements of the adapter `name`; of all adapters if `name` is empty.

    `address` is that of the lora-server. Raises a PointsmanError if the call fails, and CommandError if a token or TLS
    file cannot be used.
    """
    request = pb.ListAdaptersRequest(name=name)
    response: pb.ListAdaptersResponse = await call_lora_server(
        address, lambda server: server.List(request, timeout=CALL_SECONDS)
    )
    return response


async def ask_grpc(address: str, question: Question, key: str = "") -> AsyncIterator[Event]:
    """Sends the question over gRPC and yields the events of the answer: one Decision, TextChunks, and one AnswerEnd.

    The answer is always streamed. `key` is the API key; none is sent if it is empty. The AnswerEnd has no cached
    tokens, cost parts, finish reason or model. Raises a PointsmanError as `service_errors` does, or CommandError as
    `open_anonymous_channel` does.
    """
    request = gateway_pb2.GenerateRequest(
        model=question.model, messages=[gateway_pb2.Message(role="user", content=question.text)]
    )
    async with open_anonymous_channel(address) as channel:
        with service_errors("gateway"):
            async for event in gateway_stub(channel).GenerateStream(
                request, timeout=_TIMEOUT_SECONDS, metadata=tuple(bearer(key).items())
            ):
                match event.WhichOneof("event"):
                    case "started":
                        yield _decision(event.started.decision)
                    case "delta":
                        yield TextChunk(event.delta.content)
                    case "finished":
                        yield _answer_end(event.finished.receipt)


def _decision(decision: gateway_pb2.Decision) -> Decision:
    return grpc_client.from_message(
        Decision,
        decision,
        probabilities={entry.task: entry.probability for entry in decision.probabilities},
        considered=tuple(grpc_client.from_message(ConsideredPath, entry) for entry in decision.considered),
        expected_cost_usd=decision.expected_cost_usd if decision.HasField("expected_cost_usd") else None,
        costs_usd={},
        notes=tuple(decision.notes),
    )


def _answer_end(receipt: gateway_pb2.Receipt) -> AnswerEnd:
    return AnswerEnd(
        prompt_tokens=receipt.usage.prompt_tokens,
        completion_tokens=receipt.usage.completion_tokens,
        cost_usd=receipt.cost_usd if receipt.HasField("cost_usd") else None,
        path=receipt.path,
        sources=tuple(source.heading or source.title or source.document_id for source in receipt.sources),
        escalated_from=receipt.escalated_from,
        default_max_tokens=receipt.default_max_tokens or None,
    )


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an adapter to register comes from, and whether its alias is moved without regard to its evaluation."""

    parent: str = ""
    """The adapter version from which the training started, such as "triage@3f9a1c0b77de"; empty if from none."""
    author: str = ""
    """The name of the person or program that registers the adapter, for the lora-server's history of changes."""
    force: bool = False
    """Whether to move the alias even if the evaluation found that prompting the base model is as good."""


@dataclass(frozen=True, slots=True)
class RegisteredAdapter:
    """The result of a registration: the new adapter version ("triage@3f9a1c0b77de") and the aliases it has."""

    version: str  # "triage@3f9a1c0b77de"
    aliases: tuple[str, ...]  # "triage@prod"

    def __str__(self) -> str:
        return f"{self.version} ({', '.join(self.aliases)})" if self.aliases else self.version


async def register_adapter(
    address: str, adapter: ExampleAdapter, facts: Mapping[str, str], origin: Provenance | None = None
) -> RegisteredAdapter:
    """Registers an adapter at the lora-server; then moves the adapter's alias, if it has one, to the new version.

    The lora-server checks, smoke-tests and loads the adapter before it moves the alias. The lora-server continues even
    if this call is cancelled or times out. It writes `facts` into the adapter's manifest.

    Raises DeadlineExceeded after `_REGISTER_SECONDS`; a PointsmanError or CommandError as `call_lora_server` does.
    """
    origin = origin or Provenance()
    request = lora_server_pb2.RegisterRequest(
        name=adapter.name,
        folder=adapter.folder if isinstance(adapter.folder, str) else str(adapter.folder.absolute()),
        alias=adapter.alias,
        facts=dict(facts),
        parent=origin.parent,
        author=origin.author,
        force=origin.force,
    )
    async with open_channel(address) as channel:
        try:
            with service_errors("lora-server"):
                version = await lora_server_stub(channel).Register(request, timeout=_REGISTER_SECONDS)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"{error.message} ({_REGISTER_SECONDS:.0f} s); it goes on by itself: `pointsman adapters list` shows "
                "how far it is",
                code=error.code,
            ) from error
    return _registered(version)


async def list_registered(address: str) -> tuple[RegisteredAdapter, ...]:
    async with open_channel(address) as channel:
        with service_errors("lora-server"):
            answer = await lora_server_stub(channel).List(lora_server_pb2.ListAdaptersRequest(), timeout=_LIST_SECONDS)
    return tuple(_registered(version) for version in answer.versions)


def _registered(version: lora_server_pb2.AdapterVersion) -> RegisteredAdapter:
    return RegisteredAdapter(version.version, tuple(version.aliases))
