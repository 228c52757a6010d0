"""The Lua scripts for changes and reads. Each change adds one entry to the stream; a repeated call has no effect."""

from pointsman_lora_server.registry.schema import COUNTS_TTL_SECONDS, DEDUPLICATION_SECONDS, MAX_CHANGES

MAX_CHANGES_PER_READ = 500
"""After more changes than these, everything is read."""

_DEDUPLICATE = f"""
local earlier = redis.call('GET', done)
if earlier then return cjson.decode(earlier) end

-- Stores the answer of a call that changed something, so that a retry gets the same answer.
local function answer(...)
  local result = {{...}}
  redis.call('SET', done, cjson.encode(result), 'EX', {DEDUPLICATION_SECONDS})
  return result
end
"""

_PRELUDE = f"""
local versions, phases, aliases, pins, changes, stamp, done, placements, upcoming, sorted = unpack(KEYS)
local call, author, reason = ARGV[1], ARGV[2], ARGV[3]
{_DEDUPLICATE}
local function note(kind, subject, before, after)
  redis.call('XADD', changes, 'MAXLEN', '~', {MAX_CHANGES}, '*', 'kind', kind, 'subject', subject,
    'before', before, 'after', after, 'author', author, 'reason', reason)
  redis.call('SET', stamp, call)
end

local function read(key, name)
  local raw = redis.call('HGET', key, name)
  return raw and cjson.decode(raw)
end

local function write(key, name, value) redis.call('HSET', key, name, cjson.encode(value)) end

local function describe(alias)
  if alias.canary == '' then return alias.version end
  return alias.version .. ', ' .. alias.canary .. ' at ' .. alias.weight
end

-- The names of the aliases that send requests to the version, directly or by their canary.
local function aliases_of(version)
  local names, all = {{}}, redis.call('HGETALL', aliases)
  for at = 1, #all, 2 do
    local alias = cjson.decode(all[at + 1])
    if alias.version == version or alias.canary == version then table.insert(names, all[at]) end
  end
  table.sort(names)
  return table.concat(names, ', ')
end

local function not_ready(version, is) return {{'not_ready', version, is.phase, is.error_code, is.error}} end

-- Stores the changed alias under a new revision.
local function store_alias(kind, name, alias, before)
  redis.call('HDEL', upcoming, alias.version, alias.canary)
  alias.revision = alias.revision + 1
  write(aliases, name, alias)
  note(kind, name, before, describe(alias))
  return answer('done', cjson.encode(alias))
end

local function adapter_of(version) return string.match(version, '^[^@]*') end

-- Whether the adapter has any version, by the sorted index of all versions. Data from before the index gets one here.
local function is_known(name)
  if redis.call('ZCARD', sorted) ~= redis.call('HLEN', phases) then
    redis.call('DEL', sorted)
    for _, version in ipairs(redis.call('HKEYS', phases)) do redis.call('ZADD', sorted, 0, version) end
  end
  return #redis.call('ZRANGEBYLEX', sorted, '[' .. name .. '@', '(' .. name .. 'A', 'LIMIT', 0, 1) > 0
end

local function end_canary(alias) alias.canary, alias.weight, alias.terms = '', '', '' end
"""

ADD_VERSION = (
    _PRELUDE
    + """
local version, record, alias, suffix, force = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local is = read(phases, version)
local before = is and is.phase or ''
local made = is and is.made or call
if not is then redis.call('HSET', versions, version, record) end
record = redis.call('HGET', versions, version)
if not is or is.phase == 'retired' or is.phase == 'failed' then
  is = {phase = 'registered', error_code = '', error = '', alias_suffix = suffix, force = force, made = made}
else
  local pointer = suffix ~= '' and read(aliases, alias)
  local is_done = pointer and pointer.version == version and pointer.canary == ''
  if suffix == '' or is_done or (is.alias_suffix == suffix and is.force == force) then return {'done', record} end
  is.alias_suffix, is.force = suffix, force
end
write(phases, version, is)
redis.call('ZADD', sorted, 0, version)
note('registered', version, before, is.phase)
return answer('done', record)
"""
)

SET_PHASE = (
    _PRELUDE
    + """
local version, phase, expected, code, error = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local is = read(phases, version)
if not is or (expected ~= '' and is.phase ~= expected) then return {'other'} end
if is.phase == phase and is.error_code == code and is.error == error then return {'done'} end
local before = is.phase
is.phase, is.error_code, is.error = phase, code, error
write(phases, version, is)
note(phase, version, before, phase)
return answer('done')
"""
)

