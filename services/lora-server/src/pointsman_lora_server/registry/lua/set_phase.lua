local version, phase, expected, code, error = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local is = read(phases, version)
if not is or (expected ~= '' and is.phase ~= expected) then return {'other'} end
if is.phase == phase and is.error_code == code and is.error == error then return {'done'} end
local before = is.phase
is.phase, is.error_code, is.error = phase, code, error
write(phases, version, is)
note(phase, version, before, phase)
return answer('done')
