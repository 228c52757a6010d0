-- Counts the rows of an evaluation and the sum of their scores in the evidence of today, by evidence key. What the same
-- evaluation has counted for the key before is subtracted, so that sending it again changes nothing.
local evaluation, evidence, day, evidence_ttl = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

local function count(on, key, sign, rows, scores)
  redis.call('HINCRBY', evidence .. on, key .. 'evaluated', sign * rows)
  redis.call('HINCRBY', evidence .. on, key .. 'score', sign * scores)
end

for at = 3, #ARGV, 3 do
  local key, rows, scores = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local on, old_rows, old_scores = string.match(redis.call('HGET', evaluation, key) or '', '(%d+) (%d+) (%d+)')
  if on and redis.call('EXISTS', evidence .. on) == 1 then
    count(on, key, -1, tonumber(old_rows), tonumber(old_scores))
  end
  count(day, key, 1, rows, scores)
  redis.call('HSET', evaluation, key, day .. ' ' .. ARGV[at + 1] .. ' ' .. ARGV[at + 2])
end
redis.call('EXPIRE', evidence .. day, evidence_ttl)
redis.call('EXPIRE', evaluation, evidence_ttl)
