"""What happens in Redis as one when an answer is kept; it may run twice, and counts once."""

KEEP = """
-- Keeps an answer, and where it has a vector puts the question into its partition's stream. `index` has each answer by
-- when it ends, `sizes` what it takes ("bytes place partition") and their sum ("total"). What has ended is taken out
-- of the books; over the cap, what would end first goes, its question with it.
local answer, index, sizes, near = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, whole, ttl, most, questions = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local partition, vector, prefix = ARGV[6], ARGV[7], ARGV[8]
local now = tonumber(redis.call('TIME')[1])

local function forget(old)
  local about = redis.call('HGET', sizes, old)
  redis.call('ZREM', index, old)
  if not about then return end
  redis.call('HDEL', sizes, old)
  local bytes, place, where = string.match(about, '^(%d+) (%S*) (%S*)$')
  redis.call('HINCRBY', sizes, 'total', -tonumber(bytes))
  if where ~= '' then redis.call('XDEL', prefix .. 'near:' .. where, place) end
end

for _, old in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. now, 'LIMIT', 0, 64)) do forget(old) end
forget(name)
local place = ''
if partition ~= '' then
  place = redis.call('XADD', near, 'MAXLEN', questions, '*', 'answer', name, 'vector', vector)
  redis.call('EXPIRE', near, ttl)
end
local bytes = #whole + #vector + 512
redis.call('SET', answer, whole, 'EX', ttl)
redis.call('ZADD', index, now + ttl, name)
redis.call('HSET', sizes, name, bytes .. ' ' .. place .. ' ' .. partition)
local total = redis.call('HINCRBY', sizes, 'total', bytes)
for _ = 1, 1024 do
  if total <= most then break end
  local first = redis.call('ZRANGE', index, 0, 0)[1]
  if not first then break end
  forget(first)
  redis.call('UNLINK', prefix .. 'answer:' .. first)
  total = tonumber(redis.call('HGET', sizes, 'total'))
end
for _, key in ipairs({index, sizes}) do redis.call('EXPIRE', key, 31 * 86400) end
return total
"""
