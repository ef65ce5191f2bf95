-- What the server is asked to do, and the functions' registration. VERSION is defined above all files.

local SERVED, IMPRESSION = 1, 2

-- A fact as sent: {SERVED, response, event_ms, items}
-- | {IMPRESSION, event, response, item, position, event_ms, kafka_ms, known}
-- | {3, event, role, item or false, impression or false, value, event_ms, kafka_ms, known}.
local function read_fact(f)
  if f[1] == SERVED then return {id = f[2], ms = f[3], items = f[4]} end
  if f[1] == IMPRESSION then
    return {id = f[2], response = f[3], item = f[4], position = f[5], ms = f[6], kafka_ms = f[7]}
  end
  return {id = f[2], role = f[3], item = f[4], impression = f[5], value = f[6], ms = f[7], kafka_ms = f[8]}
end

local ITEM_AT, ITEM_BYTES = 4, 8

-- The record of an action: of one that names only its impression, with that one's item, where its pair is known.
local function record_of(state, action, record)
  if action.item or not action.impression then return record end
  local pair = pair_of(state, action.impression)
  if not pair or not pair[STORED_ITEM] then return record end
  return record:sub(1, ITEM_AT) .. pair[STORED_ITEM] .. record:sub(ITEM_AT + ITEM_BYTES + 1)
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
      -- Where each event has its tag, they know better. Its place was this at the latest.
      if not count and packed[#packed] and log.count > log.tags then count = log.count end
      fresh = not count
      if fresh then
        local record = entry:sub(TAG + 1)
        if packed[1] ~= IMPRESSION then record = record_of(state, fact, record) end
        count = append_event(log, config, args[3], entry:sub(1, TAG), record)
      end
      if packed[1] == IMPRESSION then
        fact.stored_item = entry:sub(TAG + ITEM_AT + 1, TAG + ITEM_AT + ITEM_BYTES)
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

-- FCALL 3 log, join, due; user: all that is stored of the user goes → {events held, fields by letter, responses}.
local function forget(keys, args)
  local state = open_state(keys[2], keys[3], args[1], {})
  local log = read_header(keys[1])
  local fields, responses = {}, {}
  for _, field in ipairs(redis.call('HKEYS', keys[2])) do
    local letter, id = field:sub(1, 1), field:sub(2)
    fields[letter] = (fields[letter] or 0) + 1
    if letter == 'o' then letter = 's' end
    if letter == 's' then responses[id] = true end
    if letter == 'p' then
      local pair = load_field(state, field)
      if pair[1] == PAIR then responses[pair[RESPONSE]] = true end
      state.timers[timer_of(state, 'c', id)] = false
      state.timers[timer_of(state, 'e', id)] = false
    end
    state.timers[timer_of(state, letter, id)] = false
  end
  close_state(state)
  redis.call('DEL', keys[1], keys[2])
  local names = {}
  for name in pairs(responses) do table.insert(names, name) end
  return cmsgpack.pack({log and math.min(log.count, log.capacity) or 0, fields, names})
end

-- FCALL 1 log; config, generation, count, new generation, entries: the log becomes these entries (24 bytes each), if it
-- stands where the caller saw it → its new count, or -1 where it does not.
local function replace(keys, args)
  local config = cmsgpack.unpack(args[1])
  local log = read_header(keys[1])
  if (log and log.generation or '') ~= args[2] or (log and log.count or 0) ~= tonumber(args[3]) then return -1 end
  redis.call('DEL', keys[1])
  log = open_log(keys[1], config, args[4])
  for at = 1, #args[5], TAG + RECORD do
    append_event(log, config, args[4], args[5]:sub(at, at + TAG - 1), args[5]:sub(at + TAG, at + TAG + RECORD - 1))
  end
  close_log(log, config)
  return log.count
end

local function register(name, callback, flags)
  redis.register_function({function_name = name .. '_' .. VERSION, callback = callback, flags = flags})
end

register('log_read', log_read, {'no-writes'})
register('log_read_as_of', log_read_as_of, {'no-writes'})
register('apply', apply, {})
register('set_offsets', set_offsets, {})
register('due', due, {'no-writes'})
register('sweep', join_sweep, {})
register('settle', join_settle, {})
register('forget', forget, {})
register('replace', replace, {})
