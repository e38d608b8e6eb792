//! A hash of the whole state, kept up to date at the cost of what changes.
//!
//! Every key and every age has a 64-bit hash; the state's hash is their sum, so it does not depend on
//! the order in which they came and a change subtracts the old and adds the new. Two replicas at the
//! same log index have the same hash or are not replicas. XXH3 (Y. Collet, xxHash 0.8) mixes the bytes,
//! SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA
//! 2014) the positions. It finds accidents, not forgeries.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::state::{AgeList, Record, Remembered};

/// The part of one key; [`Record::hash`] has no part in it.
pub(super) fn of_record(key: &str, record: &Record) -> u64 {
    let mut hash = xxh3_64_with_seed(key.as_bytes(), record.revision);
    hash = xxh3_64_with_seed(record.content_type.as_bytes(), hash ^ record.created_revision.rotate_left(32));
    if let Some(expires_at_ms) = record.expires_at_ms {
        hash = splitmix64(hash ^ expires_at_ms.get());
    }
    xxh3_64_with_seed(&record.value, hash)
}

/// The part of one remembered answer. What was answered follows from the rest.
pub(super) fn of_answer(key: &str, answer: &Remembered) -> u64 {
    let hash = xxh3_64_with_seed(key.as_bytes(), !answer.revision);
    let fingerprint = answer.fingerprint;
    let fingerprint = u64::try_from(fingerprint >> 64).unwrap_or_default()
        ^ u64::try_from(fingerprint & u128::from(u64::MAX)).unwrap_or_default();
    splitmix64(hash ^ splitmix64(answer.expires_at_ms ^ splitmix64(fingerprint)))
}

/// What all ages of one list share.
pub(super) fn of_name(name: &str, created_revision: u64) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), !created_revision)
}

/// The part of the age at `position` in a list; `name` is from [`of_name`].
pub(super) fn of_age(name: u64, position: usize, age: u8) -> u64 {
    splitmix64(name ^ ((position as u64) << 8 | u64::from(age)))
}

/// The part of a whole list.
pub(super) fn of_list(name: &str, list: &AgeList) -> u64 {
    let name = of_name(name, list.created_revision());
    list.iter().enumerate().fold(0, |sum, (position, age)| sum.wrapping_add(of_age(name, position, age)))
}

fn splitmix64(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
