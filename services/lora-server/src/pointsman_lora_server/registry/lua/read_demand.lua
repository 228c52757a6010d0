-- The reports that have not expired; those that have are removed.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found, all = {}, redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local until_ms, report = string.match(all[at + 1], '^(%d+) (.*)$')
  if until_ms and tonumber(until_ms) >= now then
    table.insert(found, report)
  else
    redis.call('HDEL', KEYS[1], all[at])
  end
end
return found
