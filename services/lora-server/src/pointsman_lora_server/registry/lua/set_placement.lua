local name, placement, expected = ARGV[4], ARGV[5], ARGV[6]
if not is_known(name) then return {'unknown_adapter', name} end
local before = redis.call('HGET', placements, name) or 'all'
if before == placement then return {'done'} end
if expected ~= '' and before ~= expected then return {'placed', before} end
if placement == 'all' then redis.call('HDEL', placements, name) else redis.call('HSET', placements, name, placement) end
note('placement', name, before, placement)
return answer('done')
