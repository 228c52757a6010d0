-- Puts one record in another's place, unless somebody else has changed it, tells all gateways, and adds an entry to the
-- audit log. Twice is once.
local records, epoch, audit = KEYS[1], KEYS[2], KEYS[3]
local field, before, after, channel, max_entries, entry = unpack(ARGV)
local there = redis.call('HGET', records, field) or ''
if there ~= before and there ~= after then return 0 end
redis.call('HSET', records, field, after)
if there ~= after then redis.call('XADD', audit, 'MAXLEN', '~', max_entries, '*', 'entry', entry) end
redis.call('PUBLISH', channel, redis.call('INCR', epoch))
return 1
