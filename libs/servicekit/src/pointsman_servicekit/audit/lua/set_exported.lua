-- Stores the id of the last exported entry of a stream, unless a later one is stored. An id is MILLISECONDS-NUMBER.
local exported, stream, id = KEYS[1], ARGV[1], ARGV[2]
local function parts(entry_id)
  local milliseconds, number = string.match(entry_id, '^(%d+)-(%d+)$')
  return tonumber(milliseconds), tonumber(number)
end
local milliseconds, number = parts(id)
local stored_milliseconds, stored_number = parts(redis.call('HGET', exported, stream) or '')
if stored_milliseconds and (stored_milliseconds > milliseconds
    or (stored_milliseconds == milliseconds and stored_number >= number)) then return 0 end
redis.call('HSET', exported, stream, id)
return 1
