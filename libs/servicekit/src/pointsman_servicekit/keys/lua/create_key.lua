-- Puts a key in place, and its tenant where it is new, and adds an entry to the audit log. Twice the same is once.
local keys, index, tenants, audit = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local digest, id, prefix, record, tenant, tenant_record, max_entries, entry = unpack(ARGV)
local there = redis.call('HGET', keys, digest)
if there then return there == record and 1 or 0 end
if redis.call('HEXISTS', index, id) == 1 or redis.call('HEXISTS', index, prefix) == 1 then return 0 end
redis.call('HSETNX', tenants, tenant, tenant_record)
redis.call('HSET', index, id, digest, prefix, digest)
redis.call('HSET', keys, digest, record)
redis.call('XADD', audit, 'MAXLEN', '~', max_entries, '*', 'entry', entry)
return 1
