//! The allocator of `hearthd`: jemalloc, set up for few processors and little memory.
//!
//! Against glibc's, putting takes a sixth (64 connections) to a quarter (256) less processor time on the
//! servers: what one thread of a node allocates another one frees, all the time, and glibc has a lock for
//! that on each arena, while more than one arena keeps half as much again as the data of a million keys.
//! jemalloc also takes what is large and zeroed (sled's tables, most of which stay empty) from the kernel
//! without touching it.

use std::ffi::CStr;
use std::ptr::{from_mut, null_mut};

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// jemalloc's settings; `_RJEM_MALLOC_CONF` in the environment overrules them.
///
/// - `narenas:2`: places that memory is taken from. By default four for each processor.
/// - `tcache_max`, `tcache_nslots_small_max`: bytes of the largest blocks of which every thread keeps some,
///   and how many. By default 32 KiB and 200: half a megabyte more with the twenty threads of a node.
///   hyper takes 8 KiB for each request.
/// - `dirty_decay_ms`, `muzzy_decay_ms`: how long freed pages are kept before the kernel gets them back.
///   Not at all during a start, which needs more memory than what follows: see [`started`].
#[allow(unsafe_code, reason = "jemalloc looks for its settings under this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static SETTINGS: &[u8] =
    b"narenas:2,tcache_max:8192,tcache_nslots_small_max:100,dirty_decay_ms:0,muzzy_decay_ms:0\0";

/// How long freed pages are kept from then on. jemalloc's default is ten times as long.
const DECAY_MS: isize = 1000;

/// The start is over: freed pages are kept for a while, because they are soon needed again.
pub(crate) fn started() {
    for arena in [c"arena.0.dirty_decay_ms", c"arena.1.dirty_decay_ms", c"arenas.dirty_decay_ms"] {
        if let Err(errno) = set(arena, DECAY_MS) {
            tracing::warn!(
                errno,
                ?arena,
                "jemalloc did not take a setting; the node may be slower than it should"
            );
        }
    }
}

/// Sets one of jemalloc's controls (jemalloc(3), "MALLCTL NAMESPACE"), which must hold an `ssize_t`.
fn set(name: &CStr, mut value: isize) -> Result<(), i32> {
    let new = from_mut(&mut value).cast();
    #[allow(unsafe_code, reason = "jemalloc is spoken to by a C function")]
    // SAFETY: the name is a C string, and `new` is a value of the type that jemalloc checks the size of.
    match unsafe {
        tikv_jemalloc_sys::mallctl(name.as_ptr(), null_mut(), null_mut(), new, size_of::<isize>())
    } {
        0 => Ok(()),
        errno => Err(errno),
    }
}
