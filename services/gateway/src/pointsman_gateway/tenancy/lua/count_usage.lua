-- Adds usage to a day. A writer's batches are numbered; one that was written before is ignored.
local writer, usage = KEYS[1], KEYS[2]
local number, keep, counts = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if tonumber(redis.call('GET', writer) or '0') >= number then return 0 end
for at = 4, 2 + 2 * counts, 2 do redis.call('HINCRBY', usage, ARGV[at], ARGV[at + 1]) end
redis.call('EXPIRE', usage, keep)
redis.call('SET', writer, number, 'EX', 86400)
return 1
