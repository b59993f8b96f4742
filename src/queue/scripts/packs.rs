//! The scripts of packs: parked records that lie together. In the hash each pack has fields that end with its first position:
//! `p` the records, `m` its last position, their number, when they were parked, the number of the first, and the map's name;
//! `l` how many sleep, `w` which were woken, `o` the operation that has chosen all that sleep, `s` replaced, all of them.

use super::{EPOCH, META, WHEN_FULL, parked::TAKE_FROM, script};
use redis::Script;
use std::sync::LazyLock;

/// Each pack's first position, how many sleep in it, and the operation that has chosen them; the last position of one, and
/// whether one is the pack of that number.
pub(super) const PACKS: &str = r"
local function leave_out(first)
  redis.call('HDEL', KEYS[6], 'p:' .. first, 'm:' .. first, 'l:' .. first, 'w:' .. first, 'o:' .. first, 's:' .. first)
end
local function last_of(first) return string.match(redis.call('HGET', KEYS[6], 'm:' .. first), '^%S+') end
local function is_it(first, base)
  local meta = redis.call('HGET', KEYS[6], 'm:' .. first)
  return meta and base == string.match(meta, '^%S+ %S+ %S+ (%S+)')
end
local function packs()
  local fields, at = redis.call('HKEYS', KEYS[6]), 0
  return function()
    repeat at = at + 1 until at > #fields or string.sub(fields[at], 1, 2) == 'l:'
    if at > #fields then return nil end
    local first = string.sub(fields[at], 3)
    return first, tonumber(redis.call('HGET', KEYS[6], fields[at])), redis.call('HGET', KEYS[6], 'o:' .. first)
  end
end
";

// ARGV: epoch, map name, when, then first and last position, number and records of each. What was packed for a transaction
// that failed was dropped before it is packed again (rule 3).
script!(
    PACK,
    WHEN_FULL,
    EPOCH,
    META,
    r"
for i = 4, #ARGV, 4 do
  if redis.call('HEXISTS', KEYS[6], 'm:' .. ARGV[i]) == 1 then
    return redis.error_reply('TMPACK these records are parked already')
  end
end
local bases = {}
for i = 4, #ARGV, 4 do
  local first, last, count = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local base = string.format('%.0f', redis.call('HINCRBY', KEYS[2], 'errorSeq', count) - count + 1)
  redis.call('HSET', KEYS[6], 'p:' .. first, ARGV[i + 3], 'l:' .. first, count,
    'm:' .. first, table.concat({last, count, ARGV[3], base, ARGV[2]}, ' '))
  redis.call('HINCRBY', KEYS[2], 'parks', count)
  if last > (redis.call('HGET', KEYS[2], 'lastPark') or '') then redis.call('HSET', KEYS[2], 'lastPark', last) end
  bases[#bases + 1] = base
end
return bases
"
);

// ARGV: epoch, first position and number of a pack, then place, position and blob of each record that wakes: from now on it
// is one of those that lie alone. Waking twice is waking once.
script!(
    WAKE,
    WHEN_FULL,
    EPOCH,
    META,
    PACKS,
    r"
local first = ARGV[2]
local meta = redis.call('HGET', KEYS[6], 'm:' .. first)
if not meta then return 0 end
local count, base, name = string.match(meta, '^%S+ (%S+) %S+ (%S+) (%S+)$')
if base ~= ARGV[3] then return 0 end
local operation, replaced = unpack(redis.call('HMGET', KEYS[6], 'o:' .. first, 's:' .. first))
local places = {}
for place in string.gmatch(redis.call('HGET', KEYS[6], 'w:' .. first) or string.rep('0', tonumber(count)), '.') do
  places[#places + 1] = place
end
local woken = 0
for i = 4, #ARGV, 3 do
  local place, position = tonumber(ARGV[i]) + 1, ARGV[i + 1]
  if places[place] == '0' then
    places[place] = '1'
    redis.call('HSET', KEYS[4], 'r:' .. position, ARGV[i + 2],
      'id:' .. position, string.format('%s-e-%08x', name, base + place - 1))
    if operation then redis.call('HSET', KEYS[4], 'o:' .. position, operation) end
    if replaced then redis.call('HSET', KEYS[4], 's:' .. position, replaced) end
    woken = woken + 1
  end
end
if woken == 0 then return 0 end
if redis.call('HINCRBY', KEYS[6], 'l:' .. first, -woken) <= 0 then
  leave_out(first)
else
  redis.call('HSET', KEYS[6], 'w:' .. first, table.concat(places))
end
return woken
"
);

// ARGV: epoch, first position and number of a pack, what of it was woken, and its records without some of those. Tells
// whether that was so still.
script!(
    BLANK,
    WHEN_FULL,
    EPOCH,
    META,
    PACKS,
    r"
if not is_it(ARGV[2], ARGV[3]) then return 1 end
if (redis.call('HGET', KEYS[6], 'w:' .. ARGV[2]) or '') ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[6], 'p:' .. ARGV[2], ARGV[5])
return 1
"
);

// ARGV: epoch, operation, then first position and number of each. All that sleeps there is chosen, also if another has
// chosen it.
script!(
    CHOOSE_PACKS,
    WHEN_FULL,
    EPOCH,
    META,
    TAKE_FROM,
    PACKS,
    r"
for i = 3, #ARGV, 2 do
  if is_it(ARGV[i], ARGV[i + 1]) then
    local left, other = unpack(redis.call('HMGET', KEYS[6], 'l:' .. ARGV[i], 'o:' .. ARGV[i]))
    if other ~= ARGV[2] then take_from(other, tonumber(left)) end
    redis.call('HSET', KEYS[6], 'o:' .. ARGV[i], ARGV[2])
  end
end
return 1
"
);

// ARGV: epoch, operation. Gives up what it has chosen of packs. Tells how many records are given up by the map's account.
// What was replaced since it was chosen counts as that.
script!(
    DISCARD_PACKS,
    WHEN_FULL,
    EPOCH,
    META,
    PACKS,
    r"
for first, left, operation in packs() do
  if operation == ARGV[2] and redis.call('HEXISTS', KEYS[6], 's:' .. first) == 1 then
    redis.call('HINCRBY', KEYS[4], 'op:' .. operation .. ':skipped', left)
    redis.call('HDEL', KEYS[6], 'o:' .. first)
  elseif operation == ARGV[2] then
    redis.call('HINCRBY', KEYS[2], 'discarded', left)
    redis.call('HINCRBY', KEYS[4], 'op:' .. operation .. ':completed', left)
    leave_out(first)
  end
end
return tonumber(redis.call('HGET', KEYS[2], 'discarded') or '0')
"
);

// ARGV: epoch, then first position and number of each. Tells how many records the map has purged that waited, and how many
// now.
script!(
    PURGE_PACKS,
    WHEN_FULL,
    EPOCH,
    META,
    TAKE_FROM,
    PACKS,
    r"
local count = 0
for i = 2, #ARGV, 2 do
  local first = ARGV[i]
  if is_it(first, ARGV[i + 1]) then
    local left, operation, replaced = unpack(redis.call('HMGET', KEYS[6], 'l:' .. first, 'o:' .. first, 's:' .. first))
    take_from(operation, tonumber(left))
    if not replaced then
      redis.call('HINCRBY', KEYS[2], 'purged', left)
      count = count + left
    end
    leave_out(first)
  end
end
return {tonumber(redis.call('HGET', KEYS[2], 'purged') or '0'), count}
"
);
