//! Reproducible randomness: one number that a failing run prints and the next run may be given.

use std::sync::OnceLock;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The variable that fixes the seed: a decimal `u64`.
pub const SEED_VARIABLE: &str = "HEARTH_TEST_SEED";

/// This process's seed: [`SEED_VARIABLE`] when it holds a number, else drawn. Printed to stderr the
/// first time it is asked for.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(rand::random);
        eprintln!("{SEED_VARIABLE}={seed}");
        seed
    })
}

/// A generator of its own for one purpose (`stream`) in this run, so that the numbers of one writer
/// do not depend on how the others are scheduled.
#[must_use]
pub fn random(stream: u64) -> StdRng {
    StdRng::seed_from_u64(seed() ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
