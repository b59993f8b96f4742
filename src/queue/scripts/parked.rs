//! The scripts of the error store. In its hash each parked record has fields that end with its position: `r` the record,
//! `id`, `s` replaced, `m` its old key has a newer row, `c` written by a retry, `o` chosen by an operation. `op` names the
//! operations, and their counts.

use super::{EPOCH, META, WHEN_FULL, packs::PACKS, script};
use redis::Script;
use std::sync::LazyLock;

/// A record that an operation has chosen is another's now, or gone: to that operation it does not wait any more.
pub(super) const TAKE_FROM: &str = r"
local function take_from(operation, count)
  if operation and redis.call('HEXISTS', KEYS[4], 'op:' .. operation) == 1 then
    redis.call('HINCRBY', KEYS[4], 'op:' .. operation .. ':skipped', count or 1)
  end
end
";

// ARGV: epoch, map name, then position and blob of each record. Parking twice is parking once (rule 3).
script!(
    PARK,
    WHEN_FULL,
    EPOCH,
    META,
    r"
local ids = {}
for i = 3, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[4], 'id:' .. ARGV[i])
  if known then
    ids[#ids + 1] = known
  else
    local id = string.format('%s-e-%08x', ARGV[2], redis.call('HINCRBY', KEYS[2], 'errorSeq', 1))
    redis.call('HSET', KEYS[4], 'id:' .. ARGV[i], id)
    redis.call('HINCRBY', KEYS[2], 'parks', 1)
    if ARGV[i] > (redis.call('HGET', KEYS[2], 'lastPark') or '') then redis.call('HSET', KEYS[2], 'lastPark', ARGV[i]) end
    ids[#ids + 1] = id
  end
  redis.call('HSET', KEYS[4], 'r:' .. ARGV[i], ARGV[i + 1])
end
return ids
"
);

// ARGV: epoch, how many places were looked at, and of each the position, the pack's first position and number, and the place,
// or nothing if it is not there; then kind (s: superseded, m: moved), parked position and from when on it holds of each mark.
// Tells of each whether it is new: only then the destination may count it. Whatever was marked for a transaction that failed
// was dropped. A record that is not there may sleep again, if Redis went back to before it was woken: then none is marked (I3).
script!(
    MARK,
    WHEN_FULL,
    EPOCH,
    META,
    PACKS,
    r"
local looked_at, from = {}, 3 + 4 * tonumber(ARGV[2])
for i = 3, from - 1, 4 do looked_at[ARGV[i] .. ' ' .. ARGV[i + 1]] = {ARGV[i + 2], ARGV[i + 3]} end
local function sleeps_in(first, position)
  local base, place = unpack(looked_at[position .. ' ' .. first] or {})
  if not base or not is_it(first, base) then return true end
  return place ~= '' and string.sub(redis.call('HGET', KEYS[6], 'w:' .. first) or '', place, place) ~= '1'
end
local ranges
local function may_sleep(position)
  if not ranges then
    ranges = {}
    for first in packs() do ranges[#ranges + 1] = {first, last_of(first)} end
  end
  for _, range in ipairs(ranges) do
    if range[1] <= position and position <= range[2] and sleeps_in(range[1], position) then return true end
  end
end
for i = from, #ARGV, 3 do
  if redis.call('HEXISTS', KEYS[4], 'r:' .. ARGV[i + 1]) == 0 and may_sleep(ARGV[i + 1]) then
    return redis.error_reply('TMASLEEP what is replaced may sleep again')
  end
end
local counts = {s = 'superseded', m = 'moved'}
local new = {}
for i = from, #ARGV, 3 do
  local known = redis.call('HEXISTS', KEYS[4], 'r:' .. ARGV[i + 1]) == 1
  if known and redis.call('HSETNX', KEYS[4], ARGV[i] .. ':' .. ARGV[i + 1], ARGV[i + 2]) == 1 then
    redis.call('HINCRBY', KEYS[2], counts[ARGV[i]], 1)
    new[#new + 1] = 1
  else
    new[#new + 1] = 0
  end
end
return new
"
);

// ARGV: epoch, D, how many are settled there, and the mark of what was set aside, which is in no count. Errors and marks
// beyond what the destination has are provisional (rule 3). Of a pack that only ends beyond it, those records were woken that
// the destination has passed.
// A record that an operation has written after all not is chosen again, if the operation has not ended.
script!(
    DROP_PROVISIONAL,
    WHEN_FULL,
    EPOCH,
    META,
    TAKE_FROM,
    PACKS,
    r"
for first, left, operation in packs() do
  if last_of(first) > ARGV[2] then
    take_from(operation, left)
    if redis.call('HGET', KEYS[6], 's:' .. first) ~= ARGV[4] then redis.call('HINCRBY', KEYS[2], 'parks', -left) end
    leave_out(first)
  end
end
local counts = {s = 'superseded', m = 'moved', c = 'settled'}
local function holds(once)
  if string.sub(once, 1, 1) == '#' then return tonumber(string.sub(once, 2, 21)) <= tonumber(ARGV[3]) end
  return once <= ARGV[2]
end
local function unmark(kind, position)
  if redis.call('HDEL', KEYS[4], kind .. ':' .. position) == 1 then redis.call('HINCRBY', KEYS[2], counts[kind], -1) end
end
local dropped = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  local kind, position = string.match(field, '^(%a+):(.*)$')
  if kind == 'r' and position > ARGV[2] then
    take_from(redis.call('HGET', KEYS[4], 'o:' .. position))
    if redis.call('HGET', KEYS[4], 's:' .. position) == ARGV[4] then
      redis.call('HDEL', KEYS[4], 's:' .. position)
    else
      redis.call('HINCRBY', KEYS[2], 'parks', -1)
    end
    redis.call('HDEL', KEYS[4], field, 'id:' .. position, 'o:' .. position)
    for mark in pairs(counts) do unmark(mark, position) end
    dropped = dropped + 1
  end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  local kind, position = string.match(field, '^(%a+):(.*)$')
  if counts[kind] then
    local once = redis.call('HGET', KEYS[4], field)
    if not holds(once) then
      unmark(kind, position)
      local operation = kind == 'c' and string.match(once, '^%S+ (%S+)')
      if operation and redis.call('HEXISTS', KEYS[4], 'op:' .. operation) == 1 then
        redis.call('HSET', KEYS[4], 'o:' .. position, operation)
      end
    end
  end
end
return dropped
"
);

// ARGV: epoch, operation, whether all are chosen, whether others' are chosen too, then positions. A record that does not wait
// is not chosen. Once all are, the operation is known, with their number: what was chosen before counts once.
script!(
    CHOOSE,
    WHEN_FULL,
    EPOCH,
    META,
    TAKE_FROM,
    PACKS,
    r"
for i = 5, #ARGV do
  local function has(kind) return redis.call('HEXISTS', KEYS[4], kind .. ':' .. ARGV[i]) == 1 end
  if has('r') and not has('s') and not has('c') then
    local other = redis.call('HGET', KEYS[4], 'o:' .. ARGV[i])
    if not other or other == ARGV[2] or ARGV[4] == '1' then
      if other ~= ARGV[2] then take_from(other) end
      redis.call('HSET', KEYS[4], 'o:' .. ARGV[i], ARGV[2])
    end
  end
end
if ARGV[3] == '1' then
  local count = 0
  for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
    if string.sub(field, 1, 2) == 'o:' and redis.call('HGET', KEYS[4], field) == ARGV[2] then count = count + 1 end
  end
  for _, left, operation in packs() do
    if operation == ARGV[2] then count = count + left end
  end
  redis.call('HSETNX', KEYS[4], 'op:' .. ARGV[2], string.format('%d', count))
end
return 1
"
);

// ARGV: epoch, operation, then kind, position and value of each: c: written, and from when on that holds; f: refused, as it
// is kept; x: it did not wait any more. What was done is counted with the operation once.
script!(
    RETRIED,
    WHEN_FULL,
    EPOCH,
    META,
    r"
local counts = {f = 'failed', x = 'skipped'}
for i = 3, #ARGV, 3 do
  local kind, position, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = redis.call('HEXISTS', KEYS[4], 'r:' .. position) == 1
  if kind == 'c' and known and redis.call('HSETNX', KEYS[4], 'c:' .. position, value .. ' ' .. ARGV[2]) == 1 then
    redis.call('HINCRBY', KEYS[2], 'settled', 1)
  elseif kind == 'f' and known then
    redis.call('HSET', KEYS[4], 'r:' .. position, value)
  end
  if redis.call('HDEL', KEYS[4], 'o:' .. position) == 1 and counts[kind] then
    redis.call('HINCRBY', KEYS[4], 'op:' .. ARGV[2] .. ':' .. counts[kind], 1)
  end
end
return 1
"
);

// ARGV: epoch, operation, then positions. Tells how many records are given up by the map's account, and which by this
// call: one that was replaced or written counts as that.
script!(
    DISCARD,
    WHEN_FULL,
    EPOCH,
    META,
    r"
local removed = {}
for i = 3, #ARGV do
  local function has(kind) return redis.call('HEXISTS', KEYS[4], kind .. ':' .. ARGV[i]) == 1 end
  local waits = has('r') and not has('s') and not has('c')
  if waits then
    redis.call('HDEL', KEYS[4], 'r:' .. ARGV[i], 'id:' .. ARGV[i], 'm:' .. ARGV[i])
    redis.call('HINCRBY', KEYS[2], 'discarded', 1)
    removed[#removed + 1] = ARGV[i]
  end
  if redis.call('HDEL', KEYS[4], 'o:' .. ARGV[i]) == 1 then
    redis.call('HINCRBY', KEYS[4], 'op:' .. ARGV[2] .. ':' .. (waits and 'completed' or 'skipped'), 1)
  end
end
return {tonumber(redis.call('HGET', KEYS[2], 'discarded') or '0'), removed}
"
);

// ARGV: epoch, then kind and position of each: w: it waits; d: it does not any more. Tells how many the map has purged of
// those that waited, and which of them now.
script!(
    PURGE,
    WHEN_FULL,
    EPOCH,
    META,
    TAKE_FROM,
    r"
local removed = {}
for i = 2, #ARGV, 2 do
  local position = ARGV[i + 1]
  local function has(kind) return redis.call('HEXISTS', KEYS[4], kind .. ':' .. position) == 1 end
  local waits = not has('s') and not has('c')
  if has('r') and waits == (ARGV[i] == 'w') then
    take_from(redis.call('HGET', KEYS[4], 'o:' .. position))
    redis.call('HDEL', KEYS[4], 'r:' .. position, 'id:' .. position, 's:' .. position, 'm:' .. position,
      'c:' .. position, 'o:' .. position)
    if waits then
      redis.call('HINCRBY', KEYS[2], 'purged', 1)
      removed[#removed + 1] = position
    end
  end
end
return {tonumber(redis.call('HGET', KEYS[2], 'purged') or '0'), removed}
"
);

// ARGV: epoch, then the operations that have not ended. All others are forgotten.
script!(
    KEEP,
    WHEN_FULL,
    EPOCH,
    META,
    PACKS,
    r"
local open = {}
for i = 2, #ARGV do open[ARGV[i]] = true end
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  local kind, rest = string.match(field, '^(%a+):(.*)$')
  local operation = (kind == 'op' and string.match(rest, '^[^:]+')) or (kind == 'o' and redis.call('HGET', KEYS[4], field))
  if operation and not open[operation] then redis.call('HDEL', KEYS[4], field) end
end
for first, _, operation in packs() do
  if operation and not open[operation] then redis.call('HDEL', KEYS[6], 'o:' .. first) end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local operation = string.match(field, '^skip:(.*)$')
  if operation and not open[operation] then redis.call('HDEL', KEYS[2], field) end
end
return 1
"
);

// ARGV: epoch, operation. It has ended: nothing is chosen by it any more.
script!(
    LEAVE,
    WHEN_FULL,
    EPOCH,
    META,
    PACKS,
    r"
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  local kind = string.match(field, '^(%a+):')
  if kind == 'o' and redis.call('HGET', KEYS[4], field) == ARGV[2] then redis.call('HDEL', KEYS[4], field) end
end
for first, _, operation in packs() do
  if operation == ARGV[2] then redis.call('HDEL', KEYS[6], 'o:' .. first) end
end
return redis.call('HDEL', KEYS[4], 'op:' .. ARGV[2], 'op:' .. ARGV[2] .. ':failed', 'op:' .. ARGV[2] .. ':skipped',
  'op:' .. ARGV[2] .. ':completed')
"
);
