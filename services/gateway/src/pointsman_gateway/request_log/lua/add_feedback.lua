-- Adds feedback on a decision. A decision has one entry in the stream of feedback: each field of later feedback
-- replaces the earlier value, and feedback that arrives late only fills fields that are empty. A rating counts once,
-- in the evidence of the decision's day.
-- Returns 'stored', 'known' (the same feedback exists) or 'unknown' (there is no such decision).
-- What is missing in a damaged record is empty: an error would hold up the feedback that waits behind this one.
local decisions, index, feedback, feedback_index, evidence = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, name, now = ARGV[1], ARGV[2], ARGV[3]
local max_feedback, units_per_rating, evidence_ttl = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local tenant, call_id = ARGV[11], ARGV[12]
local fields = {'rating', 'correction', 'right_task', 'right_answer'}
local stored = {'ids', 'unix_ms', 'evidence_key', 'day', 'entry', unpack(fields)}

local function read(stream, entry_id)
  local found = entry_id and redis.call('XRANGE', stream, entry_id, entry_id)[1]
  if not found then return nil end
  local values = {}
  for _, field in ipairs(stored) do values[field] = '' end
  for i = 1, #found[2], 2 do values[found[2][i]] = found[2][i + 1] end
  return values
end

local entry_id = redis.call('HGET', feedback_index, id)
local before = read(feedback, entry_id)
local decided = before or read(decisions, redis.call('HGET', index, id))
if not decided then return 'unknown' end
if tenant ~= '' then -- a tenant cannot see other tenants' decisions; decisions made without keys belong to nobody
  local is_json, entry = pcall(cjson.decode, decided.entry)
  if not is_json or type(entry) ~= 'table' then return 'unknown' end -- nobody knows whose it is
  local owner = entry.tenant
  if owner ~= nil and owner ~= '' and owner ~= tenant then return 'unknown' end
end
before = before or {ids = '', unix_ms = '0', rating = '', correction = '', right_task = '', right_answer = ''}
local ids = {name .. '@' .. call_id}
for known in string.gmatch(before.ids, '%S+') do
  if known == ids[1] then return 'stored' end -- a retry of the same call, whose reply was lost
  if string.match(known, '^[^@]+') == name then return 'known' end
  if #ids < 32 then ids[#ids + 1] = known end
end

local late = tonumber(now) < (tonumber(before.unix_ms) or 0)
local after = {}
for i, field in ipairs(fields) do
  local value = ARGV[6 + i]
  local unchanged = value == '' or (late and before[field] ~= '')
  after[field] = unchanged and before[field] or value
end

local function count(rating, sign)
  local number = tonumber(rating)
  if not (number and number >= 0 and number <= 1) or decided.evidence_key == '' or decided.day == '' then return end
  local key = evidence .. decided.day
  redis.call('HINCRBY', key, decided.evidence_key .. 'rated', sign)
  local units = math.floor(number * units_per_rating + 0.5)
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
