#!lua name=tiderank_rewards_VERSION

-- Reward windows. Of each response there is one hash <prefix>r:<response id>:
--   d     the decision, opaque
--   due   event time at which its window closes, ms
--   a     what the aggregates need: minute|cost|forced|plan
--   s     absent while open, "c" from the first sweep that closed it, "x" once its reward is settled
--   o:ID  an outcome: state|event time|value, state "w" in the window, "l" late and to be sent, "s" settled
--   n     of a window that was told settled: how many more outcomes, before it closed, are in its reward already
-- and two sorted sets of response ids: <prefix>due by due time, <prefix>late of those with outcomes in state "l",
-- and one hash of source positions, <prefix>at: by "topic:partition", the offset after the last that is in all of this.

-- Open windows outlive their time by a week, as long as topics keep what is still to be read: this clock runs on while
-- those who close windows are held, or down.
local HELD_MS = 7 * 24 * 3600 * 1000

local function parse(outcome)
  return outcome:match('^(%l)|(%-?%d+)|(.*)$')
end

local function take_decision(prefix, ttl, id, due, payload, aggregate)
  local key = prefix .. 'r:' .. id
  if redis.call('HSETNX', key, 'd', payload) == 0 then
    return 'duplicate'
  end
  redis.call('HSET', key, 'due', due, 'a', aggregate)
  redis.call('PEXPIRE', key, ttl + HELD_MS)
  redis.call('ZADD', prefix .. 'due', due, id)
  return 'decision'
end

local function take_outcome(prefix, ttl, id, outcome_id, event_ms, value)
  local key = prefix .. 'r:' .. id
  local known = redis.call('HMGET', key, 'd', 's', 'n', 'due')
  local state = known[2] and 'l' or 'w'
  if tonumber(known[3] or 0) > 0 and tonumber(event_ms) < tonumber(known[4]) then
    if redis.call('HSETNX', key, 'o:' .. outcome_id, 's|' .. event_ms .. '|' .. value) == 1 then
      redis.call('HINCRBY', key, 'n', -1)
    end
    return 'duplicate'
  end
  if redis.call('HSETNX', key, 'o:' .. outcome_id, state .. '|' .. event_ms .. '|' .. value) == 0 then
    return 'duplicate'
  end
  if state == 'l' then
    redis.call('ZADD', prefix .. 'late', event_ms, id)
    return 'late'
  end
  if known[1] then
    return 'matched'
  end
  redis.call('PEXPIRE', key, ttl + HELD_MS)
  return 'early'
end

-- Whether the positions are those that a caller left, of argv[from] places from argv[from + 1] on, `width` values each:
-- name, offset and, where it is about to move, the offset after; that one too, as a call may have come twice.
local function stands(prefix, argv, from, width)
  for i = from + 1, from + argv[from] * width, width do
    local at = redis.call('HGET', prefix .. 'at', argv[i]) or '0'
    if at ~= argv[i + 1] and at ~= argv[i + width - 1] then
      return false
    end
  end
  return true
end