CLEAR_ALIAS_REQUEST = (
    _PRELUDE
    + """
local version, suffix = ARGV[4], ARGV[5]
local is = read(phases, version)
if not is or is.alias_suffix == '' or (suffix ~= '' and is.alias_suffix ~= suffix) then return {'done'} end
local before = is.alias_suffix
is.alias_suffix, is.force = '', false
write(phases, version, is)
note('settled', version, before, '')
return answer('done')
"""
)

MOVE_ALIAS = (
    _PRELUDE
    + """
local name, version, expected, kind = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local to = read(phases, version)
if not to then return {'unknown', version} end
local alias = read(aliases, name)
if alias and alias.version == version and alias.canary == '' then return {'done', cjson.encode(alias)} end
if expected ~= '' and (not alias or alias.version ~= expected) then return {'moved', alias and alias.version or ''} end
if to.phase ~= 'ready' then return not_ready(version, to) end
local before = alias and describe(alias) or ''
alias = alias or {version = '', revision = 0, previous = ''}
if alias.version ~= version then alias.previous, alias.version = alias.version, version end
end_canary(alias)
if to.alias_suffix ~= '' and name == string.match(version, '^[^@]*@') .. to.alias_suffix then
  -- In the same step: otherwise a process that takes over later could move it again, over a rollback.
  to.alias_suffix, to.force = '', false
  write(phases, version, to)
end
return store_alias(kind, name, alias, before)
"""
)

SET_CANARY = (
    _PRELUDE
    + """
local name, version, weight, terms, expected = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local alias = read(aliases, name)
if not alias then return {'unknown_alias', name} end
if expected ~= '' and alias.version ~= expected then return {'moved', alias.version} end
if alias.canary == version and alias.weight == weight and alias.terms == terms then
  return {'done', cjson.encode(alias)}
end
if version ~= '' then
  local to = read(phases, version)
  if not to then return {'unknown', version} end
  if to.phase ~= 'ready' then return not_ready(version, to) end
  if alias.version == version then return {'stable'} end
end
local before = describe(alias)
alias.canary, alias.weight, alias.terms = version, weight, terms
return store_alias('canary', name, alias, before)
"""
)

ROLL_BACK = (
    _PRELUDE
    + """
local name, expected, revision = ARGV[4], ARGV[5], ARGV[6]
local alias = read(aliases, name)
if not alias then return {'unknown_alias', name} end
if expected ~= '' and alias.version ~= expected then return {'moved', alias.version} end
if revision ~= '' and alias.revision ~= tonumber(revision) then return {'changed', tostring(alias.revision)} end
local before = describe(alias)
if alias.canary ~= '' then
  end_canary(alias)
else
  if alias.previous == '' then return {'nothing'} end
  local to = read(phases, alias.previous)
  if not to then return {'unknown_previous', alias.previous} end
  if to.phase ~= 'ready' then return not_ready(alias.previous, to) end
  alias.version, alias.previous = alias.previous, alias.version
end
return store_alias('rollback', name, alias, before)
"""
)

SET_PINNED = (
    _PRELUDE
    + """
local version, pinned = ARGV[4], ARGV[5] == '1'
local is = read(phases, version)
if not is then return {'unknown', version} end
if (redis.call('SISMEMBER', pins, version) == 1) == pinned then return {'done'} end
if pinned and (is.phase == 'retired' or is.phase == 'failed') then return not_ready(version, is) end
redis.call(pinned and 'SADD' or 'SREM', pins, version)
note('pin', version, pinned and '' or 'pinned', pinned and 'pinned' or '')
return answer('done')
"""
)

SET_PLACEMENT = (
    _PRELUDE
    + """
local name, placement, expected = ARGV[4], ARGV[5], ARGV[6]
if not is_known(name) then return {'unknown_adapter', name} end
local before = redis.call('HGET', placements, name) or 'all'
if before == placement then return {'done'} end
if expected ~= '' and before ~= expected then return {'placed', before} end
if placement == 'all' then redis.call('HDEL', placements, name) else redis.call('HSET', placements, name, placement) end
note('placement', name, before, placement)
return answer('done')
"""
)

