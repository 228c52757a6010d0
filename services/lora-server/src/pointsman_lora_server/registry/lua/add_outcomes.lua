local COUNTS_TTL_SECONDS = 7 * 24 * 3600 -- how long the counts of a canary are kept after the last report

-- Counts of another revision than the current one are dropped.
for at, report in ipairs(cjson.decode(ARGV[4])) do
  local raw = redis.call('HGET', aliases, report.alias)
  local alias = raw and cjson.decode(raw)
  local is_current = alias and alias.revision == report.revision
  if is_current and (alias.version == report.version or alias.canary == report.version) then
    local key = KEYS[at + 10]
    for counter, number in pairs(report.counts) do
      redis.call('HINCRBY', key, report.version .. ' ' .. counter, string.format('%.0f', number))
    end
    redis.call('EXPIRE', key, COUNTS_TTL_SECONDS)
  end
end
return answer('done')
