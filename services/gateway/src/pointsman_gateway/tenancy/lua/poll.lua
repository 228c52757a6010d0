-- Registers a gateway as running; returns the number of running gateways and the epoch of the keys.
local gateways, epoch = KEYS[1], KEYS[2]
local ahead, id, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + ahead
redis.call('ZREMRANGEBYSCORE', gateways, '-inf', now)
redis.call('ZADD', gateways, now + lease, id)
return {now, redis.call('ZCARD', gateways), tonumber(redis.call('GET', epoch) or '0')}
