-- The join: facts of one user in, labels out. Any order of arrival gives the same labels.
--
-- The state is one hash a user. Its fields, each a letter and an id, values in MessagePack:
--   p<impression>  a pair: one impression of one item of one response, with its click and its conversion (below);
--                  or {0, impression, count, event_ms}: another impression event of the same pair, an alias of it.
--                  COUNT is where the impression stands in the log: an action that stands before it came before it
--   n<item>        the user's pairs of this item: {{event_ms, impression, response}, ...}
--   s<response>    the served record: u32 length of the head | head | blob; the head is the items, then the request's time
--                  (absent where an older worker wrote it: then no impression is too early for it)
--   o<response>    impressions that came before their served record
--   w<impression>  clicks and conversions that came before the impression they name
--   a<event>       a click or conversion that names only its item; decided when the clock has passed it, because only
--                  then the last impression before it is known
-- Every p, w, a field and every s or o pair of fields has one timer in the bucket's sorted set: its letter | length of
-- the user u16 | user | id, at the event time when something is next due. 'a' sorts before 'e' and 'p': at the same time,
-- an action is taken in before a window closes. A clicked pair has a timer e besides while its elapsed time runs, where
-- config.provisional is 'elapsed'; and any pair a timer c while its click's does, where config.click_elapsed_ms is not 0.
local RESPONSE, ITEM, POSITION, SHOWN_MS, COUNT, STAGE, REFUSED, CLICK, CONVERSION = 2, 3, 4, 5, 6, 7, 8, 9, 10
-- By kind: 1 once its elapsed time passed without it; 0 or absent before, or where it came.
local PROVISIONAL = {[CLICK] = 12, [CONVERSION] = 11}
-- The item's 8 bytes in a log record: for actions that name only the impression. Absent where an older worker wrote it.
local STORED_ITEM = 13
local PAIR, ALIAS = 1, 0
-- A label's slot. BY names the fact whose arrival completed the label: that fact's redelivery emits it again.
local ID, MS, KAFKA_MS, VALUE, CLOSED, BY = 1, 2, 3, 4, 5, 6
-- STAGE is what the pair's timer stands at.
local CLICK_WINDOW, ATTRIBUTION_WINDOW, COLLECT = 0, 1, 2
-- REFUSED: the served record does not hold the item, or the impression is of before its request. AFTERWARDS is added
-- where that was known only when the served record came.
local NOT_SERVED, TOO_EARLY, AFTERWARDS = 1, 3, 1
local REFUSED_AS = {'unmatched', 'unmatched', 'implausible', 'implausible'}

local function open_state(key, due, user, config)
  return {key = key, due = due, user = user, config = config,
    fields = {}, changed = {}, timers = {}, served = {}, blobs = {}, blob_of = {}}
end

local function load_field(state, field)
  local value = state.fields[field]
  if value == nil then
    local stored = redis.call('HGET', state.key, field)
    value = stored and cmsgpack.unpack(stored)
    state.fields[field] = value
  end
  return value or nil
end

local function store_field(state, field, value)
  state.fields[field] = value
  state.changed[field] = true
end

local function drop_field(state, field)
  store_field(state, field, false)
end