ANNOUNCE_TARGET = (
    _PRELUDE
    + """
local version, milliseconds = ARGV[4], tonumber(ARGV[5])
local is = read(phases, version)
if not is then return {'unknown', version} end
if is.phase ~= 'ready' then return not_ready(version, is) end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', upcoming)
for at = 1, #all, 2 do
  if tonumber(all[at + 1]) < now then redis.call('HDEL', upcoming, all[at]) end
end
if tonumber(redis.call('HGET', upcoming, version) or '0') >= now + milliseconds then return {'done'} end
redis.call('HSET', upcoming, version, string.format('%.0f', now + milliseconds))
note('upcoming', version, '', '')
return answer('done')
"""
)

RETIRE = (
    _PRELUDE
    + """
local version = ARGV[4]
local is = read(phases, version)
if not is then return {'unknown', version} end
if is.phase == 'retired' then return {'done'} end
local names = aliases_of(version)
if names ~= '' then return {'in_use', names} end
local before = is.phase
is.phase, is.error_code, is.error, is.alias_suffix, is.force = 'retired', '', '', '', false
write(phases, version, is)
redis.call('SREM', pins, version)
note('retired', version, before, 'retired')
return answer('done')
"""
)

DELETE = (
    _PRELUDE
    + """
local version = ARGV[4]
local is = read(phases, version)
if not is then return {'unknown', version} end
if is.phase ~= 'retired' and is.phase ~= 'failed' then return {'not_retired', is.phase} end
local names = aliases_of(version)
if names ~= '' then return {'in_use', names} end
redis.call('HDEL', versions, version)
redis.call('HDEL', phases, version)
redis.call('ZREM', sorted, version)
redis.call('SREM', pins, version)
if not is_known(adapter_of(version)) then redis.call('HDEL', placements, adapter_of(version)) end
note('deleted', version, is.phase, '')
return answer('done')
"""
)

READ = f"""
-- Everything but the records, which never change. Hashes are joined into one JSON text here, since a thousand short
-- replies take a client much longer than two long ones.
local phases, aliases, pins, placements, upcoming, stamp, changes = unpack(KEYS)
local now, known = redis.call('GET', stamp) or '', ARGV[2]
if now ~= '' and now == ARGV[1] then return {{now}} end

local newest = redis.call('XREVRANGE', changes, '+', '-', 'COUNT', 1)[1]

-- The names of what has changed since the entry `known`; nil if the history does not tell, or if they are many. A move
-- of an alias also changes the version to which it then points.
local function changed_names()
  if known == '' or not redis.call('XRANGE', changes, known, known)[1] then return nil end
  local entries = redis.call('XRANGE', changes, '(' .. known, '+', 'COUNT', {MAX_CHANGES_PER_READ + 1})
  if #entries > {MAX_CHANGES_PER_READ} then return nil end
  local names = {{}}
  for _, entry in ipairs(entries) do
    local subject, after = entry[2][4], entry[2][8]
    names[subject], names[string.match(after, '^[^,]*')] = true, true
  end
  return names
end

local names = changed_names()

local function object(key)
  local parts = {{}}
  if names then
    for name in pairs(names) do
      table.insert(parts, cjson.encode(name) .. ':' .. (redis.call('HGET', key, name) or 'null'))
    end
  else
    local all = redis.call('HGETALL', key)
    for at = 1, #all, 2 do table.insert(parts, '"' .. all[at] .. '":' .. all[at + 1]) end
  end
  return '{{' .. table.concat(parts, ',') .. '}}'
end

return {{now, newest and newest[1] or '', names and '1' or '', object(phases), object(aliases),
  redis.call('SMEMBERS', pins), redis.call('HGETALL', placements), redis.call('HGETALL', upcoming)}}
"""

ADD_OUTCOMES = (
    """
local aliases, done = KEYS[1], KEYS[2]
"""
    + _DEDUPLICATE
    + f"""
-- Counts of another revision than the current one are dropped.
for at, report in ipairs(cjson.decode(ARGV[1])) do
  local raw = redis.call('HGET', aliases, report.alias)
  local alias = raw and cjson.decode(raw)
  local is_current = alias and alias.revision == report.revision
  if is_current and (alias.version == report.version or alias.canary == report.version) then
    local key = KEYS[at + 2]
    for counter, number in pairs(report.counts) do
      redis.call('HINCRBY', key, report.version .. ' ' .. counter, string.format('%.0f', number))
    end
    redis.call('EXPIRE', key, {COUNTS_TTL_SECONDS})
  end
end
return answer('done')
"""
)
