-- Stores the use of an engine until a time on Redis's clock: first that time, then a space, then the report.
local engine, report, milliseconds = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], engine, string.format('%.0f %s', now + milliseconds, report))
return 1
