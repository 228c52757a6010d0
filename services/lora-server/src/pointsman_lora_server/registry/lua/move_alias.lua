local name, version, expected, kind = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local to = read(phases, version)
if not to then return {'unknown', version} end
local alias = read(aliases, name)
if alias and alias.version == version and alias.canary == '' then return {'done', cjson.encode(alias)} end
if expected ~= '' and (not alias or alias.version ~= expected) then return {'moved', alias and alias.version or ''} end
if to.phase ~= 'ready' then return not_ready(version, to) end
local before = alias and describe(alias) or ''
alias = alias or {version = '', revision = 0, previous = ''}
if alias.version ~= version then alias.previous, alias.version = alias.version, version end
end_canary(alias)
if to.alias_suffix ~= '' and name == string.match(version, '^[^@]*@') .. to.alias_suffix then
  -- In the same step: otherwise a process that takes over later could move it again, over a rollback.
  to.alias_suffix, to.force = '', false
  write(phases, version, to)
end
return store_alias(kind, name, alias, before)
