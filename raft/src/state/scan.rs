//! Keys by prefix, in order.

use std::ops::Bound;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::state::{Record, State};

impl State {
    /// The keys that begin with `prefix`, in byte order.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a SmolStr, &'a Arc<Record>)> {
        self.keys
            .range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Those of them that come after `after`.
    pub fn with_prefix_after<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> impl Iterator<Item = (&'a SmolStr, &'a Arc<Record>)> {
        let start = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let range = self.keys.range::<_, str>((start, Bound::Unbounded));
        range.take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The keys that begin with `prefix`, from the last to the first.
    pub fn with_prefix_reversed<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a SmolStr, &'a Arc<Record>)> {
        let end = successor(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.keys.range::<_, str>((Bound::Unbounded, end));
        range.rev().take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Those of them that come before `before`.
    pub fn with_prefix_before<'a>(
        &'a self,
        prefix: &'a str,
        before: &'a str,
    ) -> impl Iterator<Item = (&'a SmolStr, &'a Arc<Record>)> {
        // A bound behind the prefix skips nothing of it.
        let end = match successor(prefix) {
            Some(end) if *before > *end => end,
            _ => before.to_owned(),
        };
        let range = self.keys.range::<_, str>((Bound::Unbounded, Bound::Excluded(end.as_str())));
        range.rev().take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// The first text behind all that begin with `prefix`; `None` when nothing is.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Code points and their UTF-8 sort alike. Surrogates are no code points of a text.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::{put, state_after};

    const KEYS: [&str; 9] =
        ["a", "a/", "a/1", "a/2", "a0", "b", "\u{d7ff}x", "\u{e000}", "\u{10ffff}\u{10ffff}z"];

    fn names<'a>(found: impl Iterator<Item = (&'a SmolStr, &'a Arc<Record>)>) -> Vec<&'a str> {
        found.map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn prefixes_agree_with_looking_at_every_key() {
        let state = state_after(KEYS.map(|key| put(key, b"")));
        let prefixes =
            ["", "a", "a/", "a/1", "a/3", "b", "c", "\u{d7ff}", "\u{10ffff}", "\u{10ffff}\u{10ffff}"];
        let bounds =
            ["", "0", "a", "a/", "a/1", "a/9", "b", "c", "\u{d7ff}y", "\u{10ffff}\u{10ffff}\u{10ffff}"];
        for prefix in prefixes {
            let all: Vec<&str> = KEYS.into_iter().filter(|key| key.starts_with(prefix)).collect();
            let reversed: Vec<&str> = all.iter().rev().copied().collect();
            assert_eq!(names(state.with_prefix(prefix)), all, "{prefix:?}");
            assert_eq!(names(state.with_prefix_reversed(prefix)), reversed, "{prefix:?}");
            for bound in bounds {
                let after: Vec<&str> = all.iter().copied().filter(|key| *key > bound).collect();
                assert_eq!(
                    names(state.with_prefix_after(prefix, bound)),
                    after,
                    "{prefix:?} after {bound:?}"
                );
                let before: Vec<&str> = reversed.iter().copied().filter(|key| *key < bound).collect();
                let found = names(state.with_prefix_before(prefix, bound));
                assert_eq!(found, before, "{prefix:?} before {bound:?}");
            }
        }
    }
}
