-- Adds a batch of decisions, receipts without a decision, and counts of evidence and spending, by day; trims stream and
-- index to the cap.
-- Batches of a writer are numbered: one that was written before is ignored. A process that recovers an orphaned log
-- passes the number of the last batch that it knows of (ARGV[7]); if another batch has come since, nothing is written.
-- Decisions come as one argument in MessagePack: one argument per field would take the gateway five times as long.
local stream, index, writer, samples = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local max_decisions, number = tonumber(ARGV[1]), tonumber(ARGV[2])
local decisions, max_samples, new_samples = cmsgpack.unpack(ARGV[3]), tonumber(ARGV[4]), 0
if tonumber(redis.call('GET', writer) or '0') >= number then return redis.call('XLEN', stream) end
local max_undecided, undecided = ARGV[5], tonumber(ARGV[6])
if ARGV[7] ~= '' and (redis.call('GET', writer) or '0') ~= ARGV[7] then return -1 end
for entry = 8, 7 + undecided do
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
local at = 8 + undecided
for day = 6, #KEYS do
  local counts, ttl = tonumber(ARGV[at]), ARGV[at + 1]
  at = at + 2
  for _ = 1, counts do
    redis.call('HINCRBY', KEYS[day], ARGV[at], ARGV[at + 1])
    at = at + 2
  end
  redis.call('EXPIRE', KEYS[day], ttl)
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
redis.call('SET', writer, number, 'EX', WRITER_TTL_SECONDS)
return redis.call('XLEN', stream)
