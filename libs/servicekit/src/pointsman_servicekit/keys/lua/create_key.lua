-- Puts a key in place, and its tenant where it is new. Twice the same is once.
local keys, index, tenants = KEYS[1], KEYS[2], KEYS[3]
local digest, id, prefix, record, tenant, tenant_record = unpack(ARGV)
local there = redis.call('HGET', keys, digest)
if there then return there == record and 1 or 0 end
if redis.call('HEXISTS', index, id) == 1 or redis.call('HEXISTS', index, prefix) == 1 then return 0 end
redis.call('HSETNX', tenants, tenant, tenant_record)
redis.call('HSET', index, id, digest, prefix, digest)
redis.call('HSET', keys, digest, record)
return 1
