//! A small filter over the keys of an entry: a look-up skips most entries unread.

/// Ten bits and seven hashes a key: about one false hit in a hundred.
const BITS: usize = 10;
const HASHES: u64 = 7;

/// FNV-1a with a final mix: stable across builds and machines, since it is stored.
fn hash(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// What the places of a key in a filter are made of: the first, and the step from one to the next, before they are reduced
/// to the filter's length.
pub fn probe(key: &[u8]) -> (u64, u64) {
    let hash = hash(key);
    (hash & 0xFFFF_FFFF, hash >> 32 | 1)
}

fn places(key: &[u8], bits: u64) -> impl Iterator<Item = usize> {
    let (low, high) = probe(key);
    #[allow(clippy::cast_possible_truncation, reason = "smaller than the filter's length")]
    (0..HASHES).map(move |i| (low.wrapping_add(i.wrapping_mul(high)) % bits) as usize)
}

/// The filter of these keys.
pub fn build<K: AsRef<[u8]>>(keys: impl Iterator<Item = K>, count: usize) -> Vec<u8> {
    let mut filter = vec![0_u8; (count * BITS).div_ceil(8).max(1)];
    let bits = filter.len() as u64 * 8;
    for key in keys {
        for place in places(key.as_ref(), bits) {
            if let Some(byte) = filter.get_mut(place / 8) {
                *byte |= 1 << (place % 8);
            }
        }
    }
    filter
}

#[cfg(test)]
/// False: the key is certainly not there.
pub fn may_hold(filter: &[u8], key: &[u8]) -> bool {
    let bits = filter.len() as u64 * 8;
    bits == 0
        || places(key, bits).all(|place| {
            filter
                .get(place / 8)
                .is_some_and(|byte| byte & 1 << (place % 8) != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_few_others() {
        let keys: Vec<String> = (0..1000).map(|i| format!("key-{i}")).collect();
        let filter = build(keys.iter(), keys.len());
        assert!(keys.iter().all(|key| may_hold(&filter, key.as_bytes())));
        let false_hits = (1000..11000)
            .filter(|i| may_hold(&filter, format!("key-{i}").as_bytes()))
            .count();
        assert!(false_hits < 300, "{false_hits} of 10000");
    }
}
