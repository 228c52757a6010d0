-- The engines that are up and whose report has not expired, each followed by what it holds.
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
