#!lua name=tiderank_rewards_VERSION

-- Reward windows. Of each response there is one hash <prefix>r:<response id>:
--   d     the decision, opaque
--   due   event time at which its window closes, ms
--   a     what the aggregates need: minute|cost|forced|plan
--   s     absent while open, "c" from the first sweep that closed it, "x" once its reward is settled
--   o:ID  an outcome: state|event time|value, state "w" in the window, "l" late and to be sent, "s" settled
-- and two sorted sets of response ids: <prefix>due by due time, <prefix>late of those with outcomes in state "l".

local function parse(outcome)
  return outcome:match('^(%l)|(%-?%d+)|(.*)$')
end

local function take_decision(prefix, ttl, id, due, payload, aggregate)
  local key = prefix .. 'r:' .. id
  if redis.call('HSETNX', key, 'd', payload) == 0 then
    return 'duplicate'
  end
  redis.call('HSET', key, 'due', due, 'a', aggregate)
  redis.call('PEXPIRE', key, ttl)
  redis.call('ZADD', prefix .. 'due', due, id)
  return 'decision'
end

local function take_outcome(prefix, ttl, id, outcome_id, event_ms, value)
  local key = prefix .. 'r:' .. id
  local known = redis.call('HMGET', key, 'd', 's')
  local state = known[2] and 'l' or 'w'
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
  redis.call('PEXPIRE', key, ttl)
  return 'early'
end

-- KEYS: anything in the slot. ARGV: prefix, ttl ms, caller, decisions, then 4 of each decision, then 4 of each outcome.
-- Returns how often this caller has called, and one word an item.
local function take(keys, argv)
  local prefix, ttl, decisions = argv[1], argv[2], tonumber(argv[4])
  local words = { redis.call('HINCRBY', prefix .. 'calls', argv[3], 1) }
  for i = 5, #argv, 4 do
    local f = (i - 5) / 4 < decisions and take_decision or take_outcome
    words[#words + 1] = f(prefix, ttl, argv[i], argv[i + 1], argv[i + 2], argv[i + 3])
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

-- ARGV: prefix, now ms, limit. Returns due responses as {id, decision, {outcome id, value, ...}}, late outcomes of
-- settled responses in the same form, and how many due responses were gone (their time to live ended).
local function sweep(keys, argv)
  local prefix, now, limit = argv[1], argv[2], argv[3]
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

-- ARGV: prefix, aggregates' ttl ms, then response id, outcome id ("" for the window's own reward), earned of each.
-- Returns how many were settled now, and not before.
local function settle(keys, argv)
  local prefix, ttl, settled = argv[1], argv[2], 0
  for i = 3, #argv, 3 do
    local id, outcome_id, earned = argv[i], argv[i + 1], argv[i + 2]
    local key = prefix .. 'r:' .. id
    local known = redis.call('HMGET', key, 's', 'a', 'o:' .. outcome_id)
    local state, about, outcome = known[1], known[2], known[3]
    if outcome_id == '' and state == 'c' then
      redis.call('HSET', key, 's', 'x')
      redis.call('ZREM', prefix .. 'due', id)
      aggregate(prefix, ttl, about, earned, false)
      settled = settled + 1
    elseif outcome_id ~= '' and outcome and outcome:sub(1, 1) == 'l' then
      redis.call('HSET', key, 'o:' .. outcome_id, 's' .. outcome:sub(2))
      if not any_late(key) then
        redis.call('ZREM', prefix .. 'late', id)
      end
      aggregate(prefix, ttl, about, earned, true)
      settled = settled + 1
    end
  end
  return settled
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
