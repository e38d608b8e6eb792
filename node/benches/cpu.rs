//! `cargo bench -p hearth-node --bench cpu`: what one answer of `/cpu` takes on each instruction set that this
//! processor has, and what the obvious loop would take. The best of some rounds: the others were disturbed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hearth_node::compute::cpu::draws::{DRAW_MAX, DRAWS, Draws};
use hearth_node::compute::cpu::kernel::Kernel;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const ROUNDS: u32 = 40;
const SUMS: u32 = 200;

fn main() {
    let naive = {
        let mut rng = rand::rng();
        time(20, || (0..DRAWS).map(|_| u32::from(rng.random_range(0..=DRAW_MAX))).sum())
    };
    let fast = {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        time(20, || (0..DRAWS).map(|_| u32::from(rng.random_range(0..=DRAW_MAX))).sum())
    };
    println!("{DRAWS} draws on 0..={DRAW_MAX}, one thread     µs an answer");
    let print = |name: &str, took: Duration| println!("{name:<36} {:>12.2}", took.as_secs_f64() * 1e6);
    print("loop, rand's default generator", naive);
    print("loop, xoshiro256++", fast);
    for kernel in Kernel::available().into_iter().rev() {
        let mut draws = Draws::from_seed(1, kernel);
        print(kernel.name(), time(SUMS, || draws.sum()));
    }
    println!("this node would use {}", Kernel::fastest().name());
}

fn time(count: u32, mut sum: impl FnMut() -> u32) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..count {
            black_box(sum());
        }
        best = best.min(begun.elapsed() / count);
    }
    best
}
