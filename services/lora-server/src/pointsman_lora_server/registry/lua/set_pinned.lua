local version, pinned = ARGV[4], ARGV[5] == '1'
local is = read(phases, version)
if not is then return {'unknown', version} end
if (redis.call('SISMEMBER', pins, version) == 1) == pinned then return {'done'} end
if pinned and (is.phase == 'retired' or is.phase == 'failed') then return not_ready(version, is) end
redis.call(pinned and 'SADD' or 'SREM', pins, version)
note('pin', version, pinned and '' or 'pinned', pinned and 'pinned' or '')
return answer('done')
