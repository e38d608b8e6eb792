use std::collections::BTreeMap;

use super::*;
use crate::types::{Member, Membership};

fn voters(configs: &[&[u64]]) -> StoredMembership {
    let configs: Vec<BTreeSet<u64>> = configs.iter().map(|ids| ids.iter().copied().collect()).collect();
    let members: BTreeMap<u64, Member> = (1..=6).map(|id| (id, Member::default())).collect();
    StoredMembership::new(None, Membership::new(configs, members).unwrap())
}

#[test]
fn a_majority_of_the_voters_and_of_the_new_ones_as_well() {
    type Case = (&'static [&'static [u64]], &'static [u64], bool);
    let cases: [Case; 11] = [
        (&[&[1]], &[1], true),
        (&[&[1, 2]], &[1], false),
        (&[&[1, 2]], &[1, 2], true),
        (&[&[1, 2, 3]], &[1], false),
        (&[&[1, 2, 3]], &[1, 3], true),
        // A learner's vote does not count.
        (&[&[1, 2, 3]], &[1, 4], false),
        (&[&[1, 2, 3, 4]], &[1, 2], false),
        (&[&[1, 2, 3, 4, 5]], &[1, 2, 5], true),
        (&[&[1, 2, 3], &[1, 4, 5]], &[1, 2], false),
        (&[&[1, 2, 3], &[1, 4, 5]], &[1, 4], false),
        (&[&[1, 2, 3], &[1, 4, 5]], &[1, 2, 4], true),
    ];
    for (configs, votes, expected) in cases {
        let votes = votes.iter().copied().collect();
        assert_eq!(is_quorum(&voters(configs), &votes), expected, "{votes:?} of {configs:?}");
    }
    // Before the cluster is formed.
    assert!(!is_quorum(&StoredMembership::default(), &BTreeSet::from([1])));
}

#[test]
fn what_was_told_only_grows() {
    let told = Told::default();
    for (committed, index) in [(0, 0), (7, 7), (3, 7), (8, 8)] {
        told.note(committed);
        assert_eq!(told.index(), index);
    }
}
