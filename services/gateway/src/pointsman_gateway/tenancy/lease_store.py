"""Speaks to Redis about the slices."""

import secrets
from collections.abc import Mapping, Sequence
from itertools import count

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys import redis_layout

from pointsman_gateway.tenancy.leases import LEASE_S, LeasedLimit
from pointsman_gateway.tenancy.limits import Clock
from pointsman_gateway.tenancy.metrics import TenancyMetrics

MAX_LIMITS_PER_CALL = 64
"""Accounts in one call: some hundred microseconds of Redis's time."""
_FIELDS_PER_ANSWER = 5

Needs = Mapping[LeasedLimit, tuple[int, int]]
"""What a request needs of each account, and what others that wait need beside it; the accounts are of one tenant, and
one speaks of a tenant's at a time."""


class LeaseStore:
    def __init__(self, redis: BoundedRedis, clock: Clock, metrics: TenancyMetrics) -> None:
        self.gateway = secrets.token_hex(8)
        self.gateways = 1
        """As Redis last said."""
        self._redis = redis
        self._clock = clock
        self._metrics = metrics
        self._exchange = redis.client.register_script(EXCHANGE_SCRIPT)
        self._poll = redis.client.register_script(POLL_SCRIPT)
        self._numbers = count(1)
        self._redis_is_ahead = clock.wall() * 1000 - clock.monotonic() * 1000
        """Milliseconds; a little less than Redis's clock is ahead of this one's."""

    async def exchange(self, needs: Needs) -> None:
        """Reports the accounts, and takes slices of them. Raises Unavailable."""
        accounts = list(needs)
        for start in range(0, len(accounts), MAX_LIMITS_PER_CALL):
            await self._exchange_part(
                {account: needs[account] for account in accounts[start : start + MAX_LIMITS_PER_CALL]}
            )

    async def _exchange_part(self, needs: Needs) -> None:
        number, sent = next(self._numbers), self._clock.monotonic()
        said = {account: account.ask(*need, self.gateways, sent) for account, need in needs.items()}
        arguments = [self._clock.ahead_ms(), self.gateways, round(LEASE_S * 1000)]
        for account, one in said.items():
            arguments += account.to_arguments(number, one)
        names = [account.name for account in needs]
        try:
            redis_ms, *answers = await self._redis.call(lambda: self._exchange(keys=names, args=arguments))
        except Unavailable:
            self._metrics.exchanges.labels("failed").inc()
            raise
        now = self._heard(redis_ms)
        self._metrics.exchanges.labels("done").inc()
        for at, (account, one) in enumerate(said.items()):
            account.install(answers[at * _FIELDS_PER_ANSWER : (at + 1) * _FIELDS_PER_ANSWER], one, sent, now)

    def go_on_alone(self, accounts: Sequence[LeasedLimit]) -> None:
        now = self._clock.monotonic()
        redis_ms = int(now * 1000 + self._redis_is_ahead)
        for account in accounts:
            account.go_on_alone(redis_ms, self.gateways, now)
        self._metrics.alone.inc(len(accounts))

    async def poll(self) -> int:
        """Says that this gateway is there; returns the keys' epoch. Raises Unavailable."""
        arguments = [self._clock.ahead_ms(), self.gateway, round(LEASE_S * 1000)]
        names = [redis_layout.GATEWAYS, redis_layout.EPOCH]
        redis_ms, self.gateways, epoch = await self._redis.call(lambda: self._poll(keys=names, args=arguments))
        self._heard(redis_ms)
        return int(epoch)

    async def leave(self) -> None:
        await self._redis.call(lambda: self._redis.client.zrem(redis_layout.GATEWAYS, self.gateway))

    def _heard(self, redis_ms: int) -> float:
        now = self._clock.monotonic()
        self._redis_is_ahead = redis_ms - now * 1000
        return now


