"""Redis keys of the request log, and the Lua scripts that change them atomically.

All keys have the same hash tag (in braces), so that they are in one slot of a Redis Cluster, as scripts need that touch
several keys. Each script is idempotent: it may run twice, or late, and counts once.
"""

import hashlib
import time
from datetime import UTC, datetime
from functools import lru_cache

SECONDS_PER_DAY = 24 * 60 * 60

DECISIONS = "{pointsman}:decisions"
"""Stream of decisions: `decision` (its id), `entry` (JSON), `evidence_key` and `day` (what its ratings count for)."""

INDEX = "{pointsman}:decisions:index"
"""Hash from a decision's id to its entry id in the stream."""

UNDECIDED = "{pointsman}:undecided"
"""Stream of the receipts of requests without a decision: `entry` (JSON)."""

FEEDBACK = "{pointsman}:feedback"
"""Stream of feedback, with one entry per decision that has any."""

FEEDBACK_INDEX = "{pointsman}:feedback:index"
"""Hash from a decision's id to its entry id in the stream of feedback."""

EVIDENCE = "{pointsman}:evidence:"
"""Followed by a day (YYYYMMDD, UTC): a hash from an evidence key and the name of a count to a whole number."""

EVALUATION = "{pointsman}:evaluation:"
"""Followed by an evaluation's id: a hash from an evidence key to what it counts there: day, rows, sum of scores."""

PAIR_SCORES = "{pointsman}:shadow:scores"
"""Stream of scored shadow requests: `decision`, and `scores` (JSON: an evidence key and a score for both answers)."""

TRAINING_SAMPLES = "{pointsman}:training_samples"
"""Stream of answers that may be used for training: `decision`, `tenant` and `sample` (JSON)."""

WRITER = "{pointsman}:writer:"
"""Followed by a writer's id, which is new at each start of a gateway: the number of the last batch that it wrote."""


def today() -> str:
    return day_of(time.time())


