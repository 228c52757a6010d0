-- Everything but the records, which never change. Hashes are joined into one JSON text here, since a thousand short
-- replies take a client much longer than two long ones.
local MAX_CHANGES_PER_READ = 500 -- after more changes than these, everything is read
local phases, aliases, pins, placements, upcoming, stamp, changes = unpack(KEYS)
local now, known = redis.call('GET', stamp) or '', ARGV[2]
if now ~= '' and now == ARGV[1] then return {now} end

local newest = redis.call('XREVRANGE', changes, '+', '-', 'COUNT', 1)[1]

-- The names of what has changed since the entry `known`; nil if the history does not tell, or if they are many. A move
-- of an alias also changes the version to which it then points.
local function changed_names()
  if known == '' or not redis.call('XRANGE', changes, known, known)[1] then return nil end
  local entries = redis.call('XRANGE', changes, '(' .. known, '+', 'COUNT', MAX_CHANGES_PER_READ + 1)
  if #entries > MAX_CHANGES_PER_READ then return nil end
  local names = {}
  for _, entry in ipairs(entries) do
    local subject, after = entry[2][4], entry[2][8]
    names[subject], names[string.match(after, '^[^,]*')] = true, true
  end
  return names
end

local names = changed_names()

local function object(key)
  local parts = {}
  if names then
    for name in pairs(names) do
      table.insert(parts, cjson.encode(name) .. ':' .. (redis.call('HGET', key, name) or 'null'))
    end
  else
    local all = redis.call('HGETALL', key)
    for at = 1, #all, 2 do table.insert(parts, '"' .. all[at] .. '":' .. all[at + 1]) end
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

return {now, newest and newest[1] or '', names and '1' or '', object(phases), object(aliases),
  redis.call('SMEMBERS', pins), redis.call('HGETALL', placements), redis.call('HGETALL', upcoming)}
