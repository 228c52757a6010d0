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
