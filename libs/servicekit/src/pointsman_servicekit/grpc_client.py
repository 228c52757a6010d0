"""Opens gRPC channels to the services, and converts values to and from messages for both sides."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from pointsman_servicekit.grpc_server import MAX_MESSAGE_BYTES
from pointsman_servicekit.tls import ClientTls

Interceptors: TypeAlias = Sequence[grpc.aio.ClientInterceptor]
Token: TypeAlias = Callable[[], str]
"""A function that returns the current token. The token may be replaced while the channel is open."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def open_channel(
    address: str, tls: ClientTls | None = None, interceptors: Interceptors = (), token: Token | None = None
) -> grpc.aio.Channel:
    """Opens a channel to `address` ("127.0.0.1:8082"), which connects at the first call.

    After a failure the channel connects again within a second. Each call sends what `token` returns as its bearer
    token, or no token if `token` is None. Without `tls` the channel is not encrypted. Received messages may have
    `MAX_MESSAGE_BYTES` bytes. Raises TlsError if the files of `tls` cannot be read or used.
    """
    channel = _open_channel(address, tls, interceptors)
    return channel if token is None else _AuthenticatedChannel(channel, token)


def _open_channel(address: str, tls: ClientTls | None, interceptors: Interceptors) -> grpc.aio.Channel:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    ca, key, certificate = tls.pem()
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


class _AuthenticatedChannel(grpc.aio.Channel):
    """Wraps a channel: adds the token to the metadata of each call.

    grpc.aio's client interceptors would run every call in two more tasks, and its call credentials need TLS.
    """

    def __init__(self, channel: grpc.aio.Channel, token: Token) -> None:
        self._channel = channel
        self._token = token

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._authenticated(self._channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._authenticated(self._channel.unary_stream(*arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._authenticated(self._channel.stream_unary(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._authenticated(self._channel.stream_stream(*arguments, **options))

    def _authenticated(self, call: Any) -> Any:
        def authenticated(*arguments: Any, metadata: Any = None, **options: Any) -> Any:
            bearer = ("authorization", f"Bearer {self._token()}")
            return call(*arguments, metadata=(*(metadata or ()), bearer), **options)

        return authenticated

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> "_AuthenticatedChannel":
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()


def to_message(kind: type[M], source: object, **fields: Any) -> M:
    """Creates a gRPC message of the class `kind` from an object.

    Fields that are in `fields` get the value given there. Each other field gets the value of the attribute of `source`
    with the same name. Raises AttributeError if `source` lacks an attribute.
    """
    missing = kind.DESCRIPTOR.fields_by_name.keys() - fields.keys()
    return kind(**{name: getattr(source, name) for name in missing}, **fields)


def from_message(kind: type[T], message: Message, **fields: Any) -> T:
    """Creates an object of the dataclass `kind` from a gRPC message.

    Fields that are in `fields` get the value given there. Each other field is copied from the field of `message` with
    the same name. Fields of message or repeated types must be given in `fields`, because copied fields are not
    converted.
    """
    missing = {field.name for field in dataclasses.fields(kind)} - fields.keys()  # type: ignore[arg-type]  # it is one
    return kind(**{name: getattr(message, name) for name in missing}, **fields)
