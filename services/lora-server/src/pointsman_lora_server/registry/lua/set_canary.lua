local name, version, weight, terms, expected = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local alias = read(aliases, name)
if not alias then return {'unknown_alias', name} end
if expected ~= '' and alias.version ~= expected then return {'moved', alias.version} end
if alias.canary == version and alias.weight == weight and alias.terms == terms then
  return {'done', cjson.encode(alias)}
end
if version ~= '' then
  local to = read(phases, version)
  if not to then return {'unknown', version} end
  if to.phase ~= 'ready' then return not_ready(version, to) end
  if alias.version == version then return {'stable'} end
end
local before = describe(alias)
alias.canary, alias.weight, alias.terms = version, weight, terms
return store_alias('canary', name, alias, before)
