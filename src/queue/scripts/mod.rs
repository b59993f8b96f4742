//! The scripts. All checks stand before the first write (rule 8). KEYS are epoch, meta, stream, errors, filters,
//! packs; ARGV[1] is the caller's epoch.

mod packs;
mod parked;

pub use packs::{BLANK, CHOOSE_PACKS, DISCARD_PACKS, PACK, PURGE_PACKS, WAKE};
pub use parked::{CHOOSE, DISCARD, DROP_PROVISIONAL, KEEP, LEAVE, MARK, PARK, PURGE, RETRIED};

use super::account::FIELDS;
use packs::PACKS;
use redis::Script;
use std::sync::LazyLock;

/// Refuses unless the caller's epoch is the map's (rule 4).
const EPOCH: &str = r"
local epoch = redis.call('GET', KEYS[1])
if not epoch then return redis.error_reply('TMEPOCHMISSING the epoch is missing') end
if epoch ~= ARGV[1] then return redis.error_reply('TMEPOCH ' .. epoch .. ' is the epoch') end
";

const META: &str = r"
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.error_reply('TMMETA the position is missing') end
";

/// Counts a change and answers with the whole account.
static ACCOUNT: LazyLock<String> = LazyLock::new(|| {
    let fields = FIELDS.join("', '");
    format!("\nredis.call('HINCRBY', KEYS[2], 'v', 1)\nreturn redis.call('HMGET', KEYS[2], '{fields}')\n")
});

/// Refuses a caller who knows what was counted before the queue began, if Redis has forgotten that by a failover (I5):
/// what he tells would be taken for another count.
const BASED: &str = r"
if ARGV[3] == '1' and redis.call('HEXISTS', KEYS[2], 'unbased') == 1 then
  return redis.error_reply('TMPREVIOUS what was counted before the queue is not known')
end
";

/// Lets a script run in a Redis that is full: it frees memory, takes next to none, or keeps what lies in the way of freeing
/// more.
const WHEN_FULL: &str = "#!lua flags=allow-oom\n";
const NORMAL: &str = "#!lua\n";

macro_rules! script {
    ($name:ident, $head:expr, $($part:expr),+) => {
        pub static $name: LazyLock<Script> = LazyLock::new(|| Script::new(&[$head, $($part),+].concat()));
    };
}
use script;

// ARGV: epoch, era, position, table, source, destination, what it serves. The first position of a map. A join that did
// not finish is begun anew; so is one whose end was not seen, as long as nothing came after it: nothing else has
// counted up the version.
script!(
    JOIN,
    NORMAL,
    r"
local known = redis.call('HGET', KEYS[2], 'v')
if known and known ~= '1' then return redis.error_reply('TMJOINED the map has joined') end
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[2])
redis.call('SET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], 'joined', '0', 'v', '1', 'appended', '0', 'appendedBytes', '0', 'era', ARGV[2], 'table', ARGV[4], 'source', ARGV[5], 'destination', ARGV[6],
  'serves', ARGV[7], 'q', ARGV[3], 'last', ARGV[3], 't', ARGV[3], 'seq', '0',
  'records', '0', 'bytes', '0', 'received', '0', 'filtered', '0', 'parks', '0', 'superseded', '0', 'errorSeq', '0')
return 1
"
);

script!(
    FINISH_JOIN,
    NORMAL,
    EPOCH,
    META,
    r"
redis.call('HSET', KEYS[2], 'joined', '1')
return 1
"
);

// ARGV: epoch, the one that was seen. Compare and set: the epoch only rises, and is never made here.
script!(
    TAKE_EPOCH,
    WHEN_FULL,
    r"
local epoch = redis.call('GET', KEYS[1])
if not epoch then return redis.error_reply('TMEPOCHMISSING the epoch is missing') end
local another = tonumber(epoch) > tonumber(ARGV[1])
if ARGV[2] ~= '' then another = epoch ~= ARGV[2] end
if another then return redis.error_reply('TMEPOCH ' .. epoch .. ' is the epoch') end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"
);

