"""Where in Redis what is; the braces keep all of it in one slot of a cluster, since scripts touch several keys."""

import hashlib
import time
from datetime import UTC, datetime
from functools import lru_cache

SECONDS_PER_DAY = 24 * 60 * 60

DECISIONS = "{pointsman}:decisions"
"""A stream; each entry has `decision` (its id), `entry` (JSON), `cell` and `day` (what its ratings count for)."""

INDEX = "{pointsman}:decisions:index"
"""A hash: a decision's id to its place in the stream."""

UNDECIDED = "{pointsman}:undecided"
"""A stream: the receipts of requests that came to no decision, each in one field, `entry` (JSON)."""

FEEDBACK = "{pointsman}:feedback"
"""A stream, with one entry for each decision of which something was said."""

FEEDBACK_INDEX = "{pointsman}:feedback:index"
"""A hash: a decision's id to its place in that stream."""

EVIDENCE = "{pointsman}:evidence:"
"""With a day (YYYYMMDD, UTC) behind it: a hash of counts, a cell and the name of the count to a whole number."""

TRAINING_SAMPLES = "{pointsman}:lessons"
"""A stream of answers that are kept to learn from: `decision`, `tenant` and `lesson` (JSON)."""

WRITER = "{pointsman}:writer:"
"""With a writer's id behind it, one for each start of a gateway: the number of the last batch that it wrote."""


def today() -> str:
    return day_of(time.time())


