-- Gives the lease to its holder, or to anybody if it is free, for some milliseconds; 0 milliseconds end it.
local lease, holder, milliseconds = KEYS[1], ARGV[1], tonumber(ARGV[2])
if (redis.call('GET', lease) or holder) ~= holder then return 0 end
if milliseconds > 0 then redis.call('SET', lease, holder, 'PX', milliseconds) else redis.call('DEL', lease) end
return 1