// ARGV: epoch, previous, t, q, received, filtered, whether what was counted before the queue begins is not among these; no
// counters: it goes on counting. Only an empty queue begins.
script!(
    BEGIN,
    WHEN_FULL,
    EPOCH,
    META,
    r"
if redis.call('XLEN', KEYS[3]) > 0 then return redis.error_reply('TMPREVIOUS the queue is not empty') end
local q = redis.call('HGET', KEYS[2], 'q')
if q ~= ARGV[2] then return redis.error_reply('TMPREVIOUS the queue ends at ' .. q) end
redis.call('HSET', KEYS[2], 't', ARGV[3], 'q', ARGV[4], 'last', ARGV[4], 'records', '0', 'bytes', '0')
redis.call('HDEL', KEYS[2], 'oldest')
redis.call('DEL', KEYS[5])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[2], 'received', ARGV[5], 'filtered', ARGV[6])
  redis.call('HDEL', KEYS[2], 'unbased', 'baseReceived', 'baseFiltered', 'trimmedReceived', 'trimmedFiltered')
  if ARGV[7] == '1' then redis.call('HSET', KEYS[2], 'unbased', '1') end
end
",
    &ACCOUNT[..]
);

// ARGV: epoch, previous, whether what was counted before the queue is known, then of each entry: last, records,
// received, filtered, oldest commit, payload, filter. XADD comes first: a Redis that is full refuses before anything is
// written. An entry keeps how many records and bytes were appended before it, so that a trim can count what is left.
script!(
    APPEND,
    NORMAL,
    EPOCH,
    META,
    BASED,
    r"
local q = redis.call('HGET', KEYS[2], 'q')
if q ~= ARGV[2] then return redis.error_reply('TMPREVIOUS the queue ends at ' .. q) end
for i = 4, #ARGV, 7 do
  local known = redis.call('HMGET', KEYS[2], 'seq', 'appended', 'appendedBytes')
  local seq = known[1] + 1
  local id = string.format('%d-0', seq)
  local bytes = #ARGV[i + 5] + #ARGV[i + 6]
  redis.call('XADD', KEYS[3], id, 'b', ARGV[i + 5], 'n', known[2], 'y', known[3])
  redis.call('XADD', KEYS[5], id, 'f', ARGV[i + 6])
  redis.call('HSET', KEYS[2], 'q', ARGV[i], 'last', ARGV[i], 'seq', string.format('%d', seq), 'received', ARGV[i + 2],
    'filtered', ARGV[i + 3])
  redis.call('HSETNX', KEYS[2], 'oldest', ARGV[i + 4])
  redis.call('HINCRBY', KEYS[2], 'appended', ARGV[i + 1])
  redis.call('HINCRBY', KEYS[2], 'appendedBytes', bytes)
  redis.call('HINCRBY', KEYS[2], 'records', ARGV[i + 1])
  redis.call('HINCRBY', KEYS[2], 'bytes', bytes)
end
",
    &ACCOUNT[..]
);

// ARGV: epoch, previous, whether what was counted before the queue is known, q, received, filtered.
script!(
    ADVANCE,
    WHEN_FULL,
    EPOCH,
    META,
    BASED,
    r"
local q = redis.call('HGET', KEYS[2], 'q')
if q ~= ARGV[2] then return redis.error_reply('TMPREVIOUS the queue ends at ' .. q) end
redis.call('HSET', KEYS[2], 'q', ARGV[4], 'received', ARGV[5], 'filtered', ARGV[6])
",
    &ACCOUNT[..]
);

// ARGV: epoch, t, received, filtered: what was counted before the queue began, which begins beyond t. What is known
// already stays: a call that comes late, after its reply was given up, changes nothing.
script!(
    BASE,
    WHEN_FULL,
    EPOCH,
    META,
    r"
if redis.call('HEXISTS', KEYS[2], 'unbased') == 1 then
  local t = redis.call('HGET', KEYS[2], 't')
  if t ~= ARGV[2] then return redis.error_reply('TMPREVIOUS the queue begins beyond ' .. t) end
  redis.call('HDEL', KEYS[2], 'unbased')
  redis.call('HSET', KEYS[2], 'baseReceived', ARGV[3], 'baseFiltered', ARGV[4])
end
",
    &ACCOUNT[..]
);

