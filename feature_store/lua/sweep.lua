-- Timers that are due. A decision is stored when it is made; a timer that brought labels stands until they are settled,
-- so that a crash in between brings the same labels again.

-- FCALL n due; now_ms, limit → member, score, ... of up to `limit` timers of each key that are due. One call for many
-- keys, since most have none: a command and an answer for each would be most of what an idle house does.
local function due(keys, args)
  local found = {}
  for _, key in ipairs(keys) do
    local timers = redis.call('ZRANGE', key, '-inf', args[1], 'BYSCORE', 'LIMIT', 0, args[2], 'WITHSCORES')
    for i = 1, #timers do found[#found + 1] = timers[i] end
  end
  return found
end

local function advance(state, pair, impression)
  if pair[STAGE] == CLICK_WINDOW and pair[CLICK][ID] ~= '' then
    pair[STAGE] = ATTRIBUTION_WINDOW
    set_timer(state, 'p', impression, pair[SHOWN_MS] + state.config.attribution_window_ms)
  else
    pair[STAGE] = COLLECT
    set_timer(state, 'p', impression, pair[SHOWN_MS] + state.config.state_ttl_s * 1000)
  end
  store_field(state, 'p' .. impression, pair)
end

local function collect(state, pair, impression)
  drop_field(state, 'p' .. impression)
  local kept = {}
  for _, shown in ipairs(load_field(state, 'n' .. pair[ITEM]) or {}) do
    if shown[2] ~= impression then table.insert(kept, shown) end
  end
  store_field(state, 'n' .. pair[ITEM], #kept > 0 and kept)
end

-- Close the window that the pair's timer stands at. Returns the outcomes, the labels.
local function close_window(state, pair, impression)
  if pair[REFUSED] ~= 0 then return {REFUSED_AS[pair[REFUSED]]}, {} end
  local kind = pair[STAGE] == CLICK_WINDOW and CLICK or CONVERSION
  local slot, by = pair[kind], '~' .. pair[STAGE]
  local outcomes, labels = {}, {}
  if slot[ID] == '' then
    if slot[CLOSED] == 0 then
      slot[CLOSED] = 1
      store_field(state, 'p' .. impression, pair)
      resolve(state, pair, impression, by)
    end
    emit(state, pair, impression, by, labels)
    outcomes = {served_of(state, pair[RESPONSE]) and 'expired' or 'unserved'}
    if kind == CLICK and pair[CONVERSION][ID] ~= '' then table.insert(outcomes, 'unmatched') end
  end
  return outcomes, labels
end

-- The user's last impression of the item that the action may belong to.
local function last_shown(state, action)
  local kind = action.role == 'click' and CLICK or CONVERSION
  local best
  for _, shown in ipairs(load_field(state, 'n' .. action.item) or {}) do
    local within = shown[1] <= action.ms and action.ms <= shown[1] + window_of(state.config, kind)
    if within and (not best or shown[1] > best[1] or (shown[1] == best[1] and shown[2] > best[2])) then best = shown end
  end
  return best and best[2]
end

-- Decide an action that names only its item. Returns the outcome, the labels.
local function place(state, action)
  local labels, by = {}, 'a' .. action.id
  local impression = action.placed or last_shown(state, action)
  local pair = impression and load_field(state, 'p' .. impression)
  if not pair then return 'unmatched', labels end
  local outcome = take(state, pair, impression, action, pair[SHOWN_MS])
  if outcome ~= 'taken' then return outcome, labels end
  if not action.placed then
    action.placed = impression
    store_field(state, 'a' .. action.id, action)
    resolve(state, pair, impression, by)
  end
  emit(state, pair, impression, by, labels)
  return outcome_of(labels), labels
end

local fire = {}

fire.a = function(state, id)
  local action = load_field(state, 'a' .. id)
  if not action then return {}, {}, 0, true end
  local outcome, labels = place(state, action)
  if #labels == 0 then drop_field(state, 'a' .. id) end
  return {outcome}, labels, 0, #labels == 0
end

fire.p = function(state, impression)
  local pair = load_field(state, 'p' .. impression)
  if not pair then return {}, {}, 0, true end
  if pair[1] == ALIAS then
    drop_field(state, 'p' .. impression)
    return {}, {}, 0, true
  end
  local stage = pair[STAGE]
  if stage == COLLECT then
    collect(state, pair, impression)
    return {}, {}, stage, true
  end
  local outcomes, labels = close_window(state, pair, impression)
  if #labels == 0 then advance(state, pair, impression) end
  return outcomes, labels, stage, false
end

-- The elapsed time of a pair's click or conversion has passed.
local function fire_elapsed(state, impression, kind)
  local pair = load_field(state, 'p' .. impression)
  if not (pair and has_elapsed(state.config, kind) and served_of(state, pair[RESPONSE])) then return {}, {}, 0, true end
  if pair[PROVISIONAL[kind]] ~= 1 then
    local slot = pair[kind]
    if slot[ID] ~= '' and slot[MS] <= elapsed_at(state, pair, kind) then return {}, {}, 0, true end
    pair[PROVISIONAL[kind]] = 1
    store_field(state, 'p' .. impression, pair)
  end
  return {'provisional'}, {provisional_label_of(state, pair, impression, kind)}, 0, false
end

fire.c = function(state, impression) return fire_elapsed(state, impression, CLICK) end
fire.e = function(state, impression) return fire_elapsed(state, impression, CONVERSION) end

fire.s = function(state, response)
  drop_field(state, 's' .. response)
  drop_field(state, 'o' .. response)
  return {}, {}, 0, true
end

fire.w = function(state, impression)
  local outcomes = {}
  for _ in ipairs(load_field(state, 'w' .. impression) or {}) do table.insert(outcomes, 'unmatched') end
  drop_field(state, 'w' .. impression)
  return outcomes, {}, 0, true
end

local function id_of(state, timer)
  return timer:sub(4 + #state.user)
end

-- FCALL 2 join, due; user, config, timers... → {reply, blobs...}; reply is a list of {stage, outcomes, labels}.
-- Where a timer stands on, or another comes after it, no served record goes yet: their labels need it, and after a long
-- silence all are due at once.
local function join_sweep(keys, args)
  local state = open_state(keys[1], keys[2], args[1], cmsgpack.unpack(args[2]))
  local reply, standing = {}, false
  for i = 3, #args do
    local timer = args[i]
    local letter = timer:sub(1, 1)
    local outcomes, labels, stage, done = {}, {}, 0, false
    if letter ~= 's' or not standing then outcomes, labels, stage, done = fire[letter](state, id_of(state, timer)) end
    if done then state.timers[timer] = false else standing = true end
    table.insert(reply, {stage, outcomes, labels})
  end
  close_state(state)
  return {cmsgpack.pack(reply), unpack(state.blobs)}
end

-- FCALL 2 join, due; user, config, (timer, stage)...: the labels of these timers are delivered.
local function join_settle(keys, args)
  local state = open_state(keys[1], keys[2], args[1], cmsgpack.unpack(args[2]))
  for i = 3, #args, 2 do
    local timer, id = args[i], id_of(state, args[i])
    local letter = timer:sub(1, 1)
    if letter == 'a' then
      drop_field(state, 'a' .. id)
      state.timers[timer] = false
    elseif letter == 'c' or letter == 'e' then
      state.timers[timer] = false
    else
      local pair = load_field(state, 'p' .. id)
      if pair and pair[STAGE] == tonumber(args[i + 1]) then advance(state, pair, id) end
    end
  end
  close_state(state)
  return redis.status_reply('OK')
end
