local version, suffix = ARGV[4], ARGV[5]
local is = read(phases, version)
if not is or is.alias_suffix == '' or (suffix ~= '' and is.alias_suffix ~= suffix) then return {'done'} end
local before = is.alias_suffix
is.alias_suffix, is.force = '', false
write(phases, version, is)
note('settled', version, before, '')
return answer('done')
