local version, record, alias, suffix, force = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local is = read(phases, version)
local before = is and is.phase or ''
local made = is and is.made or call
if not is then redis.call('HSET', versions, version, record) end
record = redis.call('HGET', versions, version)
if not is or is.phase == 'retired' or is.phase == 'failed' then
  is = {phase = 'registered', error_code = '', error = '', alias_suffix = suffix, force = force, made = made}
else
  local pointer = suffix ~= '' and read(aliases, alias)
  local is_done = pointer and pointer.version == version and pointer.canary == ''
  if suffix == '' or is_done or (is.alias_suffix == suffix and is.force == force) then return {'done', record} end
  is.alias_suffix, is.force = suffix, force
end
write(phases, version, is)
redis.call('ZADD', sorted, 0, version)
note('registered', version, before, is.phase)
return answer('done', record)
