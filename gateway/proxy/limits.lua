-- The functions of limits.py, and the loop over a batch. One call, one atomic step.
--
-- KEYS     one for each (key, limit), unit after unit; the keys of one unit differ
-- ARGV[1]  now in ms; 0: the server's own clock, the same for every worker and node
-- ARGV[2]  how many limits each unit has, and what it costs where that is not 1: "1,1,3:20"
-- ARGV[3…] for each key: "<f|s|t|l|p>:<limit>:<window ms>:<capacity>"
-- returns  for each key: has room (1 or 0), remaining, reset ms, retry ms
--
-- States are msgpack arrays of integers; the meaning of the numbers is in limits.py.

local SLOTS = 60
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

local fixed, sliding, bucket, leaky, period = {}, {}, {}, {}, {}

function fixed.rolled(limit, state, now)
  local start = now - now % limit.window
  if state[1] and state[1] >= start then return state end
  return {start, 0}
end
function fixed.free(limit, state) return limit.limit - state[2] end
function fixed.take(limit, state, now, cost) state[2] = state[2] + cost end
function fixed.reset(limit, state, now) return state[1] + limit.window - now end
fixed.retry = fixed.reset

local function leaves(limit, last) return last + limit.window end

function sliding.rolled(limit, state, now)
  local first = 1
  while state[first] and leaves(limit, state[first]) <= now do first = first + 2 end
  if first == 1 then return state end
  local kept = {}
  for i = first, #state do kept[#kept + 1] = state[i] end
  return kept
end
function sliding.free(limit, state)
  local room = limit.limit
  for i = 2, #state, 2 do room = room - state[i] end
  return room
end
function sliding.take(limit, state, now, cost)
  local last = #state
  if last > 0 and floor(state[last - 1] / limit.slot) >= floor(now / limit.slot) then
    state[last - 1], state[last] = max(state[last - 1], now), state[last] + cost
  else
    state[last + 1], state[last + 2] = now, cost
  end
end
function sliding.reset(limit, state, now)
  if #state == 0 then return 0 end
  return leaves(limit, state[#state - 1]) - now
end
function sliding.retry(limit, state, now, cost)
  if #state == 0 then return limit.window end
  local room, i = sliding.free(limit, state) + state[2], 1
  while room < cost and i + 2 < #state do
    i = i + 2
    room = room + state[i + 1]
  end
  return leaves(limit, state[i]) - now
end

function bucket.rolled(limit, state, now)
  local full = limit.capacity * limit.window
  if not state[1] then return {now, full} end
  local last = max(state[1], now)
  return {last, min(full, state[2] + (last - state[1]) * limit.limit)}
end
function bucket.free(limit, state) return floor(state[2] / limit.window) end
function bucket.take(limit, state, now, cost) state[2] = state[2] - cost * limit.window end
function bucket.reset(limit, state)
  return ceil(max(0, limit.capacity * limit.window - state[2]) / limit.limit)
end
function bucket.retry(limit, state, now, cost) return ceil((cost * limit.window - state[2]) / limit.limit) end

function leaky.rolled(limit, state, now)
  if not state[1] then return {now, 0} end
  local last = max(state[1], now)
  return {last, max(0, state[2] - (last - state[1]) * limit.limit)}
end
function leaky.free(limit, state) return floor((limit.capacity * limit.window - state[2]) / limit.window) end
function leaky.take(limit, state, now, cost) state[2] = state[2] + cost * limit.window end
function leaky.reset(limit, state) return ceil(state[2] / limit.limit) end
function leaky.retry(limit, state, now, cost)
  return ceil((state[2] + (cost - limit.capacity) * limit.window) / limit.limit)
end

function period.rolled(limit, state) return state[1] and state or {0} end
function period.free(limit, state) return limit.limit - state[1] end
function period.take(limit, state, now, cost) state[1] = state[1] + cost end
function period.reset(limit) return limit.window end
period.retry = period.reset

local ALGORITHMS = {f = fixed, s = sliding, t = bucket, l = leaky, p = period}

local specs = {}
local function parsed(spec)
  local limit = specs[spec]
  if not limit then
    local kind, units, window, capacity = string.match(spec, '(%a):(%d+):(%d+):(%d+)')
    limit = {
      algorithm = ALGORITHMS[kind], limit = tonumber(units), window = tonumber(window), capacity = tonumber(capacity),
    }
    limit.slot = ceil(limit.window / SLOTS)
    specs[spec] = limit
  end
  return limit
end

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end

-- Each key is read and written once, however many units of the batch use it.
local states, dirty, order = {}, {}, {}
local function state_of(key)
  local state = states[key]
  if not state then
    local packed = redis.call('GET', key)
    state = packed and cmsgpack.unpack(packed) or {}
  end
  return state
end

local out, index = {}, 0
for size, price in string.gmatch(ARGV[2], '(%d+):?(%d*)') do
  local cost = tonumber(price) or 1
  local first, last = index + 1, index + tonumber(size)
  local free, allowed = {}, true
  for i = first, last do
    local limit = parsed(ARGV[i + 2])
    states[KEYS[i]] = limit.algorithm.rolled(limit, state_of(KEYS[i]), now)
    free[i] = limit.algorithm.free(limit, states[KEYS[i]])
    allowed = allowed and free[i] >= cost
  end
  for i = first, last do
    local key, limit, room = KEYS[i], parsed(ARGV[i + 2]), free[i]
    local state = states[key]
    if allowed then
      limit.algorithm.take(limit, state, now, cost)
      if not dirty[key] then order[#order + 1] = key end
      dirty[key] = limit
    end
    local retry = 0
    if room < cost then retry = limit.algorithm.retry(limit, state, now, cost) end
    local at = #out
    out[at + 1] = room >= cost and 1 or 0
    out[at + 2] = max(0, allowed and room - cost or room)
    out[at + 3] = limit.algorithm.reset(limit, state, now)
    out[at + 4] = retry
  end
  index = last
end

for _, key in ipairs(order) do
  local limit, state = dirty[key], states[key]
  -- A full limit and no state are the same. One second more: expiry goes by a later reading of the clock.
  local ttl = limit.algorithm.reset(limit, state, now) + 1000
  redis.call('SET', key, cmsgpack.pack(state), 'PX', string.format('%.0f', ttl))
end
return out
