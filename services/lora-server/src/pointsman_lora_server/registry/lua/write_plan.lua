-- Changes the plan if its stamp is still `before`: removes some versions, and sets the engines of others.
local plan, stamp, before, after, gone = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = redis.call('GET', stamp) or ''
if now == after then return 1 end -- a repeated call
if now ~= before then return 0 end
for at = 4, 3 + gone do redis.call('HDEL', plan, ARGV[at]) end
for at = 4 + gone, #ARGV, 2 do redis.call('HSET', plan, ARGV[at], ARGV[at + 1]) end
redis.call('SET', stamp, after)
return 1
