"""Opens the store that remembers which path answers each conversation; with Redis, all gateways share it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from pointsman_servicekit.bounded_redis import open_redis

from pointsman_gateway.bootstrap.redis import RedisState
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.conversations.memory import ConversationMemory
from pointsman_gateway.conversations.stage import ConversationBook
from pointsman_gateway.conversations.store import RedisConversations
from pointsman_gateway.settings import Settings


@asynccontextmanager
async def open_conversations(settings: Settings, state: RedisState) -> AsyncIterator[ConversationBook]:
    """A context manager that yields the gateway's memory of conversations, such as the path that answers each of them.

    With a Redis URL, the memory is shared with other gateways through Redis. Raises ConfigError if the URL is invalid.
    """
    memory = ConversationMemory(settings.conversation_ttl)
    if not settings.redis_url:
        yield ConversationBook(memory)
        return
    async with AsyncExitStack() as stack:
        # A connection of its own: requests wait for it, and the writes of others must not delay them.
        try:
            redis = await stack.enter_async_context(
                open_redis(settings.redis_url, partial(state.set_up, "conversations"))
            )
        except ValueError as error:
            raise ConfigError(f"POINTSMAN_GATEWAY_REDIS_URL is no address of Redis: {error}") from error
        store = RedisConversations(redis, settings.conversation_ttl)
        await stack.enter_async_context(store.running())
        yield ConversationBook(memory, store)
