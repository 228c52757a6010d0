-- Stores an answer and, with a vector, adds its question to the partition's stream. It is idempotent. `index` has the
-- answers by expiry time, `sizes` has "bytes stream_id partition" of each and their sum ("total"). Expired answers are
-- removed from both. Above the size limit, the answers that would expire next are deleted with their questions.
local answer, index, sizes, near = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, text, ttl, max_bytes, max_questions = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local partition, vector, prefix = ARGV[6], ARGV[7], ARGV[8]
local now = tonumber(redis.call('TIME')[1])

local function remove(old)
  local about = redis.call('HGET', sizes, old)
  redis.call('ZREM', index, old)
  if not about then return end
  redis.call('HDEL', sizes, old)
  local bytes, stream_id, partition_of = string.match(about, '^(%d+) (%S*) (%S*)$')
  redis.call('HINCRBY', sizes, 'total', -tonumber(bytes))
  if partition_of ~= '' then redis.call('XDEL', prefix .. 'near:' .. partition_of, stream_id) end
end

for _, old in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. now, 'LIMIT', 0, 64)) do remove(old) end
remove(name)
local stream_id = ''
if partition ~= '' then
  stream_id = redis.call('XADD', near, 'MAXLEN', max_questions, '*', 'answer', name, 'vector', vector)
  redis.call('EXPIRE', near, ttl)
end
local bytes = #text + #vector + 512
redis.call('SET', answer, text, 'EX', ttl)
redis.call('ZADD', index, now + ttl, name)
redis.call('HSET', sizes, name, bytes .. ' ' .. stream_id .. ' ' .. partition)
local total = redis.call('HINCRBY', sizes, 'total', bytes)
for _ = 1, 1024 do
  if total <= max_bytes then break end
  local first = redis.call('ZRANGE', index, 0, 0)[1]
  if not first then break end
  remove(first)
  redis.call('UNLINK', prefix .. 'answer:' .. first)
  total = tonumber(redis.call('HGET', sizes, 'total'))
end
for _, key in ipairs({index, sizes}) do redis.call('EXPIRE', key, 31 * 86400) end
return total