// ARGV: epoch, seq, t, next oldest, how the payload of that entry goes on after magic and version, received, filtered:
// what that entry has counted, as it carries them; a caller who knows what was counted before the queue need not tell.
// Trimming twice, or in another order, comes to the same. A Redis that went back may hold other records under the same
// number: those stay (rule 7).
script!(
    TRIM,
    WHEN_FULL,
    EPOCH,
    META,
    r"
local entry = redis.call('XREVRANGE', KEYS[3], string.format('%d-0', ARGV[2]), '-', 'COUNT', 1)[1]
if entry and string.sub(entry[2][2], 3, #ARGV[5] + 2) ~= ARGV[5] then
  return redis.error_reply('TMPREVIOUS another entry has this number')
end
entry = nil
if ARGV[6] == '' and redis.call('HEXISTS', KEYS[2], 'unbased') == 1 then
  return redis.error_reply('TMPREVIOUS what was counted before the queue is not known')
end
local rest = string.format('%d-0', ARGV[2] + 1)
redis.call('XTRIM', KEYS[3], 'MINID', rest)
redis.call('XTRIM', KEYS[5], 'MINID', rest)
if ARGV[3] > redis.call('HGET', KEYS[2], 't') then
  redis.call('HSET', KEYS[2], 't', ARGV[3])
  if ARGV[6] ~= '' then redis.call('HSET', KEYS[2], 'trimmedReceived', ARGV[6], 'trimmedFiltered', ARGV[7]) end
end
local first = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
if not first then
  redis.call('HDEL', KEYS[2], 'oldest')
  redis.call('HSET', KEYS[2], 'records', '0', 'bytes', '0')
else
  local known = redis.call('HMGET', KEYS[2], 'appended', 'appendedBytes')
  redis.call('HSET', KEYS[2], 'records', string.format('%d', known[1] - first[2][4]),
    'bytes', string.format('%d', known[2] - first[2][6]))
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'oldest', ARGV[4]) end
end
",
    &ACCOUNT[..]
);

// ARGV: epoch, token; no token forgets.
script!(
    FENCED,
    WHEN_FULL,
    EPOCH,
    META,
    r"
if ARGV[2] == '' then return redis.call('HDEL', KEYS[2], 'fenced') end
return redis.call('HSET', KEYS[2], 'fenced', ARGV[2])
"
);

// ARGV: epoch, how the map's rules stand.
script!(
    RULES,
    WHEN_FULL,
    EPOCH,
    META,
    r"
return redis.call('HSET', KEYS[2], 'rules', ARGV[2])
"
);

// ARGV: epoch. The map's table has left the publication: forgotten once the gap is accepted.
script!(
    UNPUBLISHED,
    WHEN_FULL,
    EPOCH,
    META,
    r"
return redis.call('HSET', KEYS[2], 'unpublished', '1')
"
);

// ARGV: epoch, operation, what it skips.
script!(
    SKIP,
    WHEN_FULL,
    EPOCH,
    META,
    r"
return redis.call('HSET', KEYS[2], 'skip:' .. ARGV[2], ARGV[3])
"
);

// ARGV: epoch, database. The destination is another one now: restored elsewhere.
script!(
    RENAME_DESTINATION,
    WHEN_FULL,
    EPOCH,
    META,
    r"
return redis.call('HSET', KEYS[2], 'destination', ARGV[2])
"
);

