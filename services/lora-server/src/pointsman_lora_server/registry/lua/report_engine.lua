-- Stores what an engine holds until a time on Redis's clock, and removes reports that have expired.
local engine, held, milliseconds, is_up = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  if cjson.decode(all[at + 1]).until_ms < now then redis.call('HDEL', KEYS[1], all[at]) end
end
redis.call('HSET', KEYS[1], engine, cjson.encode({until_ms = now + milliseconds, resident = held, up = is_up}))
return 1
