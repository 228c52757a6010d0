-- KEYS: the evidence of a day. Returns its fields and values in turns, as one JSON text.
return cjson.encode(redis.call('HGETALL', KEYS[1]))
