//! Filling a map with keys that come in ascending order, as they lie at rest and in a snapshot.
//!
//! `imbl` cuts a full node in half when another key comes. In ascending order nothing ever comes to the first
//! half again, so that every node but the last stays half empty: with a million keys that is 38 MiB of nothing.
//! So every other key is held back until the node that it belongs to was cut, and then fills it to the brim.

use std::collections::VecDeque;

use imbl::OrdMap;

/// Keys held back: more than twice the 16 keys of a node of `imbl`, so that the node was cut by then.
const HELD: usize = 40;

/// What is held back of a map that is being filled. Keys in another order get there as well, but each may
/// come only once.
#[derive(Debug)]
pub(super) struct Ascending<K, V> {
    held: VecDeque<(K, V)>,
    hold_next: bool,
}

impl<K, V> Default for Ascending<K, V> {
    fn default() -> Self {
        Self { held: VecDeque::with_capacity(HELD + 1), hold_next: false }
    }
}

impl<K: Ord + Clone, V: Clone> Ascending<K, V> {
    /// `map` gets the pair now or later, at the latest in [`Ascending::finish`].
    pub(super) fn insert(&mut self, map: &mut OrdMap<K, V>, key: K, value: V) {
        self.hold_next = !self.hold_next;
        if self.hold_next {
            map.insert(key, value);
            return;
        }
        self.held.push_back((key, value));
        if self.held.len() > HELD
            && let Some((key, value)) = self.held.pop_front()
        {
            map.insert(key, value);
        }
    }

    /// `map` gets what is still held back.
    pub(super) fn finish(self, map: &mut OrdMap<K, V>) {
        map.extend(self.held);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is cloned, which `imbl` does once for every node that it cuts.
    #[derive(Debug)]
    struct Key(u32, Arc<AtomicUsize>);

    impl Clone for Key {
        fn clone(&self) -> Self {
            self.1.fetch_add(1, Ordering::Relaxed);
            Self(self.0, Arc::clone(&self.1))
        }
    }

    impl PartialEq for Key {
        fn eq(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }

    impl Eq for Key {}

    impl PartialOrd for Key {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Key {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.cmp(&other.0)
        }
    }

    #[test]
    fn nodes_get_full() {
        const KEYS: u32 = 100_000;
        const NODE_KEYS: usize = 16;
        let cut = Arc::new(AtomicUsize::new(0));
        let keys = || (0..KEYS).map(|key| Key(key, Arc::clone(&cut)));

        let mut plain = OrdMap::new();
        for key in keys() {
            plain.insert(key, ());
        }
        let nodes_plain = cut.swap(0, Ordering::Relaxed);
        assert!(nodes_plain > KEYS as usize / NODE_KEYS * 19 / 10, "half of each is empty: {nodes_plain}");

        let (mut map, mut ascending) = (OrdMap::new(), Ascending::default());
        for key in keys() {
            ascending.insert(&mut map, key, ());
        }
        ascending.finish(&mut map);
        let nodes = cut.swap(0, Ordering::Relaxed);
        assert!(nodes < KEYS as usize / NODE_KEYS * 11 / 10, "a tenth is empty at most: {nodes}");
        assert!(map.keys().eq(plain.keys()));
    }

    #[test]
    fn every_key_gets_there_in_whichever_order() {
        for keys in 0..200_u32 {
            let (mut map, mut ascending) = (OrdMap::new(), Ascending::default());
            // 7919 is a prime: each of the numbers once, all over the place.
            for key in (0..keys).map(|key| (key * 7919) % keys) {
                ascending.insert(&mut map, key, key);
            }
            ascending.finish(&mut map);
            assert!(map.into_iter().eq((0..keys).map(|key| (key, key))), "{keys} keys");
        }
    }
}