EXCHANGE_SCRIPT = """
-- For each account (a key's or a tenant's limit in its present window): a gateway says what it has used of it so far,
-- and is told how much it may hold in all. Both are totals, not changes, so that saying it twice is saying it once;
-- what comes late has a lower number, and changes nothing. The sum of what all hold stays within the limit, but for
-- what was used beyond what was held.
local AN_ACCOUNT_HAS = 9
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
local gateways, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
local DAY = 86400000

local function whole(number) return string.format('%.0f', number) end

local function is_leap(year) return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) end

local function month_at(day) -- days since 1970
  local year = 1970
  while true do
    local days = is_leap(year) and 366 or 365
    if day < days then break end
    day, year = day - days, year + 1
  end
  local lengths = {31, is_leap(year) and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
  for month, days in ipairs(lengths) do
    if day < days then return year * 12 + month - 1, days - day end
    day = day - days
  end
end

local function window_at(kind) -- its number, and when it ends
  if kind == 'now' then return 0, now + lease end
  local length = kind == 'minute' and 60000 or DAY
  local number = math.floor(now / length)
  if kind ~= 'month' then return number, (number + 1) * length end
  local month, days_left = month_at(number)
  return month, (number + days_left) * DAY
end

local function read(text)
  if not text then return {held = 0, used = 0, number = 0, expires = 0} end
  local held, used, number, expires = string.match(text, '^(%-?%d+) (%-?%d+) (%d+) (%d+)$')
  return {held = tonumber(held), used = tonumber(used), number = tonumber(number), expires = tonumber(expires)}
end

local function write(key, holder, slice)
  redis.call('HSET', key, holder,
    whole(slice.held) .. ' ' .. whole(slice.used) .. ' ' .. whole(slice.number) .. ' ' .. whole(slice.expires))
end

-- What gateways hold that have not been heard of for the time of a lease: what they did not use comes back. A stream
-- ends with its gateway, so those come back whole. Returns how much is held, and used, less.
local function reclaim(key, kind, holder)
  local held_less, used_less = 0, 0
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    local name = all[at]
    if string.find(name, '.', 1, true) and name ~= holder then
      local slice = read(all[at + 1])
      if slice.expires < now then
        local stays = kind == 'now' and 0 or slice.used
        held_less = held_less + slice.held - stays
        if kind == 'now' then
          used_less = used_less + slice.used
          redis.call('HDEL', key, name)
        elseif slice.expires < now - DAY then
          redis.call('HDEL', key, name) -- the sums keep what it used
        elseif slice.held ~= stays then
          slice.held = stays
          write(key, name, slice)
        end
      end
    end
  end
  return held_less, used_less
end

local answers = {now}
for number, key in ipairs(KEYS) do
  local at = 3 + (number - 1) * AN_ACCOUNT_HAS
  local kind, holder = ARGV[at + 1], ARGV[at + 2]
  local limit, told, window = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local used, carried = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local wish, need = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  local current, ends = window_at(kind)
  local kept = redis.call('HMGET', key, 'window', 'held', 'used', holder)
  if kept[1] ~= whole(current) then
    redis.call('DEL', key)
    kept = {whole(current), '0', '0', false}
  end
  local all_held, all_used, mine = tonumber(kept[2]), tonumber(kept[3]), read(kept[4])
  if told > mine.number then
    used = (window == current and used or 0) + carried
    local others = all_held - mine.held
    local left = limit - others - used
    if left < math.max(wish, need) then
      local held_less, used_less = reclaim(key, kind, holder)
      others, all_used, left = others - held_less, all_used - used_less, left + held_less
    end
    local spare = math.min(wish, math.floor(left / (2 * gateways))) -- the less is left, the smaller the slices
    if need <= left then spare = math.max(spare, need) end
    -- Never less than what the gateway goes on holding by its own word: it may not hear this answer.
    spare = math.max(spare, math.min(mine.held - used, wish), 0)
    all_used = all_used - mine.used + used
    mine = {held = used + spare, used = used, number = told, expires = now + lease}
    all_held = others + mine.held
    if kind == 'now' and mine.held == 0 then
      redis.call('HDEL', key, holder)
    else
      write(key, holder, mine)
    end
    redis.call('HSET', key, 'window', whole(current), 'held', whole(all_held), 'used', whole(all_used))
    redis.call('PEXPIRE', key, whole(ends - now + (kind == 'minute' and 60000 or DAY)))
  end
  for _, value in ipairs({current, ends - now, mine.held, limit - all_held, limit - all_used}) do
    answers[#answers + 1] = value
  end
end
return answers
"""

POLL_SCRIPT = """
-- A gateway says that it is there, and hears how many are, and whether keys have changed.
local gateways, epoch = KEYS[1], KEYS[2]
local ahead, id, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + ahead
redis.call('ZREMRANGEBYSCORE', gateways, '-inf', now)
redis.call('ZADD', gateways, now + lease, id)
return {now, redis.call('ZCARD', gateways), tonumber(redis.call('GET', epoch) or '0')}
"""

COUNT_SCRIPT = """
-- Adds what was used on a day. A batch has its writer's next number.
local writer, usage = KEYS[1], KEYS[2]
local number, keep, counts = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if tonumber(redis.call('GET', writer) or '0') >= number then return 0 end
for at = 4, 2 + 2 * counts, 2 do redis.call('HINCRBY', usage, ARGV[at], ARGV[at + 1]) end
redis.call('EXPIRE', usage, keep)
redis.call('SET', writer, number, 'EX', 86400)
return 1
"""
