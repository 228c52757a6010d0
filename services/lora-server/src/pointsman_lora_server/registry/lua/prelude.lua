-- Comes before the script of each change, which adds one entry to the stream; a repeated call has no further effect.
local MAX_CHANGES = 10000 -- approximate number of entries that the history keeps
local DEDUPLICATION_SECONDS = 60 -- how long a call that is repeated, or arrives late, is recognized as already done

local versions, phases, aliases, pins, changes, stamp, done, placements, upcoming, sorted = unpack(KEYS)
local call, author, reason = ARGV[1], ARGV[2], ARGV[3]

local earlier = redis.call('GET', done)
if earlier then return cjson.decode(earlier) end

-- Stores the answer of a call that changed something, so that a retry gets the same answer.
local function answer(...)
  local result = {...}
  redis.call('SET', done, cjson.encode(result), 'EX', DEDUPLICATION_SECONDS)
  return result
end

local function note(kind, subject, before, after)
  redis.call('XADD', changes, 'MAXLEN', '~', MAX_CHANGES, '*', 'kind', kind, 'subject', subject,
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
  local names, all = {}, redis.call('HGETALL', aliases)
  for at = 1, #all, 2 do
    local alias = cjson.decode(all[at + 1])
    if alias.version == version or alias.canary == version then table.insert(names, all[at]) end
  end
  table.sort(names)
  return table.concat(names, ', ')
end

local function not_ready(version, is) return {'not_ready', version, is.phase, is.error_code, is.error} end

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