-- KEYS: anything in the slot. ARGV: prefix, ttl ms, decisions, places, then 3 of each place, then 4 of each decision,
-- then 4 of each outcome. Returns one word an item; nil, with nothing taken, where the positions are others.
local function take(keys, argv)
  local prefix, ttl, decisions, places = argv[1], argv[2], tonumber(argv[3]), 4
  if not stands(prefix, argv, places, 3) then
    return false
  end
  local first, words = places + 1 + 3 * argv[places], {}
  for i = first, #argv, 4 do
    local f = (i - first) / 4 < decisions and take_decision or take_outcome
    words[#words + 1] = f(prefix, ttl, argv[i], argv[i + 1], argv[i + 2], argv[i + 3])
  end
  for i = places + 1, first - 1, 3 do
    redis.call('HSET', prefix .. 'at', argv[i], argv[i + 2])
  end
  return words
end

-- The window's content is fixed here: what comes later is late, so a second sweep says the same as the first.
local function close(prefix, id, key, fields)
  local outcomes = {}
  for name, value in pairs(fields) do
    if name:sub(1, 2) == 'o:' then
      local state, event_ms, earned = parse(value)
      if state == 'w' and not fields.s and tonumber(event_ms) >= tonumber(fields.due) then
        redis.call('HSET', key, name, 'l|' .. event_ms .. '|' .. earned)
        redis.call('ZADD', prefix .. 'late', event_ms, id)
      elseif state == 'w' then
        outcomes[#outcomes + 1] = name:sub(3)
        outcomes[#outcomes + 1] = earned
      end
    end
  end
  if not fields.s then
    redis.call('HSET', key, 's', 'c')
  end
  return { id, fields.d, outcomes }
end

local function fields_of(key)
  local flat, fields = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

local function any_late(key)
  for name, value in pairs(fields_of(key)) do
    if name:sub(1, 2) == 'o:' and value:sub(1, 1) == 'l' then
      return true
    end
  end
  return false
end

-- ARGV: prefix, now ms, limit, places, then 2 of each place. Returns due responses as {id, decision, {outcome id, value,
-- ...}}, late outcomes of settled responses in the same form, and how many due responses were gone (their time to live
-- ended); nil where the positions are others.
local function sweep(keys, argv)
  local prefix, now, limit = argv[1], argv[2], argv[3]
  if not stands(prefix, argv, 4, 2) then
    return false
  end
  local due, late, gone = {}, {}, 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', now, 'LIMIT', 0, limit)) do
    local key = prefix .. 'r:' .. id
    local fields = fields_of(key)
    if fields.d then
      due[#due + 1] = close(prefix, id, key, fields)
    else
      redis.call('ZREM', prefix .. 'due', id)
      gone = gone + 1
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', prefix .. 'late', 0, limit - 1)) do
    local fields = fields_of(prefix .. 'r:' .. id)
    if not fields.d then
      redis.call('ZREM', prefix .. 'late', id)
    elseif fields.s == 'x' then
      local outcomes = {}
      for name, value in pairs(fields) do
        if name:sub(1, 2) == 'o:' and value:sub(1, 1) == 'l' then
          local _, _, earned = parse(value)
          outcomes[#outcomes + 1] = name:sub(3)
          outcomes[#outcomes + 1] = earned
        end
      end
      late[#late + 1] = { id, fields.d, outcomes }
    end
  end
  return { due, late, gone }
end

local function aggregate(prefix, ttl, a, earned, late)
  local minute, cost, forced, plan = a:match('^(%d+)|([^|]*)|(%d)|(.*)$')
  local key = prefix .. 'm:' .. minute
  if late then
    redis.call('HINCRBY', key, 'late:' .. plan, 1)
  else
    redis.call('HINCRBY', key, 'responses:' .. plan, 1)
    redis.call('HINCRBY', key, 'forced:' .. plan, forced)
    redis.call('HINCRBYFLOAT', key, 'cost_ms:' .. plan, cost)
  end
  redis.call('HINCRBYFLOAT', key, 'earned:' .. plan, earned)
  redis.call('PEXPIRE', key, ttl)
end

-- Returns whether that is new.
local function settle_one(prefix, ttl, id, outcome_id, earned)
  local key = prefix .. 'r:' .. id
  local known = redis.call('HMGET', key, 's', 'a', 'o:' .. outcome_id)
  local state, about, outcome = known[1], known[2], known[3]
  if outcome_id == '' and state == 'c' then
    redis.call('HSET', key, 's', 'x')
    redis.call('PEXPIRE', key, math.max(1, redis.call('PTTL', key) - HELD_MS))
    redis.call('ZREM', prefix .. 'due', id)
    aggregate(prefix, ttl, about, earned, false)
    return true
  elseif outcome_id ~= '' and outcome and outcome:sub(1, 1) == 'l' then
    redis.call('HSET', key, 'o:' .. outcome_id, 's' .. outcome:sub(2))
    if not any_late(key) then
      redis.call('ZREM', prefix .. 'late', id)
    end
    aggregate(prefix, ttl, about, earned, true)
    return true
  end
  return false
end

-- Where rewards are read from again, if this is forgotten. Never back: two may deliver at once.
local function delivered(prefix, argv, from)
  for i = from + 1, from + 2 * argv[from], 2 do
    local at = redis.call('HGET', prefix .. 'at', argv[i]) or '0'
    if tonumber(at) < tonumber(argv[i + 1]) then
      redis.call('HSET', prefix .. 'at', argv[i], argv[i + 1])
    end
  end
  return from + 1 + 2 * argv[from]
end

-- ARGV: prefix, aggregates' ttl ms, places, then 2 of each place that rewards were delivered to, then response id,
-- outcome id ("" for the window's own reward), earned of each. Returns how many were settled now, and not before.
local function settle(keys, argv)
  local settled = 0
  for i = delivered(argv[1], argv, 3), #argv, 3 do
    if settle_one(argv[1], argv[2], argv[i], argv[i + 1], argv[i + 2]) then
      settled = settled + 1
    end
  end
  return settled
end

-- Tells of rewards that were delivered. ARGV: prefix, ttl ms, aggregates' ttl ms, places, then 2 of each place, then
-- response id, due, decision, about, outcome id, earned, outcomes in it of each. Returns how many were not known.
local function restore(keys, argv)
  local prefix, ttl, aggregates_ttl, restored = argv[1], argv[2], argv[3], 0
  for i = delivered(prefix, argv, 4), #argv, 7 do
    local id, outcome_id, earned = argv[i], argv[i + 4], argv[i + 5]
    local key = prefix .. 'r:' .. id
    take_decision(prefix, ttl, id, argv[i + 1], argv[i + 2], argv[i + 3])
    local fields = fields_of(key)
    if outcome_id == '' and fields.s ~= 'x' then
      local counted = close(prefix, id, key, fields)[3]
      redis.call('HSET', key, 'n', argv[i + 6] - #counted / 2)
    elseif outcome_id ~= '' and (fields['o:' .. outcome_id] or 'w'):sub(1, 1) ~= 's' then
      redis.call('HSET', key, 'o:' .. outcome_id, 'l|' .. argv[i + 1] .. '|' .. earned)
    end
    if settle_one(prefix, aggregates_ttl, id, outcome_id, earned) then
      restored = restored + 1
    end
  end
  return restored
end

-- ARGV: prefix, then response ids. Returns how many of them were known.
local function forget(keys, argv)
  local prefix, known = argv[1], 0
  for i = 2, #argv do
    known = known + redis.call('DEL', prefix .. 'r:' .. argv[i])
    redis.call('ZREM', prefix .. 'due', argv[i])
    redis.call('ZREM', prefix .. 'late', argv[i])
  end
  return known
end

redis.register_function('rw_take_VERSION', take)
redis.register_function('rw_forget_VERSION', forget)
redis.register_function('rw_sweep_VERSION', sweep)
redis.register_function('rw_settle_VERSION', settle)
redis.register_function('rw_restore_VERSION', restore)
