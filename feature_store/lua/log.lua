-- The user log: append, find a duplicate, read. The bytes are drawn in layout.py.
local HEADER = 24
local TAG = 8
local RECORD = 16
local LAYOUT = 1
local HEADER_FORMAT = '<BBHI4c8I8'

local function pack_header(log)
  return struct.pack(HEADER_FORMAT, LAYOUT, 0, log.tags, log.capacity, log.generation, log.count)
end

-- The header of the log at key, or nil where there is no log. generation stays 8 opaque bytes: Lua's numbers are doubles.
local function read_header(key)
  local head = redis.call('GETRANGE', key, 0, HEADER - 1)
  if head == '' then return nil end
  local version, _, tags, capacity, generation, count = struct.unpack(HEADER_FORMAT, head)
  if version ~= LAYOUT then
    error('log layout version ' .. version .. ' found, ' .. LAYOUT .. ' understood: upgrade this worker')
  end
  return {key = key, tags = tags, capacity = capacity, generation = generation, count = count}
end

-- Entries first .. first + n - 1 of a ring of `size` entries, `width` bytes each, that begins at byte `start`.
local function read_ring(key, start, size, width, first, n)
  if n <= 0 then return '' end
  local place = first % size
  local head = math.min(n, size - place)
  local bytes = redis.call('GETRANGE', key, start + place * width, start + (place + head) * width - 1)
  if head < n then
    bytes = bytes .. redis.call('GETRANGE', key, start, start + (n - head) * width - 1)
  end
  return bytes
end

-- The whole ring as bytes, zeros where it is not used; the inverse of read_ring for n <= size.
local function lay_ring(entries, size, width, first)
  local place = first % size
  local head = math.min(#entries, (size - place) * width)
  local tail = #entries - head
  return entries:sub(head + 1)
    .. string.rep('\0', place * width - tail)
    .. entries:sub(1, head)
    .. string.rep('\0', (size - place) * width - head)
end

local function next_capacity(steps, count)
  for _, step in ipairs(steps) do
    if step > count then return step end
  end
  return steps[#steps]
end

-- Write the log anew at the next size (also its first). A ring made larger after it had wrapped (the configured capacity
-- was raised) starts a new generation: its old positions would promise events that are gone.
local function grow(log, config, generation)
  local held = math.min(log.count, log.capacity)
  local records = read_ring(log.key, HEADER + log.tags * TAG, log.capacity, RECORD, log.count - held, held)
  local capacity = next_capacity(config.steps, held)
  local tags = math.min(capacity, config.tags)
  local marked = math.min(log.count, log.tags, tags)
  local marks = read_ring(log.key, HEADER, log.tags, TAG, log.count - marked, marked)
  if log.count > log.capacity then
    log.generation = generation
    log.count = held
  end
  log.capacity, log.tags = capacity, tags
  log.found = lay_ring(marks, tags, TAG, log.count - marked)
  log.found_at = log.count
  redis.call('SET', log.key,
    pack_header(log) .. log.found .. lay_ring(records, capacity, RECORD, log.count - held))
  log.changed = true
end

-- A log to append to; what is not there yet is created at the first append, as `generation`.
local function open_log(key, config, generation)
  local log = read_header(key)
    or {key = key, tags = 0, capacity = 0, generation = generation, count = 0}
  log.full = config.steps[#config.steps]
  log.appended = {}
  log.found = redis.call('GETRANGE', key, HEADER, HEADER + log.tags * TAG - 1)
  log.found_at = log.count
  if log.count > log.capacity and log.capacity < log.full then grow(log, config, generation) end
  return log
end

-- The count just after the event with this tag, or nil if it is not among the newest.
local function find_event(log, tag)
  local number = log.appended[tag]
  local from = 1
  while not number do
    local at = string.find(log.found, tag, from, true)
    if not at then return nil end
    if (at - 1) % TAG == 0 then
      local newest = log.found_at - 1
      number = newest - (newest - (at - 1) / TAG) % log.tags
    end
    from = at + 1
  end
  if number < log.count - log.tags then return nil end
  return number + 1
end

local function append_event(log, config, generation, tag, record)
  if log.count == log.capacity and log.capacity < log.full then grow(log, config, generation) end
  redis.call('SETRANGE', log.key, HEADER + (log.count % log.tags) * TAG, tag)
  redis.call('SETRANGE', log.key, HEADER + log.tags * TAG + (log.count % log.capacity) * RECORD, record)
  log.appended[tag] = log.count
  log.count = log.count + 1
  log.changed = true
  return log.count
end

local function close_log(log, config)
  if not log.changed then return end
  redis.call('SETRANGE', log.key, HEADER - 8, struct.pack('<I8', log.count))
  redis.call('EXPIRE', log.key, config.log_ttl_s)
end

-- FCALL_RO 1 log, length → {generation, count, records}: the newest `length`, oldest first.
local function log_read(keys, args)
  local log = read_header(keys[1])
  if not log then return {'', 0, ''} end
  local n = math.min(tonumber(args[1]), log.count, log.capacity)
  local records = read_ring(keys[1], HEADER + log.tags * TAG, log.capacity, RECORD, log.count - n, n)
  return {log.generation, log.count, records}
end

-- FCALL_RO 1 log, generation, count, length → {'', records} exactly as log_read gave them then, or {reason}.
local function log_read_as_of(keys, args)
  local log = read_header(keys[1])
  local count = tonumber(args[2])
  if not log then return {'expired'} end
  if log.generation ~= args[1] then return {'recreated'} end
  if count > log.count then return {'ahead'} end
  local n = math.min(tonumber(args[3]), count)
  if count - n < log.count - log.capacity then return {'overwritten'} end
  return {'', read_ring(keys[1], HEADER + log.tags * TAG, log.capacity, RECORD, count - n, n)}
end
