local version = ARGV[4]
local is = read(phases, version)
if not is then return {'unknown', version} end
if is.phase == 'retired' then return {'done'} end
local names = aliases_of(version)
if names ~= '' then return {'in_use', names} end
local before = is.phase
is.phase, is.error_code, is.error, is.alias_suffix, is.force = 'retired', '', '', '', false
write(phases, version, is)
redis.call('SREM', pins, version)
note('retired', version, before, 'retired')
return answer('done')