def day_of(unix_seconds: float) -> str:
    return _name(int(unix_seconds // SECONDS_PER_DAY))


def last_days(count: int) -> list[str]:
    """Today and the days before it, newest first."""
    newest = int(time.time() // SECONDS_PER_DAY)
    return [_name(newest - back) for back in range(count)]


def hash_to_unit_interval(decision_id: str) -> float:
    """Where a decision lies between 0 and 1; decisions lie evenly."""
    return int.from_bytes(hashlib.blake2b(f"lesson {decision_id}".encode(), digest_size=8).digest()) / 2**64


@lru_cache(maxsize=512)
def _name(day: int) -> str:
    return datetime.fromtimestamp(day * SECONDS_PER_DAY, UTC).strftime("%Y%m%d")


WRITER_TTL_S = 14 * SECONDS_PER_DAY
"""Seconds that it is known which batch a gateway wrote last, and so which receipts on its disk are written."""

WRITE_SCRIPT = (
    f"local WRITER_TTL_S = {WRITER_TTL_S}"
    + """
-- Adds decisions and counts, and trims to the cap, index and stream alike. A batch has its writer's next number. Who
-- writes for a writer that is gone says which number was the last: with another one nothing is written.
-- The decisions come as one argument, in MessagePack: to write and to read each of their fields as one of its own takes
-- the gateway five times as long.
local stream, index, writer, lessons = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most, keep, number, decisions = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), cmsgpack.unpack(ARGV[4])
local most_lessons, learnt = tonumber(ARGV[5]), 0
if tonumber(redis.call('GET', writer) or '0') >= number then return redis.call('XLEN', stream) end
local most_undecided, undecided = ARGV[6], tonumber(ARGV[7])
if ARGV[8] ~= '' and (redis.call('GET', writer) or '0') ~= ARGV[8] then return -1 end
for entry = 9, 8 + undecided do
  redis.call('XADD', KEYS[5], 'MAXLEN', most_undecided, '*', 'entry', ARGV[entry])
end
for _, decision in ipairs(decisions) do
  local id, cell, day, entry, tenant, lesson = unpack(decision)
  if redis.call('HEXISTS', index, id) == 0 then
    local place = redis.call('XADD', stream, '*', 'decision', id, 'cell', cell, 'day', day, 'entry', entry)
    redis.call('HSET', index, id, place)
    if lesson ~= '' then
      redis.call('XADD', lessons, '*', 'decision', id, 'tenant', tenant, 'lesson', lesson)
      learnt = learnt + 1
    end
  end
end
local at = 9 + undecided
for day = 6, #KEYS do
  local counts = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, counts do
    redis.call('HINCRBY', KEYS[day], ARGV[at], ARGV[at + 1])
    at = at + 2
  end
  redis.call('EXPIRE', KEYS[day], keep)
end
-- Where the cap has been lowered, the rest goes with the next batches: a script must not keep others waiting.
local over = math.min(redis.call('XLEN', stream) - most, #decisions + 1000)
if over > 0 then
  for _, old in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', over)) do
    redis.call('HDEL', index, old[2][2])
    redis.call('XDEL', stream, old[1])
  end
end
if learnt > 0 then
  local there = redis.call('XLEN', lessons)
  redis.call('XTRIM', lessons, 'MAXLEN', math.max(most_lessons, there - learnt - 1000))
end
redis.call('SET', writer, number, 'EX', WRITER_TTL_S)
return redis.call('XLEN', stream)
"""
)

ADD_FEEDBACK_SCRIPT = """
-- Takes what is said of a decision. One decision has one entry: each thing said takes the place of what was said of it
-- before; what was said earlier, and comes late, fills the gaps. Its rating counts once, in the day of the decision.
local decisions, index, feedback, said_of, evidence = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, name, now, most, per_rating = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local keep, tenant, call = tonumber(ARGV[6]), ARGV[11], ARGV[12]
local things = {'rating', 'correction', 'right_task', 'right_answer'}

local function read(stream, place)
  local found = place and redis.call('XRANGE', stream, place, place)[1]
  if not found then return nil end
  local fields = {}
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  return fields
end

local place = redis.call('HGET', said_of, id)
local before = read(feedback, place)
local decided = before or read(decisions, redis.call('HGET', index, id))
if not decided then return 'unknown' end
if tenant ~= '' then -- another tenant's answers are not there for it; those made without keys are nobody's
  local whose = cjson.decode(decided.entry).tenant
  if whose ~= nil and whose ~= '' and whose ~= tenant then return 'unknown' end
end
before = before or {ids = '', unix_ms = '0', rating = '', correction = '', right_task = '', right_answer = ''}
local ids = {name .. '@' .. call}
for known in string.gmatch(before.ids, '%S+') do
  if known == ids[1] then return 'stored' end -- by this very call, of which nobody heard the answer
  if string.match(known, '^[^@]+') == name then return 'known' end
  if #ids < 32 then ids[#ids + 1] = known end
end

local late = tonumber(now) < tonumber(before.unix_ms)
local after = {}
for i, thing in ipairs(things) do
  local said = ARGV[6 + i]
  local stays = said == '' or (late and before[thing] ~= '')
  after[thing] = stays and before[thing] or said
end

local function count(rating, sign)
  if rating == '' or decided.cell == '' then return end
  local key = evidence .. decided.day
  redis.call('HINCRBY', key, decided.cell .. 'rated', sign)
  redis.call('HINCRBY', key, decided.cell .. 'rating', sign * math.floor(tonumber(rating) * per_rating + 0.5))
  redis.call('EXPIRE', key, keep)
end
if before.rating ~= after.rating then
  count(before.rating, -1)
  count(after.rating, 1)
end

if place then redis.call('XDEL', feedback, place) end
place = redis.call('XADD', feedback, '*', 'decision', id, 'ids', table.concat(ids, ' '),
  'unix_ms', late and before.unix_ms or now, 'rating', after.rating, 'correction', after.correction,
  'right_task', after.right_task, 'right_answer', after.right_answer,
  'cell', decided.cell, 'day', decided.day, 'entry', decided.entry)
redis.call('HSET', said_of, id, place)
local over = math.min(redis.call('XLEN', feedback) - most, 1000)
if over > 0 then
  for _, old in ipairs(redis.call('XRANGE', feedback, '-', '+', 'COUNT', over)) do
    redis.call('HDEL', said_of, old[2][2])
    redis.call('XDEL', feedback, old[1])
  end
end
return 'stored'
"""

EVIDENCE_SCRIPT = """
-- KEYS: the evidence of a day. Returns its fields and numbers in turns, as one JSON text.
return cjson.encode(redis.call('HGETALL', KEYS[1]))
"""
