-- The plan's stamp, then each version and its engines unless the caller knows them.
local plan, stamp = KEYS[1], redis.call('GET', KEYS[2]) or ''
if stamp == ARGV[1] then return {stamp} end
local found = redis.call('HGETALL', plan)
table.insert(found, 1, stamp)
return found
