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
