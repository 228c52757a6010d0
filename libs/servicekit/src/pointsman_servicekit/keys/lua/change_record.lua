-- Puts one record in another's place, unless somebody else has changed it, and tells all gateways. Twice is once.
local records, epoch = KEYS[1], KEYS[2]
local field, before, after, channel = unpack(ARGV)
local there = redis.call('HGET', records, field) or ''
if there ~= before and there ~= after then return 0 end
redis.call('HSET', records, field, after)
redis.call('PUBLISH', channel, redis.call('INCR', epoch))
return 1
