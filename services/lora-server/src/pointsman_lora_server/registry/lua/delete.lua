local version = ARGV[4]
local is = read(phases, version)
if not is then return {'unknown', version} end
if is.phase ~= 'retired' and is.phase ~= 'failed' then return {'not_retired', is.phase} end
local names = aliases_of(version)
if names ~= '' then return {'in_use', names} end
redis.call('HDEL', versions, version)
redis.call('HDEL', phases, version)
redis.call('ZREM', sorted, version)
redis.call('SREM', pins, version)
if not is_known(adapter_of(version)) then redis.call('HDEL', placements, adapter_of(version)) end
note('deleted', version, is.phase, '')
return answer('done')
