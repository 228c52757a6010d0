"""Exchanges quota leases with Redis, and the Lua scripts that do so atomically."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from itertools import count

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.administration import BUDGET_WARNING_SHARE
from pointsman_servicekit.keys.records import NANO

from pointsman_gateway.tenancy.leases import LEASE_S, LeasedLimit
from pointsman_gateway.tenancy.limits import Clock, TenancyMetrics

log = logging.getLogger(__name__)

MAX_LIMITS_PER_CALL = 64
"""Limits in one call: a few hundred microseconds of Redis's time."""
_FIELDS_PER_ANSWER = 5

Needs = Mapping[LeasedLimit, tuple[int, int]]
"""By limit: the amount that one request needs, and the amount that other waiting requests need.

All limits belong to one tenant, and one exchange per tenant runs at a time.
"""


class LeaseStore:
    def __init__(self, redis: BoundedRedis, clock: Clock, metrics: TenancyMetrics) -> None:
        self.gateway = secrets.token_hex(8)
        """Identifies this gateway process."""
        self.gateways = 1
        """The number of running gateways, as Redis last reported it."""
        self.nearly_spent: set[LeasedLimit] = set()
        """Dollar budgets that are used up to the warning level, or were so in their last window."""
        self._redis = redis
        self._clock = clock
        self.metrics = metrics
        self._exchange_script = redis.client.register_script(EXCHANGE_SCRIPT)
        self._poll_script = redis.client.register_script(POLL_SCRIPT)
        self._numbers = count(1)
        self._redis_offset_ms = clock.wall() * 1000 - clock.monotonic() * 1000
        """Lower bound of the difference between the clock of Redis and this process's monotonic clock."""

    async def exchange(self, needs: Needs) -> None:
        """Reports usage to Redis and renews leases; raises Unavailable."""
        limits = list(needs)
        for start in range(0, len(limits), MAX_LIMITS_PER_CALL):
            await self._exchange_batch({limit: needs[limit] for limit in limits[start : start + MAX_LIMITS_PER_CALL]})

    async def _exchange_batch(self, needs: Needs) -> None:
        number, sent = next(self._numbers), self._clock.monotonic()
        reports = {limit: limit.report(*need, self.gateways, sent) for limit, need in needs.items()}
        arguments = [self._clock.ahead_ms(), self.gateways, round(LEASE_S * 1000)]
        for limit, report in reports.items():
            arguments += limit.to_arguments(number, report)
        keys = [limit.name for limit in needs]
        try:
            redis_ms, *answers = await self._redis.call(lambda: self._exchange_script(keys=keys, args=arguments))
        except Unavailable:
            self.metrics.renewals.labels("failed").inc()
            raise
        now = self._synchronize_clock(redis_ms)
        self.metrics.renewals.labels("done").inc()
        for at, (limit, report) in enumerate(reports.items()):
            answer = answers[at * _FIELDS_PER_ANSWER : (at + 1) * _FIELDS_PER_ANSWER]
            limit.install(answer, report, sent, now)
            if limit.is_budget:
                self._note_budget(limit, limit.spent_share(now))

    def _note_budget(self, limit: LeasedLimit, share: float) -> None:
        """Logs a warning when a budget first reaches the warning level."""
        if share < BUDGET_WARNING_SHARE:
            self.nearly_spent.discard(limit)
        elif limit not in self.nearly_spent:
            self.nearly_spent.add(limit)
            self.metrics.budget_warnings.labels(limit.limit, limit.owner).inc()
            log.warning(
                "a budget is nearly spent: %d %% of %s (%.6g dollars) are used; Redis key %s",
                share * 100,
                limit.limit,
                limit.maximum / NANO,
                limit.name,
            )

    def use_local_fallback(self, limits: Sequence[LeasedLimit]) -> None:
        """Continues with local limits, while Redis is unavailable."""
        now = self._clock.monotonic()
        redis_ms = int(now * 1000 + self._redis_offset_ms)
        for limit in limits:
            limit.use_local_fallback(redis_ms, self.gateways, now)
        self.metrics.local_fallbacks.inc(len(limits))

    async def poll(self, redis: BoundedRedis) -> int:
        """Registers this gateway as running; returns the epoch of the keys. Raises Unavailable."""
        arguments = [self._clock.ahead_ms(), self.gateway, round(LEASE_S * 1000)]
        keys = [redis_layout.GATEWAYS, redis_layout.EPOCH]
        redis_ms, self.gateways, epoch = await redis.call(
            lambda: self._poll_script(keys=keys, args=arguments, client=redis.client)
        )
        self._synchronize_clock(redis_ms)
        self.metrics.clock_offset.set(self._clock.wall() - redis_ms / 1000)
        return int(epoch)

    async def leave(self) -> None:
        """Removes this gateway from the running ones; raises Unavailable."""
        await self._redis.call(lambda: self._redis.client.zrem(redis_layout.GATEWAYS, self.gateway))

    def _synchronize_clock(self, redis_ms: int) -> float:
        now = self._clock.monotonic()
        self._redis_offset_ms = redis_ms - now * 1000
        return now


