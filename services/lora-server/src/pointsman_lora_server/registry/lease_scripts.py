"""What happens in Redis as one where lora-servers tell each other who works on what, and which engine holds what."""

LEASE = """
-- Takes the lease, or lengthens one's own.
local owner, milliseconds = ARGV[1], ARGV[2]
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= owner then return 0 end
redis.call('SET', KEYS[1], owner, 'PX', milliseconds)
return 1
"""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

CONFIRM = """
-- What an engine holds is believed for a while, by Redis's clock; who was not heard of since is forgotten.
local engine, held, milliseconds, is_up = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  if cjson.decode(all[at + 1]).until_ms < now then redis.call('HDEL', KEYS[1], all[at]) end
end
redis.call('HSET', KEYS[1], engine, cjson.encode({until_ms = now + milliseconds, resident = held, up = is_up}))
return 1
"""

FLEET = """
-- The engines that are up and still to be believed, each followed by what it holds.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found, all = {}, redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local engine = cjson.decode(all[at + 1])
  if engine.until_ms >= now and engine.up ~= false then
    table.insert(found, all[at])
    table.insert(found, engine.resident)
  end
end
return found
"""

HOLDERS = """
local version = ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local names, all = {}, redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local engine = cjson.decode(all[at + 1])
  if engine.until_ms >= now and string.find(' ' .. engine.resident .. ' ', ' ' .. version .. ' ', 1, true) then
    table.insert(names, all[at])
  end
end
table.sort(names)
return names
"""