// ARGV: epoch, operation, era, from, table, source, destination, whether counters are given, received, filtered, parks,
// superseded, ids given, the mark of what is set aside if that is to be, what it serves, moved, settled. A queue that is gone
// begins empty; of one that is there all stays.
script!(
    ACCEPT,
    WHEN_FULL,
    PACKS,
    r"
local epoch = redis.call('GET', KEYS[1])
if epoch and epoch ~= ARGV[1] then return redis.error_reply('TMEPOCH ' .. epoch .. ' is the epoch') end
redis.call('SET', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[3], KEYS[4], KEYS[5], KEYS[6])
  redis.call('HSET', KEYS[2], 'v', '0', 'appended', '0', 'appendedBytes', '0', 'q', ARGV[4], 'last', ARGV[4],
    't', ARGV[4], 'seq', '0', 'records', '0', 'bytes', '0', 'received', '0', 'filtered', '0', 'errorSeq', ARGV[13])
end
if ARGV[14] ~= '' then
  for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
    if string.sub(field, 1, 2) == 'r:' then redis.call('HSET', KEYS[4], 's:' .. string.sub(field, 3), ARGV[14]) end
  end
  for first in packs() do redis.call('HSETNX', KEYS[6], 's:' .. first, ARGV[14]) end
end
if ARGV[4] > redis.call('HGET', KEYS[2], 'q') then redis.call('HSET', KEYS[2], 'q', ARGV[4]) end
if redis.call('XLEN', KEYS[3]) == 0 then
  local q = redis.call('HGET', KEYS[2], 'q')
  redis.call('HSET', KEYS[2], 't', q, 'last', q, 'records', '0', 'bytes', '0')
  redis.call('HDEL', KEYS[2], 'oldest')
end
if ARGV[8] == '1' then
  redis.call('HSET', KEYS[2], 'received', ARGV[9], 'filtered', ARGV[10])
  redis.call('HDEL', KEYS[2], 'unbased', 'baseReceived', 'baseFiltered', 'trimmedReceived', 'trimmedFiltered')
end
local newest = ''
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  if string.sub(field, 1, 2) == 'r:' and string.sub(field, 3) > newest then newest = string.sub(field, 3) end
end
for first in packs() do
  if last_of(first) > newest then newest = last_of(first) end
end
redis.call('HDEL', KEYS[2], 'lastPark')
if newest ~= '' then redis.call('HSET', KEYS[2], 'lastPark', newest) end
redis.call('HSET', KEYS[2], 'joined', '1', 'era', ARGV[3], 'table', ARGV[5], 'source', ARGV[6], 'destination', ARGV[7],
  'serves', ARGV[15], 'parks', ARGV[11], 'superseded', ARGV[12], 'moved', ARGV[16], 'settled', ARGV[17], 'accepting', ARGV[2])
",
    &ACCOUNT[..]
);

// ARGV: epoch. The operation that was begun is done.
script!(
    ACCEPTED,
    WHEN_FULL,
    EPOCH,
    META,
    r"
local operation = redis.call('HGET', KEYS[2], 'accepting')
if not operation then return 1 end
redis.call('HSET', KEYS[2], 'accepted', operation)
redis.call('HDEL', KEYS[2], 'accepting', 'unpublished')
return 1
"
);

// KEYS: filters. ARGV: the first entry, after how many bytes to end, and what the places of a key in a filter are made of
// (`batch::bloom`). Answers with the last entry that was looked at and the first that may hold the key. To look at a
// filter at all counts as 200 bytes.
script!(
    SEEK,
    "#!lua flags=no-writes,allow-oom\n",
    r"
local byte, floor = string.byte, math.floor
local low, high = tonumber(ARGV[3]), tonumber(ARGV[4])
local function holds(filter)
  local bits = #filter * 8
  for i = 0, bits > 0 and 6 or -1 do
    local place = (low + i * high) % bits
    if floor(byte(filter, floor(place / 8) + 1) / 2 ^ (place % 8)) % 2 == 0 then return false end
  end
  return true
end
local from, last, room = ARGV[1], false, tonumber(ARGV[2])
repeat
  local found = redis.call('XRANGE', KEYS[1], from .. '-0', '+', 'COUNT', 100)
  for _, entry in ipairs(found) do
    last = tonumber(string.match(entry[1], '^%d+'))
    if holds(entry[2][2]) then return {last, last} end
    room = room - #entry[2][2] - 200
  end
  if #found > 0 then from = string.format('%d', last + 1) end
until room <= 0 or #found == 0
return {last, false}
"
);

script!(
    DROP_ALL,
    WHEN_FULL,
    EPOCH,
    r"
return redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
"
);
