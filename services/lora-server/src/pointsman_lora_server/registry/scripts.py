"""What happens in Redis as one. A change leaves one entry in the stream; a call that is made twice is made once."""

from pointsman_lora_server.registry.layout import COUNTS_SECONDS, MOST_CHANGES, REPEATS_SECONDS

_ONCE = f"""
local earlier = redis.call('GET', done)
if earlier then return cjson.decode(earlier) end

-- What changed something answers so, that the same call made again gets the same answer.
local function answer(...)
  local said = {{...}}
  redis.call('SET', done, cjson.encode(said), 'EX', {REPEATS_SECONDS})
  return said
end
"""

_CHANGING = f"""
local versions, standings, aliases, pins, changes, stamp, done, placements, coming = unpack(KEYS)
local call, author, reason = ARGV[1], ARGV[2], ARGV[3]
{_ONCE}
local function note(kind, subject, before, after)
  redis.call('XADD', changes, 'MAXLEN', '~', {MOST_CHANGES}, '*', 'kind', kind, 'subject', subject,
    'before', before, 'after', after, 'author', author, 'reason', reason)
  redis.call('SET', stamp, call)
end

local function read(key, name)
  local raw = redis.call('HGET', key, name)
  return raw and cjson.decode(raw)
end

local function write(key, name, value) redis.call('HSET', key, name, cjson.encode(value)) end

local function in_words(alias)
  if alias.canary == '' then return alias.version end
  return alias.version .. ', ' .. alias.canary .. ' at ' .. alias.weight
end

-- The names of the aliases that send requests to the version.
local function who_aims_at(version)
  local names, all = {{}}, redis.call('HGETALL', aliases)
  for at = 1, #all, 2 do
    local alias = cjson.decode(all[at + 1])
    if alias.version == version or alias.canary == version then table.insert(names, all[at]) end
  end
  table.sort(names)
  return table.concat(names, ', ')
end

local function not_ready(version, is) return {{'not_ready', version, is.phase, is.error_code, is.error}} end

-- Puts the alias there as it is now, counted.
local function aim(kind, name, alias, before)
  redis.call('HDEL', coming, alias.version, alias.canary)
  alias.revision = alias.revision + 1
  write(aliases, name, alias)
  note(kind, name, before, in_words(alias))
  return answer('done', cjson.encode(alias))
end

local function adapter_of(version) return string.match(version, '^[^@]*') end

-- Whether the adapter has a version.
local function is_known(name)
  for _, version in ipairs(redis.call('HKEYS', standings)) do
    if adapter_of(version) == name then return true end
  end
  return false
end

local function end_canary(alias) alias.canary, alias.weight, alias.terms = '', '', '' end
"""

RECORD = (
    _CHANGING
    + """
local version, record, alias, word, force = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local is = read(standings, version)
local before = is and is.phase or ''
local made = is and is.made or call
if not is then redis.call('HSET', versions, version, record) end
record = redis.call('HGET', versions, version)
if not is or is.phase == 'retired' or is.phase == 'failed' then
  is = {phase = 'registered', error_code = '', error = '', word = word, force = force, made = made}
else
  local aimed = word ~= '' and read(aliases, alias)
  local there = aimed and aimed.version == version and aimed.canary == ''
  if word == '' or there or (is.word == word and is.force == force) then return {'done', record} end
  is.word, is.force = word, force
end
write(standings, version, is)
note('registered', version, before, is.phase)
return answer('done', record)
"""
)

STAND = (
    _CHANGING
    + """
local version, phase, expected, code, error = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local is = read(standings, version)
if not is or (expected ~= '' and is.phase ~= expected) then return {'other'} end
if is.phase == phase and is.error_code == code and is.error == error then return {'done'} end
local before = is.phase
is.phase, is.error_code, is.error = phase, code, error
write(standings, version, is)
note(phase, version, before, phase)
return answer('done')
"""
)

SETTLE_WORD = (
    _CHANGING
    + """
local version, word = ARGV[4], ARGV[5]
local is = read(standings, version)
if not is or is.word == '' or (word ~= '' and is.word ~= word) then return {'done'} end
local before = is.word
is.word, is.force = '', false
write(standings, version, is)
note('settled', version, before, '')
return answer('done')
"""
)

MOVE = (
    _CHANGING
    + """
local name, version, expected, kind = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local to = read(standings, version)
if not to then return {'unknown', version} end
local alias = read(aliases, name)
if alias and alias.version == version and alias.canary == '' then return {'done', cjson.encode(alias)} end
if expected ~= '' and (not alias or alias.version ~= expected) then return {'moved', alias and alias.version or ''} end
if to.phase ~= 'ready' then return not_ready(version, to) end
local before = alias and in_words(alias) or ''
alias = alias or {version = '', revision = 0, previous = ''}
if alias.version ~= version then alias.previous, alias.version = alias.version, version end
end_canary(alias)
if to.word ~= '' and name == string.match(version, '^[^@]*@') .. to.word then
  to.word, to.force = '', false -- at once, so that nobody who died meanwhile moves it again, over somebody's rollback
  write(standings, version, to)
end
return aim(kind, name, alias, before)
"""
)

