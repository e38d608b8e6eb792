//! Frozen bytes: what an earlier build wrote to disk or sent to a peer, this one must write, send and
//! read in the same way. A line of the lists beside this file is a name and bytes in hexadecimal.

use std::collections::BTreeMap;

pub(crate) const PEER: &str = include_str!("peer.txt");
pub(crate) const AT_REST: &str = include_str!("at_rest.txt");
pub(crate) const LOG: &str = include_str!("log.txt");

/// The bytes of `name` in `list`.
pub(crate) fn frozen(list: &str, name: &str) -> Option<Vec<u8>> {
    let line = list.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
    let digits: Vec<u8> = line.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

/// Compares every line of `list` whose name begins with `part` with what is written now.
pub(crate) fn check(list: &str, part: &str, written: &[(String, Vec<u8>)]) {
    let now: BTreeMap<&str, String> = written
        .iter()
        .map(|(name, bytes)| {
            assert!(name.starts_with(part), "{name}");
            (name.as_str(), bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        })
        .collect();
    let frozen: BTreeMap<&str, String> = list
        .lines()
        .filter(|line| line.starts_with(part))
        .filter_map(|line| line.split_once(": "))
        .map(|(name, bytes)| (name, bytes.to_owned()))
        .collect();
    let mut wrong = Vec::new();
    for (name, bytes) in &now {
        match frozen.get(name) {
            Some(frozen) if frozen == bytes => {}
            Some(frozen) => wrong.push(format!("{name}\n  frozen  {frozen}\n  written {bytes}")),
            None => wrong.push(format!("{name} is new; add the line\n{name}: {bytes}")),
        }
    }
    wrong.extend(frozen.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{name} is gone")));
    assert!(
        wrong.is_empty(),
        "other builds read and write these bytes, they stay as they are: a layout that has to change gets a \
         new type (V2), a new format byte and, between peers, a new protocol version beside the old one\n{}",
        wrong.join("\n")
    );
}