EXCHANGE_SCRIPT = """
-- For each limit of a key or tenant in its current window: a gateway reports how much of it it has used, and gets how
-- much it may hold in total. Both are totals, not differences, so the exchange is idempotent; a report that arrives
-- late has a lower number and changes nothing. The sum of all leases stays within the limit, except for what was used
-- in excess of a lease. Uses the clock of Redis.
local ARGUMENTS_PER_LIMIT = 9
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

local function window_at(kind) -- number and end of the current window
  if kind == 'now' then return 0, now + lease end
  local length = kind == 'minute' and 60000 or DAY
  local number = math.floor(now / length)
  if kind ~= 'month' then return number, (number + 1) * length end
  local month, days_left = month_at(number)
  return month, (number + days_left) * DAY
end

local function read_lease(text)
  if not text then return {held = 0, used = 0, number = 0, expires = 0} end
  local held, used, number, expires = string.match(text, '^(%-?%d+) (%-?%d+) (%d+) (%d+)$')
  return {held = tonumber(held), used = tonumber(used), number = tonumber(number), expires = tonumber(expires)}
end

local function write_lease(key, holder, lease)
  redis.call('HSET', key, holder,
    whole(lease.held) .. ' ' .. whole(lease.used) .. ' ' .. whole(lease.number) .. ' ' .. whole(lease.expires))
end

-- Takes back the unused part of leases that have expired, because their gateway has not reported since. Streams end
-- with their gateway, so those leases are taken back completely. Returns by how much the held and used sums decrease.
local function reclaim(key, kind, holder)
  local held_less, used_less = 0, 0
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    local name = all[at]
    if string.find(name, '.', 1, true) and name ~= holder then
      local expired = read_lease(all[at + 1])
      if expired.expires < now then
        local stays = kind == 'now' and 0 or expired.used
        held_less = held_less + expired.held - stays
        if kind == 'now' then
          used_less = used_less + expired.used
          redis.call('HDEL', key, name)
        elseif expired.expires < now - DAY then
          redis.call('HDEL', key, name) -- the sums still include what it used
        elseif expired.held ~= stays then
          expired.held = stays
          write_lease(key, name, expired)
        end
      end
    end
  end
  return held_less, used_less
end

local answers = {now}
for number, key in ipairs(KEYS) do
  local at = 3 + (number - 1) * ARGUMENTS_PER_LIMIT
  local kind, holder = ARGV[at + 1], ARGV[at + 2]
  local limit, report_number, window = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local used, carried = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local wish, need = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  local current, ends = window_at(kind)
  local stored = redis.call('HMGET', key, 'window', 'held', 'used', holder)
  if stored[1] ~= whole(current) then
    redis.call('DEL', key)
    stored = {whole(current), '0', '0', false}
  end
  local all_held, all_used, mine = tonumber(stored[2]), tonumber(stored[3]), read_lease(stored[4])
  if report_number > mine.number then
    used = (window == current and used or 0) + carried
    local others = all_held - mine.held
    local left = limit - others - used
    if left < math.max(wish, need) then
      local held_less, used_less = reclaim(key, kind, holder)
      others, all_used, left = others - held_less, all_used - used_less, left + held_less
    end
    local spare = math.min(wish, math.floor(left / (2 * gateways))) -- leases shrink as the limit is approached
    if need <= left then spare = math.max(spare, need) end
    -- Never less than what the gateway reports to keep, since this answer may not reach it.
    spare = math.max(spare, math.min(mine.held - used, wish), 0)
    all_used = all_used - mine.used + used
    mine = {held = used + spare, used = used, number = report_number, expires = now + lease}
    all_held = others + mine.held
    if kind == 'now' and mine.held == 0 then
      redis.call('HDEL', key, holder)
    else
      write_lease(key, holder, mine)
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
-- Registers a gateway as running; returns the number of running gateways and the epoch of the keys.
local gateways, epoch = KEYS[1], KEYS[2]
local ahead, id, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + ahead
redis.call('ZREMRANGEBYSCORE', gateways, '-inf', now)
redis.call('ZADD', gateways, now + lease, id)
return {now, redis.call('ZCARD', gateways), tonumber(redis.call('GET', epoch) or '0')}
"""

COUNT_SCRIPT = """
-- Adds usage to a day. A writer's batches are numbered; one that was written before is ignored.
local writer, usage = KEYS[1], KEYS[2]
local number, keep, counts = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if tonumber(redis.call('GET', writer) or '0') >= number then return 0 end
for at = 4, 2 + 2 * counts, 2 do redis.call('HINCRBY', usage, ARGV[at], ARGV[at + 1]) end
redis.call('EXPIRE', usage, keep)
redis.call('SET', writer, number, 'EX', 86400)
return 1
"""
