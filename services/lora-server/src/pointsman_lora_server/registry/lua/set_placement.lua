local name, placement, expected, default = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if not is_known(name) then return {'unknown_adapter', name} end
local before = redis.call('HGET', placements, name) or default
if before == placement then return {'done'} end
if expected ~= '' and before ~= expected then return {'placed', before} end
if placement == default then redis.call('HDEL', placements, name) else redis.call('HSET', placements, name, placement) end
note('placement', name, before, placement)
return answer('done')