local function timer_of(state, letter, id)
  return letter .. struct.pack('>I2', #state.user) .. state.user .. id
end

local function set_timer(state, letter, id, due_ms)
  state.timers[timer_of(state, letter, id)] = due_ms
end

-- Write back all that changed: one command a kind, so that the append-only file stays small.
local function close_state(state)
  local puts, drops, sets, clears = {}, {}, {}, {}
  for field in pairs(state.changed) do
    local value = state.fields[field]
    if value then
      table.insert(puts, field)
      table.insert(puts, type(value) == 'string' and value or cmsgpack.pack(value))
    else
      table.insert(drops, field)
    end
  end
  for timer, due_ms in pairs(state.timers) do
    if due_ms then
      table.insert(sets, string.format('%.0f', due_ms))
      table.insert(sets, timer)
    else
      table.insert(clears, timer)
    end
  end
  local function call(command, key, args)
    for from = 1, #args, 2000 do
      redis.call(command, key, unpack(args, from, math.min(from + 1999, #args)))
    end
  end
  call('HDEL', state.key, drops)
  call('HSET', state.key, puts)
  call('ZREM', state.due, clears)
  call('ZADD', state.due, sets)
  if #puts > 0 then redis.call('EXPIRE', state.key, state.config.key_ttl_s) end
end

-- {items = set, ms = time of the request or nil, blob = string}, or nil while the served record has not come.
local function served_of(state, response)
  local served = state.served[response]
  if served == nil then
    local stored = redis.call('HGET', state.key, 's' .. response)
    served = false
    if stored then
      local length = struct.unpack('<I4', stored)
      local items, ms = cmsgpack.unpack(stored:sub(5, 4 + length))
      served = {items = {}, ms = ms, blob = stored:sub(5 + length)}
      for _, item in ipairs(items) do served.items[item] = true end
    end
    state.served[response] = served
  end
  return served or nil
end

-- The pair that an impression event stands for, the id of the impression that counts, and of the event itself its place
-- in the log and its time; no pair if none is known.
local function pair_of(state, named)
  local pair = load_field(state, 'p' .. named)
  if not pair then return nil, named end
  if pair[1] == PAIR then return pair, named, pair[COUNT], pair[SHOWN_MS] end
  return load_field(state, 'p' .. pair[2]), pair[2], pair[3], pair[4]
end

-- Why an impression of this item and time gets no label, whatever comes; 0 where it may get one.
local function refusal_of(state, served, item, shown_ms)
  if not served.items[item] then return NOT_SERVED end
  if served.ms and shown_ms < served.ms - state.config.skew_ms then return TOO_EARLY end
  return 0
end

local function window_of(config, kind)
  return kind == CLICK and config.click_window_ms or config.attribution_window_ms
end

local function blob_of(state, response)
  if not state.blob_of[response] then
    table.insert(state.blobs, served_of(state, response).blob)
    state.blob_of[response] = #state.blobs
  end
  return state.blob_of[response]
end

-- Whether there is a time after which a provisional label says that a pair is negative.
local function has_elapsed(config, kind)
  if kind == CLICK then return config.click_elapsed_ms > 0 end
  return config.provisional == 'elapsed'
end

-- When a pair must have been clicked, or a clicked one have converted, for no provisional label to be made.
local function elapsed_at(state, pair, kind)
  if kind == CLICK then return pair[SHOWN_MS] + state.config.click_elapsed_ms end
  return pair[CLICK][MS] + state.config.elapsed_ms
end

-- Whether a provisional label says, or is going to say, that this positive is none. An answer once given stays.
local function corrects(state, pair, kind)
  if kind == CONVERSION and state.config.provisional == 'click' then return true end
  if not has_elapsed(state.config, kind) then return false end
  return pair[PROVISIONAL[kind]] == 1 or pair[kind][MS] > elapsed_at(state, pair, kind)
end

local function label_of(state, pair, impression, kind)
  local slot = pair[kind]
  local positive = slot[ID] ~= ''
  return {
    kind == CLICK and 'click' or 'conversion', positive and 1 or 0, slot[VALUE], pair[RESPONSE], pair[ITEM],
    pair[POSITION], impression, pair[SHOWN_MS], slot[ID], slot[KAFKA_MS],
    positive and slot[MS] or pair[SHOWN_MS] + window_of(state.config, kind), not positive, false,
    positive and corrects(state, pair, kind), blob_of(state, pair[RESPONSE])}
end

-- The label of what may yet come: by the elapsed time, or, of a conversion, by the click itself.
local function provisional_label_of(state, pair, impression, kind)
  local click, by_time = pair[CLICK], has_elapsed(state.config, kind)
  return {
    kind == CLICK and 'click' or 'conversion', 0, 0, pair[RESPONSE], pair[ITEM], pair[POSITION], impression,
    pair[SHOWN_MS], by_time and '' or click[ID], by_time and 0 or click[KAFKA_MS],
    by_time and elapsed_at(state, pair, kind) or click[MS], by_time, true, false, blob_of(state, pair[RESPONSE])}
end

-- Complete what the pair's facts now decide. A click label needs the served record, and a click or the end of its
-- window; a conversion label also needs the click.
local function resolve(state, pair, impression, by)
  if pair[REFUSED] ~= 0 or not served_of(state, pair[RESPONSE]) then return end
  if state.config.click_elapsed_ms > 0 and not pair[PROVISIONAL[CLICK]] then
    pair[PROVISIONAL[CONVERSION]] = pair[PROVISIONAL[CONVERSION]] or 0 -- a list has no holes
    pair[PROVISIONAL[CLICK]] = 0
    store_field(state, 'p' .. impression, pair)
    set_timer(state, 'c', impression, elapsed_at(state, pair, CLICK))
  end
  local function complete(slot)
    if slot[BY] == '' and (slot[ID] ~= '' or slot[CLOSED] == 1) then
      slot[BY] = by
      store_field(state, 'p' .. impression, pair)
      if slot == pair[CLICK] and slot[ID] ~= '' and state.config.provisional == 'elapsed' then
        set_timer(state, 'e', impression, elapsed_at(state, pair, CONVERSION))
      end
    end
  end
  complete(pair[CLICK])
  if pair[CLICK][ID] ~= '' then complete(pair[CONVERSION]) end
end

-- Add the pair's labels that `by` completed, now or the first time it came. What was served may be gone by a redelivery.
local function emit(state, pair, impression, by, labels)
  if not served_of(state, pair[RESPONSE]) then return end
  for _, kind in ipairs({CLICK, CONVERSION}) do
    if pair[kind][BY] == by then
      table.insert(labels, label_of(state, pair, impression, kind))
      if kind == CLICK and pair[CLICK][ID] ~= '' and state.config.provisional == 'click' then
        table.insert(labels, provisional_label_of(state, pair, impression, CONVERSION))
      end
    end
  end
end

-- Put an action into its slot of the pair. named_ms is the time of the impression event that it named.
-- Returns 'taken' (also if it was taken before) or why not. With dry = true nothing changes.
local function take(state, pair, impression, action, named_ms, dry)
  local kind = action.role == 'click' and CLICK or CONVERSION
  local slot = pair[kind]
  if slot[ID] == action.id then return 'taken' end
  if action.ms > pair[SHOWN_MS] + window_of(state.config, kind) then return 'late' end
  if action.ms < named_ms - state.config.early_ms then return 'implausible' end
  -- Each answer below, once given, stays: a redelivery gets it again.
  if slot[ID] ~= '' then return 'repeated' end
  if slot[CLOSED] == 1 then return 'late' end
  if pair[REFUSED] ~= 0 or (kind == CONVERSION and pair[CLICK][CLOSED] == 1) then return 'unmatched' end
  if not dry then
    slot[ID], slot[MS], slot[KAFKA_MS], slot[VALUE] = action.id, action.ms, action.kafka_ms, action.value
    store_field(state, 'p' .. impression, pair)
  end
  return 'taken'
end

local function outcome_of(labels)
  return #labels > 0 and 'matched' or 'waiting'
end

local function serve(state, fact, blob)
  local by, labels = 's' .. fact.id, {}
  local fresh = not served_of(state, fact.id)
  local waiting = load_field(state, 'o' .. fact.id) or {}
  if fresh then
    local head = cmsgpack.pack(fact.items, fact.ms)
    store_field(state, 's' .. fact.id, struct.pack('<I4', #head) .. head .. blob)
    state.served[fact.id] = {items = {}, ms = fact.ms, blob = blob}
    for _, item in ipairs(fact.items) do state.served[fact.id].items[item] = true end
    local last_ms = fact.ms
    for _, impression in ipairs(waiting) do
      local pair = load_field(state, 'p' .. impression)
      if pair then last_ms = math.max(last_ms, pair[SHOWN_MS]) end
    end
    set_timer(state, 's', fact.id, last_ms + state.config.state_ttl_s * 1000)
  end
  for _, impression in ipairs(waiting) do
    local pair = load_field(state, 'p' .. impression)
    if pair then
      local refusal = fresh and refusal_of(state, state.served[fact.id], pair[ITEM], pair[SHOWN_MS]) or 0
      if refusal ~= 0 then
        pair[REFUSED] = refusal + AFTERWARDS
        store_field(state, 'p' .. impression, pair)
      end
      if fresh then resolve(state, pair, impression, by) end
      emit(state, pair, impression, by, labels)
    end
  end
  return fresh, 'served', labels
end

-- Keep the served record, or the list that waits for it, as long as this pair.
local function keep_response(state, response, shown_ms)
  local due_ms = shown_ms + state.config.state_ttl_s * 1000
  local timer = timer_of(state, 's', response)
  local set = state.timers[timer] or redis.call('ZSCORE', state.due, timer)
  if not set or tonumber(set) < due_ms then state.timers[timer] = due_ms end
end

local function empty_slot()
  return {'', 0, 0, 0, 0, ''}
end

local function new_pair(state, fact, count)
  local served = served_of(state, fact.response)
  local refusal = served and refusal_of(state, served, fact.item, fact.ms) or 0
  local pair = {PAIR, fact.response, fact.item, fact.position, fact.ms, count, CLICK_WINDOW, refusal, empty_slot(),
    empty_slot(), false, false, fact.stored_item}
  store_field(state, 'p' .. fact.id, pair)
  set_timer(state, 'p', fact.id, fact.ms + state.config.click_window_ms)
  keep_response(state, fact.response, fact.ms)
  if not served then
    local waiting = load_field(state, 'o' .. fact.response) or {}
    table.insert(waiting, fact.id)
    store_field(state, 'o' .. fact.response, waiting)
  end
  return pair
end

-- Hand the actions that waited for this impression to its pair.
local function take_waiting(state, pair, impression, named, named_ms)
  for _, action in ipairs(load_field(state, 'w' .. named) or {}) do
    take(state, pair, impression, action, named_ms)
    drop_field(state, 'w' .. named)
    state.timers[timer_of(state, 'w', named)] = false
  end
end

local function impress(state, fact, fresh, count)
  local by, labels = 'e' .. fact.id, {}
  local pair, impression = pair_of(state, fact.id)
  if not pair and fresh then
    local shown = load_field(state, 'n' .. fact.item) or {}
    for _, other in ipairs(shown) do
      if other[3] == fact.response then
        impression = other[2]
        pair = load_field(state, 'p' .. impression)
      end
    end
    if pair then
      store_field(state, 'p' .. fact.id, {ALIAS, impression, count, fact.ms})
      set_timer(state, 'p', fact.id, fact.ms + state.config.state_ttl_s * 1000)
    else
      pair = new_pair(state, fact, count)
      table.insert(shown, {fact.ms, fact.id, fact.response})
      store_field(state, 'n' .. fact.item, shown)
    end
    take_waiting(state, pair, impression, fact.id, fact.ms)
    resolve(state, pair, impression, by)
  end
  if not pair then return 'waiting', labels end
  emit(state, pair, impression, by, labels)
  if impression ~= fact.id then return 'repeated', labels end
  if pair[REFUSED] == NOT_SERVED or pair[REFUSED] == TOO_EARLY then return REFUSED_AS[pair[REFUSED]], labels end
  return outcome_of(labels), labels
end

local function wait(state, letter, id, action, due_ms)
  local field = letter .. id
  if letter == 'a' then
    if load_field(state, field) then return end
    store_field(state, field, action)
  else
    local waiting = load_field(state, field) or {}
    for _, other in ipairs(waiting) do
      if other.id == action.id then return end
      due_ms = math.max(due_ms, other.ms + state.config.early_ms)
    end
    table.insert(waiting, action)
    store_field(state, field, waiting)
  end
  set_timer(state, letter, id, due_ms)
end

local function act(state, action, fresh, count)
  if action.role == 'log' then return 'log_only', {} end
  if not action.impression then
    if not action.item then return 'unmatched', {} end
    if fresh then wait(state, 'a', action.id, action, action.ms) end
    return 'waiting', {}
  end
  local pair, impression, shown_at, shown_ms = pair_of(state, action.impression)
  if not pair then
    if fresh then wait(state, 'w', action.impression, action, action.ms + state.config.early_ms) end
    return 'waiting', {}
  end
  if count < shown_at then return 'waiting', {} end
  local by, labels = 'e' .. action.id, {}
  local outcome = take(state, pair, impression, action, shown_ms, not fresh)
  if outcome ~= 'taken' then return outcome, labels end
  if fresh then resolve(state, pair, impression, by) end
  emit(state, pair, impression, by, labels)
  return outcome_of(labels), labels
end