def day_of(unix_seconds: float) -> str:
    """Returns the UTC day of a time in Unix seconds, as YYYYMMDD."""
    return _name(int(unix_seconds // SECONDS_PER_DAY))


def last_days(count: int) -> list[str]:
    """Returns today and the days before it, newest first."""
    newest = int(time.time() // SECONDS_PER_DAY)
    return [_name(newest - back) for back in range(count)]


def hash_to_unit_interval(decision_id: str) -> float:
    """Returns a number from 0 to 1 by which decisions are sampled: uniform, and always the same for one decision."""
    return int.from_bytes(hashlib.blake2b(f"sample {decision_id}".encode(), digest_size=8).digest()) / 2**64


@lru_cache(maxsize=512)
def _name(day: int) -> str:
    return datetime.fromtimestamp(day * SECONDS_PER_DAY, UTC).strftime("%Y%m%d")


WRITER_TTL_S = 14 * SECONDS_PER_DAY
"""How long Redis remembers the last batch of a writer, and so for how long an orphaned log can be recovered exactly."""

WRITE_SCRIPT = (
    f"local WRITER_TTL_S = {WRITER_TTL_S}"
    + """
-- Adds a batch of decisions, receipts without a decision, and evidence counts; trims stream and index to the cap.
-- Batches of a writer are numbered: one that was written before is ignored. A process that recovers an orphaned log
-- passes the number of the last batch that it knows of (ARGV[8]); if another batch has come since, nothing is written.
-- Decisions come as one argument in MessagePack: one argument per field would take the gateway five times as long.
local stream, index, writer, samples = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local max_decisions, evidence_ttl, number = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local decisions, max_samples, new_samples = cmsgpack.unpack(ARGV[4]), tonumber(ARGV[5]), 0
if tonumber(redis.call('GET', writer) or '0') >= number then return redis.call('XLEN', stream) end
local max_undecided, undecided = ARGV[6], tonumber(ARGV[7])
if ARGV[8] ~= '' and (redis.call('GET', writer) or '0') ~= ARGV[8] then return -1 end
for entry = 9, 8 + undecided do
  redis.call('XADD', KEYS[5], 'MAXLEN', max_undecided, '*', 'entry', ARGV[entry])
end
for _, decision in ipairs(decisions) do
  local id, evidence_key, day, entry, tenant, sample = unpack(decision)
  if redis.call('HEXISTS', index, id) == 0 then
    local entry_id = redis.call(
      'XADD', stream, '*', 'decision', id, 'evidence_key', evidence_key, 'day', day, 'entry', entry)
    redis.call('HSET', index, id, entry_id)
    if sample ~= '' then
      redis.call('XADD', samples, '*', 'decision', id, 'tenant', tenant, 'sample', sample)
      new_samples = new_samples + 1
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
  redis.call('EXPIRE', KEYS[day], evidence_ttl)
end
-- If the cap was lowered, the excess is trimmed over several batches: a script must not block Redis for long.
local over = math.min(redis.call('XLEN', stream) - max_decisions, #decisions + 1000)
if over > 0 then
  for _, old in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', over)) do
    redis.call('HDEL', index, old[2][2])
    redis.call('XDEL', stream, old[1])
  end
end
if new_samples > 0 then
  local length = redis.call('XLEN', samples)
  redis.call('XTRIM', samples, 'MAXLEN', math.max(max_samples, length - new_samples - 1000))
end
redis.call('SET', writer, number, 'EX', WRITER_TTL_S)
return redis.call('XLEN', stream)
"""
)

ADD_FEEDBACK_SCRIPT = """
-- Adds feedback on a decision. A decision has one entry in the stream of feedback: each field of later feedback
-- replaces the earlier value, and feedback that arrives late only fills fields that are empty. A rating counts once,
-- in the evidence of the decision's day.
-- Returns 'stored', 'known' (the same feedback exists) or 'unknown' (there is no such decision).
local decisions, index, feedback, feedback_index, evidence = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, name, now = ARGV[1], ARGV[2], ARGV[3]
local max_feedback, units_per_rating, evidence_ttl = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local tenant, call_id = ARGV[11], ARGV[12]
local fields = {'rating', 'correction', 'right_task', 'right_answer'}

local function read(stream, entry_id)
  local found = entry_id and redis.call('XRANGE', stream, entry_id, entry_id)[1]
  if not found then return nil end
  local values = {}
  for i = 1, #found[2], 2 do values[found[2][i]] = found[2][i + 1] end
  return values
end

local entry_id = redis.call('HGET', feedback_index, id)
local before = read(feedback, entry_id)
local decided = before or read(decisions, redis.call('HGET', index, id))
if not decided then return 'unknown' end
if tenant ~= '' then -- a tenant cannot see other tenants' decisions; decisions made without keys belong to nobody
  local owner = cjson.decode(decided.entry).tenant
  if owner ~= nil and owner ~= '' and owner ~= tenant then return 'unknown' end
end
before = before or {ids = '', unix_ms = '0', rating = '', correction = '', right_task = '', right_answer = ''}
local ids = {name .. '@' .. call_id}
for known in string.gmatch(before.ids, '%S+') do
  if known == ids[1] then return 'stored' end -- a retry of the same call, whose reply was lost
  if string.match(known, '^[^@]+') == name then return 'known' end
  if #ids < 32 then ids[#ids + 1] = known end
end

local late = tonumber(now) < tonumber(before.unix_ms)
local after = {}
for i, field in ipairs(fields) do
  local value = ARGV[6 + i]
  local unchanged = value == '' or (late and before[field] ~= '')
  after[field] = unchanged and before[field] or value
end

local function count(rating, sign)
  if rating == '' or decided.evidence_key == '' then return end
  local key = evidence .. decided.day
  redis.call('HINCRBY', key, decided.evidence_key .. 'rated', sign)
  local units = math.floor(tonumber(rating) * units_per_rating + 0.5)
  redis.call('HINCRBY', key, decided.evidence_key .. 'rating', sign * units)
  redis.call('EXPIRE', key, evidence_ttl)
end
if before.rating ~= after.rating then
  count(before.rating, -1)
  count(after.rating, 1)
end

if entry_id then redis.call('XDEL', feedback, entry_id) end
entry_id = redis.call('XADD', feedback, '*', 'decision', id, 'ids', table.concat(ids, ' '),
  'unix_ms', late and before.unix_ms or now, 'rating', after.rating, 'correction', after.correction,
  'right_task', after.right_task, 'right_answer', after.right_answer,
  'evidence_key', decided.evidence_key, 'day', decided.day, 'entry', decided.entry)
redis.call('HSET', feedback_index, id, entry_id)
local over = math.min(redis.call('XLEN', feedback) - max_feedback, 1000)
if over > 0 then
  for _, old in ipairs(redis.call('XRANGE', feedback, '-', '+', 'COUNT', over)) do
    redis.call('HDEL', feedback_index, old[2][2])
    redis.call('XDEL', feedback, old[1])
  end
end
return 'stored'
"""

ADD_EVALUATION_SCRIPT = """
-- Counts the rows of an evaluation and the sum of their scores in the evidence of today, by evidence key. What the same
-- evaluation has counted for the key before is subtracted, so that sending it again changes nothing.
local evaluation, evidence, day, evidence_ttl = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

local function count(on, key, sign, rows, scores)
  redis.call('HINCRBY', evidence .. on, key .. 'evaluated', sign * rows)
  redis.call('HINCRBY', evidence .. on, key .. 'score', sign * scores)
end

for at = 3, #ARGV, 3 do
  local key, rows, scores = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local on, old_rows, old_scores = string.match(redis.call('HGET', evaluation, key) or '', '(%d+) (%d+) (%d+)')
  if on and redis.call('EXISTS', evidence .. on) == 1 then
    count(on, key, -1, tonumber(old_rows), tonumber(old_scores))
  end
  count(day, key, 1, rows, scores)
  redis.call('HSET', evaluation, key, day .. ' ' .. ARGV[at + 1] .. ' ' .. ARGV[at + 2])
end
redis.call('EXPIRE', evidence .. day, evidence_ttl)
redis.call('EXPIRE', evaluation, evidence_ttl)
"""

EVIDENCE_SCRIPT = """
-- KEYS: the evidence of a day. Returns its fields and values in turns, as one JSON text.
return cjson.encode(redis.call('HGETALL', KEYS[1]))
"""
