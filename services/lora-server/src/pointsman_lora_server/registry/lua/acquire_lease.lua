-- Takes the lease, or extends it if the caller holds it already.
local owner, milliseconds = ARGV[1], ARGV[2]
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= owner then return 0 end
redis.call('SET', KEYS[1], owner, 'PX', milliseconds)
return 1
