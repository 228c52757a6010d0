-- Adds the changes of a configuration, and keeps its values, unless somebody else has recorded another one. Once only.
local configuration, audit = KEYS[1], KEYS[2]
local replaced, revision, values, max_entries = unpack(ARGV, 1, 4)
if (redis.call('HGET', configuration, 'revision') or '') ~= replaced or replaced == revision then return 0 end
redis.call('HSET', configuration, 'revision', revision, 'values', values)
for at = 5, #ARGV do redis.call('XADD', audit, 'MAXLEN', '~', max_entries, '*', 'entry', ARGV[at]) end
return 1
