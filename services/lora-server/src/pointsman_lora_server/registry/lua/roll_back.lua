local name, expected, revision = ARGV[4], ARGV[5], ARGV[6]
local alias = read(aliases, name)
if not alias then return {'unknown_alias', name} end
if expected ~= '' and alias.version ~= expected then return {'moved', alias.version} end
if revision ~= '' and alias.revision ~= tonumber(revision) then return {'changed', tostring(alias.revision)} end
local before = describe(alias)
if alias.canary ~= '' then
  end_canary(alias)
else
  if alias.previous == '' then return {'nothing'} end
  local to = read(phases, alias.previous)
  if not to then return {'unknown_previous', alias.previous} end
  if to.phase ~= 'ready' then return not_ready(alias.previous, to) end
  alias.version, alias.previous = alias.previous, alias.version
end
return store_alias('rollback', name, alias, before)
