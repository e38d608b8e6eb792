use super::*;
use crate::state::tests::{apply, put};

/// Changes the state as a batch does.
fn write(published: &Published, index: u64) {
    let mut state = published.lock().unwrap();
    apply(&mut state, index, put("k", b"v"));
    published.applied(&state);
}

/// Whether the next batch publishes a view.
fn is_published(published: &Published, index: u64) -> bool {
    write(published, index);
    published.newest().is_some()
}

#[test]
fn only_who_reads_has_views_published() {
    let published = Published::new(Arc::new(State::default()));
    assert!(!is_published(&published, 1));
    assert_eq!(published.view().revision(), 1);
    assert!(is_published(&published, 2));
    assert!(!is_published(&published, 3));
    // What the store asks again and again by itself.
    assert_eq!(published.applied_index(), 3);
    assert_eq!(published.due_ms(), u64::MAX);
    assert_eq!(published.clock_ms(), 1003);
    assert!(published.data_bytes() > 0);
    assert_eq!(published.look(State::revision), 3);
    assert!(!is_published(&published, 4));
    assert_eq!(published.view().revision(), 4);
}
