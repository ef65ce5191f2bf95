-- What the server is asked to do, and the functions' registration. VERSION is defined above all files.

local SERVED, IMPRESSION = 1, 2

-- A fact as sent: {SERVED, response, event_ms, items} | {IMPRESSION, event, response, item, position, event_ms, kafka_ms}
-- | {3, event, role, item or false, impression or false, value, event_ms, kafka_ms}.
local function read_fact(f)
  if f[1] == SERVED then return {id = f[2], ms = f[3], items = f[4]} end
  if f[1] == IMPRESSION then
    return {id = f[2], response = f[3], item = f[4], position = f[5], ms = f[6], kafka_ms = f[7]}
  end
  return {id = f[2], role = f[3], item = f[4], impression = f[5], value = f[6], ms = f[7], kafka_ms = f[8]}
end

-- FCALL 3 log, join, due; user, config, generation, facts, entries, blobs...
-- entries holds tag | record (24 bytes) of every fact that is an event, blobs one string for every served record.
-- → {generation, replies, blobs...}; replies is a list of {stored, count, outcome, labels}.
local function apply(keys, args)
  local config = cmsgpack.unpack(args[2])
  local log
  local state = open_state(keys[2], keys[3], args[1], config)
  local entries, blobs, replies = 0, 5, {}
  for _, packed in ipairs(cmsgpack.unpack(args[4])) do
    local fact, fresh, count, outcome, labels = read_fact(packed), true, 0, nil, nil
    if packed[1] == SERVED then
      blobs = blobs + 1
      fresh, outcome, labels = serve(state, fact, args[blobs])
    else
      log = log or open_log(keys[1], config, args[3])
      local entry = args[5]:sub(entries * (TAG + RECORD) + 1, (entries + 1) * (TAG + RECORD))
      entries = entries + 1
      count = find_event(log, entry:sub(1, TAG))
      fresh = not count
      count = count or append_event(log, config, args[3], entry:sub(1, TAG), entry:sub(TAG + 1))
      if packed[1] == IMPRESSION then
        outcome, labels = impress(state, fact, fresh, count)
      else
        outcome, labels = act(state, fact, fresh, count)
      end
    end
    table.insert(replies, {fresh and 1 or 0, count, outcome, labels})
  end
  if log then close_log(log, config) end
  close_state(state)
  return {log and log.generation or '', cmsgpack.pack(replies), unpack(state.blobs)}
end

-- FCALL 1 offsets; field, offset, ... A function, so that where the functions are missing no offset moves either.
local function set_offsets(keys, args)
  if #args > 0 then redis.call('HSET', keys[1], unpack(args)) end
  return redis.status_reply('OK')
end

-- FCALL 3 log, join, due; user: all that is stored of the user goes.
local function forget(keys, args)
  local state = open_state(keys[2], keys[3], args[1], {})
  for _, field in ipairs(redis.call('HKEYS', keys[2])) do
    local letter = field:sub(1, 1)
    if letter == 'o' then letter = 's' end
    state.timers[timer_of(state, letter, field:sub(2))] = false
  end
  close_state(state)
  return redis.call('DEL', keys[1], keys[2])
end

local function register(name, callback, flags)
  redis.register_function({function_name = name .. '_' .. VERSION, callback = callback, flags = flags})
end

register('log_read', log_read, {'no-writes'})
register('log_read_as_of', log_read_as_of, {'no-writes'})
register('apply', apply, {})
register('set_offsets', set_offsets, {})
register('sweep', join_sweep, {})
register('settle', join_settle, {})
register('forget', forget, {})