SET_CANARY = (
    _CHANGING
    + """
local name, version, weight, terms, expected = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local alias = read(aliases, name)
if not alias then return {'unknown_alias', name} end
if expected ~= '' and alias.version ~= expected then return {'moved', alias.version} end
if alias.canary == version and alias.weight == weight and alias.terms == terms then
  return {'done', cjson.encode(alias)}
end
if version ~= '' then
  local to = read(standings, version)
  if not to then return {'unknown', version} end
  if to.phase ~= 'ready' then return not_ready(version, to) end
  if alias.version == version then return {'stable'} end
end
local before = in_words(alias)
alias.canary, alias.weight, alias.terms = version, weight, terms
return aim('canary', name, alias, before)
"""
)

ROLLBACK = (
    _CHANGING
    + """
local name, expected, revision = ARGV[4], ARGV[5], ARGV[6]
local alias = read(aliases, name)
if not alias then return {'unknown_alias', name} end
if expected ~= '' and alias.version ~= expected then return {'moved', alias.version} end
if revision ~= '' and alias.revision ~= tonumber(revision) then return {'changed', tostring(alias.revision)} end
local before = in_words(alias)
if alias.canary ~= '' then
  end_canary(alias)
else
  if alias.previous == '' then return {'nothing'} end
  local to = read(standings, alias.previous)
  if not to then return {'unknown_previous', alias.previous} end
  if to.phase ~= 'ready' then return not_ready(alias.previous, to) end
  alias.version, alias.previous = alias.previous, alias.version
end
return aim('rollback', name, alias, before)
"""
)

PIN = (
    _CHANGING
    + """
local version, pinned = ARGV[4], ARGV[5] == '1'
local is = read(standings, version)
if not is then return {'unknown', version} end
if (redis.call('SISMEMBER', pins, version) == 1) == pinned then return {'done'} end
if pinned and (is.phase == 'retired' or is.phase == 'failed') then return not_ready(version, is) end
redis.call(pinned and 'SADD' or 'SREM', pins, version)
note('pin', version, pinned and '' or 'pinned', pinned and 'pinned' or '')
return answer('done')
"""
)

PLACE = (
    _CHANGING
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

COMING = (
    _CHANGING
    + """
local version, milliseconds = ARGV[4], tonumber(ARGV[5])
local is = read(standings, version)
if not is then return {'unknown', version} end
if is.phase ~= 'ready' then return not_ready(version, is) end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', coming)
for at = 1, #all, 2 do
  if tonumber(all[at + 1]) < now then redis.call('HDEL', coming, all[at]) end
end
if tonumber(redis.call('HGET', coming, version) or '0') >= now + milliseconds then return {'done'} end
redis.call('HSET', coming, version, string.format('%.0f', now + milliseconds))
note('coming', version, '', '')
return answer('done')
"""
)

RETIRE = (
    _CHANGING
    + """
local version = ARGV[4]
local is = read(standings, version)
if not is then return {'unknown', version} end
if is.phase == 'retired' then return {'done'} end
local names = who_aims_at(version)
if names ~= '' then return {'in_use', names} end
local before = is.phase
is.phase, is.error_code, is.error, is.word, is.force = 'retired', '', '', '', false
write(standings, version, is)
redis.call('SREM', pins, version)
note('retired', version, before, 'retired')
return answer('done')
"""
)

DELETE = (
    _CHANGING
    + """
local version = ARGV[4]
local is = read(standings, version)
if not is then return {'unknown', version} end
if is.phase ~= 'retired' and is.phase ~= 'failed' then return {'not_retired', is.phase} end
local names = who_aims_at(version)
if names ~= '' then return {'in_use', names} end
redis.call('HDEL', versions, version)
redis.call('HDEL', standings, version)
redis.call('SREM', pins, version)
if not is_known(adapter_of(version)) then redis.call('HDEL', placements, adapter_of(version)) end
note('deleted', version, is.phase, '')
return answer('done')
"""
)

READ = """
-- All but the records, which never change; as JSON texts that are put together here, since a thousand short answers
-- take a client far longer than two long ones.
local standings, aliases, pins, placements, coming, stamp = unpack(KEYS)
local now = redis.call('GET', stamp) or ''
if now ~= '' and now == ARGV[1] then return {now} end

local function object(key)
  local all, parts = redis.call('HGETALL', key), {}
  for at = 1, #all, 2 do table.insert(parts, '"' .. all[at] .. '":' .. all[at + 1]) end
  return '{' .. table.concat(parts, ',') .. '}'
end

return {now, object(standings), object(aliases), redis.call('SMEMBERS', pins),
  redis.call('HGETALL', placements), redis.call('HGETALL', coming)}
"""

COUNT = (
    """
local aliases, done = KEYS[1], KEYS[2]
"""
    + _ONCE
    + f"""
-- What is said of another revision than the alias has now is of no use to anyone any more.
for at, said in ipairs(cjson.decode(ARGV[1])) do
  local raw = redis.call('HGET', aliases, said.alias)
  local alias = raw and cjson.decode(raw)
  if alias and alias.revision == said.revision and (alias.version == said.version or alias.canary == said.version) then
    local key = KEYS[at + 2]
    for counter, number in pairs(said.counts) do
      redis.call('HINCRBY', key, said.version .. ' ' .. counter, string.format('%.0f', number))
    end
    redis.call('EXPIRE', key, {COUNTS_SECONDS})
  end
end
return answer('done')
"""
)
