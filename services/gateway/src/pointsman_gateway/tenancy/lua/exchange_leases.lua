-- For each limit of a key or tenant in its current window: a gateway reports how much of it it has used, and gets how
-- much it may hold in total. Both are totals, not differences, so the exchange is idempotent; a report that arrives
-- late has a lower number and changes nothing. The sum of all leases stays within the limit, except for what was used
-- in excess of a lease. Uses the clock of Redis.
local ARGUMENTS_PER_LIMIT = 9
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
local gateways, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
local DAY = 86400000

local function whole(number) return string.format('%.0f', number) end

local function is_leap(year) return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) end

local function month_at(day) -- days since 1970
  local year = 1970
  while true do
    local days = is_leap(year) and 366 or 365
    if day < days then break end
    day, year = day - days, year + 1
  end
  local lengths = {31, is_leap(year) and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
  for month, days in ipairs(lengths) do
    if day < days then return year * 12 + month - 1, days - day end
    day = day - days
  end
end

local function window_at(kind) -- number and end of the current window
  if kind == 'now' then return 0, now + lease end
  local length = kind == 'minute' and 60000 or DAY
  local number = math.floor(now / length)
  if kind ~= 'month' then return number, (number + 1) * length end
  local month, days_left = month_at(number)
  return month, (number + days_left) * DAY
end

local function read_lease(text)
  if not text then return {held = 0, used = 0, number = 0, expires = 0} end
  local held, used, number, expires = string.match(text, '^(%-?%d+) (%-?%d+) (%d+) (%d+)$')
  return {held = tonumber(held), used = tonumber(used), number = tonumber(number), expires = tonumber(expires)}
end

local function write_lease(key, holder, lease)
  redis.call('HSET', key, holder,
    whole(lease.held) .. ' ' .. whole(lease.used) .. ' ' .. whole(lease.number) .. ' ' .. whole(lease.expires))
end

-- Takes back the unused part of leases that have expired, because their gateway has not reported since. Streams end
-- with their gateway, so those leases are taken back completely. Returns by how much the held and used sums decrease.
local function reclaim(key, kind, holder)
  local held_less, used_less = 0, 0
  local all = redis.call('HGETALL', key)
  for at = 1, #all, 2 do
    local name = all[at]
    if string.find(name, '.', 1, true) and name ~= holder then
      local expired = read_lease(all[at + 1])
      if expired.expires < now then
        local stays = kind == 'now' and 0 or expired.used
        held_less = held_less + expired.held - stays
        if kind == 'now' then
          used_less = used_less + expired.used
          redis.call('HDEL', key, name)
        elseif expired.expires < now - DAY then
          redis.call('HDEL', key, name) -- the sums still include what it used
        elseif expired.held ~= stays then
          expired.held = stays
          write_lease(key, name, expired)
        end
      end
    end
  end
  return held_less, used_less
end

local answers = {now}
for number, key in ipairs(KEYS) do
  local at = 3 + (number - 1) * ARGUMENTS_PER_LIMIT
  local kind, holder = ARGV[at + 1], ARGV[at + 2]
  local limit, report_number, window = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local used, carried = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local wish, need = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  local current, ends = window_at(kind)
  local stored = redis.call('HMGET', key, 'window', 'held', 'used', holder)
  if stored[1] ~= whole(current) then
    redis.call('DEL', key)
    stored = {whole(current), '0', '0', false}
  end
  local all_held, all_used, mine = tonumber(stored[2]), tonumber(stored[3]), read_lease(stored[4])
  if report_number > mine.number then
    used = (window == current and used or 0) + carried
    local others = all_held - mine.held
    local left = limit - others - used
    if left < math.max(wish, need) then
      local held_less, used_less = reclaim(key, kind, holder)
      others, all_used, left = others - held_less, all_used - used_less, left + held_less
    end
    local spare = math.min(wish, math.floor(left / (2 * gateways))) -- leases shrink as the limit is approached
    if need <= left then spare = math.max(spare, need) end
    -- Never less than what the gateway reports to keep, since this answer may not reach it.
    spare = math.max(spare, math.min(mine.held - used, wish), 0)
    all_used = all_used - mine.used + used
    mine = {held = used + spare, used = used, number = report_number, expires = now + lease}
    all_held = others + mine.held
    if kind == 'now' and mine.held == 0 then
      redis.call('HDEL', key, holder)
    else
      write_lease(key, holder, mine)
    end
    redis.call('HSET', key, 'window', whole(current), 'held', whole(all_held), 'used', whole(all_used))
    redis.call('PEXPIRE', key, whole(ends - now + (kind == 'minute' and 60000 or DAY)))
  end
  for _, value in ipairs({current, ends - now, mine.held, limit - all_held, limit - all_used}) do
    answers[#answers + 1] = value
  end
end
return answers
