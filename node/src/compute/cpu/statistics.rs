//! Is what is summed uniform, and is it the same on every instruction set? All seeds are fixed: a test that
//! passes once passes always.

use std::convert::Infallible;

use super::*;

/// The raw values of a seed, one after the other, without end, as the definition has them.
fn raw(seed: u64) -> impl Iterator<Item = u8> {
    let mut draws = Draws::from_seed(seed, Kernel::PORTABLE);
    std::iter::repeat_with(move || draws.lanes.step()).flat_map(values)
}

/// The draws of a seed.
fn draws(seed: u64) -> impl Iterator<Item = u32> {
    raw(seed).filter(|value| *value <= DRAW_MAX).map(u32::from)
}

/// The definition: the first draws of a step, whatever step that is.
fn sum_as_defined(lanes: &mut Lanes) -> u32 {
    let (mut total, mut missing) = (0, DRAWS);
    while missing > 0 {
        for value in values(lanes.step()).filter(|value| *value <= DRAW_MAX).take(missing as usize) {
            total += u32::from(value);
            missing -= 1;
        }
    }
    total
}

/// Its first results from a known state, from the authors' reference code: `s = {1, 2, 3, 4}`.
#[test]
fn the_generator_is_xoshiro256_plus_plus() {
    let mut words = [1, 2, 3, 4];
    let wanted = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
    for wanted in wanted {
        assert_eq!(next(&mut words), wanted);
    }
}

#[test]
fn every_kernel_sums_the_draws_as_defined() {
    for kernel in Kernel::available() {
        for seed in 0..12 {
            let mut draws = Draws::from_seed(seed, kernel);
            let mut lanes = draws.lanes.clone();
            // Sums in a row: each begins where the one before has ended.
            for number in 0..3 {
                let wanted = sum_as_defined(&mut lanes);
                assert_eq!(draws.sum(), wanted, "{kernel:?}, seed {seed}, sum {number}");
                assert_eq!(draws.lanes, lanes, "{kernel:?}, seed {seed}, sum {number}");
            }
        }
    }
}

/// The vectors count in bytes and add values in pairs: at the extremes a carry would show.
#[test]
fn every_kernel_counts_at_the_extremes() {
    for kernel in Kernel::available() {
        for steps in [0, 1, 31, 32, 254, STEPS_MAX] {
            for seed in 0..20 {
                let mut lanes = Draws::from_seed(seed, kernel).lanes;
                // Few ones or few zeros: most values are kept, or most are not, for the first steps.
                for word in lanes.0.iter_mut().flatten() {
                    *word = match seed % 3 {
                        0 => *word,
                        1 => 1 << (*word % 64),
                        _ => !(1 << (*word % 64)),
                    };
                }
                let mut same = lanes.clone();
                let block = kernel.block(&mut lanes, steps);
                assert_eq!(block, Kernel::PORTABLE.block(&mut same, steps), "{kernel:?} {steps} {seed}");
                assert_eq!(lanes, same, "{kernel:?} {steps} {seed}");
            }
        }
    }
}

#[test]
fn draws_are_uniform() {
    const COUNT: u32 = 10_100_000;
    let mut counts = [0u32; DRAW_MAX as usize + 1];
    for draw in draws(1).take(COUNT as usize) {
        counts[draw as usize] += 1;
    }
    let count = f64::from(COUNT);
    let moment = |f: &dyn Fn(f64) -> f64| -> f64 {
        counts.iter().zip(0u32..).map(|(n, value)| f64::from(*n) * f(f64::from(value))).sum::<f64>() / count
    };
    let mean = moment(&|value| value);
    let variance = moment(&|value| (value - mean).powi(2));
    // Of the uniform distribution on 0..=100: mean 50, variance (101² - 1) / 12 = 850; four standard errors.
    assert!((mean - 50.0).abs() < 4.0 * (850.0 / count).sqrt(), "{mean}");
    // Its fourth central moment is 850² * 1.8 within 0.1 %, so the variance of the variance 850² * 0.8 / n.
    assert!((variance - 850.0).abs() < 4.0 * 850.0 * (0.8 / count).sqrt(), "{variance}");
    let expected = count / 101.0;
    let chi_square: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
    // The 0.1 % and 99.9 % quantiles at 100 degrees of freedom.
    assert!((61.9..149.4).contains(&chi_square), "{chi_square}");
}

/// Rejection takes what it should: 27 of 128 raw values.
#[test]
fn raw_values_are_rejected_as_often_as_they_should() {
    const COUNT: u32 = 2_000_000;
    let rejected = raw(5).take(COUNT as usize).filter(|value| *value > DRAW_MAX).count() as f64;
    let probability = 27.0 / 128.0;
    let deviation = (f64::from(COUNT) * probability * (1.0 - probability)).sqrt();
    assert!((rejected - f64::from(COUNT) * probability).abs() < 4.0 * deviation, "{rejected}");
}

#[test]
fn neighbouring_draws_do_not_depend_on_each_other() {
    const COUNT: usize = 1_000_000;
    let values: Vec<f64> = draws(2).take(COUNT + 64).map(f64::from).collect();
    // Within a word, from word to word, which are lanes, and from step to step.
    for lag in [1, 2, 3, 6, 7, 8, 9, 12, 13, 49, 50, 51, 52, 63, 64] {
        let pairs = values.iter().zip(&values[lag..]).take(COUNT);
        let covariance = pairs.map(|(a, b)| (a - 50.0) * (b - 50.0)).sum::<f64>() / COUNT as f64;
        // Four standard errors of a correlation of zero.
        assert!((covariance / 850.0).abs() < 4.0 / (COUNT as f64).sqrt(), "lag {lag}: {covariance}");
    }
}

/// All pairs of neighbours equally often: also a dependence that is no correlation would show.
#[test]
fn pairs_of_draws_are_uniform() {
    const PER_CELL: u32 = 200;
    let mut counts = vec![0u32; 101 * 101];
    let mut draws = draws(6);
    for _ in 0..101 * 101 * PER_CELL {
        let (a, b) = (draws.next().unwrap(), draws.next().unwrap());
        counts[(a * 101 + b) as usize] += 1;
    }
    let expected = f64::from(PER_CELL);
    let chi_square: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
    // Nearly normal at so many degrees of freedom: mean f, variance 2 f; four standard deviations.
    let freedom = 101.0 * 101.0 - 1.0;
    assert!((chi_square - freedom).abs() < 4.0 * f64::sqrt(2.0 * freedom), "{chi_square}");
}

fn sums(kernel: Kernel, seed: u64, count: usize) -> Vec<f64> {
    let mut draws = Draws::from_seed(seed, kernel);
    (0..count).map(|_| f64::from(draws.sum())).collect()
}

#[test]
fn sums_have_the_mean_and_the_spread_of_a_hundred_thousand_draws() {
    const SUMS: u32 = 1000;
    for (kernel, seed) in Kernel::available().into_iter().zip(30..) {
        let sums = sums(kernel, seed, SUMS as usize);
        let mean = sums.iter().sum::<f64>() / f64::from(SUMS);
        let variance = sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / f64::from(SUMS - 1);
        let wanted = 850.0 * f64::from(DRAWS);
        assert!((mean - 5_000_000.0).abs() < 4.0 * (wanted / f64::from(SUMS)).sqrt(), "{kernel:?} {mean}");
        let error = (variance / wanted - 1.0).abs();
        assert!(error < 4.0 * (2.0 / f64::from(SUMS)).sqrt(), "{kernel:?} {variance}");
    }
}

/// Kolmogorov and Smirnov's test for two samples, each vector kernel against the portable one, on seeds that
/// differ: equal ones would give equal sums.
#[test]
fn sums_of_every_kernel_have_the_same_distribution() {
    const SUMS: usize = 1000;
    let mut portable = sums(Kernel::PORTABLE, 40, SUMS);
    portable.sort_by(f64::total_cmp);
    for (kernel, seed) in Kernel::available().into_iter().zip(41..) {
        let mut others = sums(kernel, seed, SUMS);
        others.sort_by(f64::total_cmp);
        let share = |sorted: &[f64], at: f64| sorted.partition_point(|sum| *sum <= at) as f64 / SUMS as f64;
        let distance = portable
            .iter()
            .chain(&others)
            .map(|at| (share(&portable, *at) - share(&others, *at)).abs())
            .fold(0.0, f64::max);
        // Exceeded by chance once in a thousand: 1.95 times the root of 2 / n.
        assert!(distance < 1.95 * (2.0 / SUMS as f64).sqrt(), "{kernel:?}: {distance}");
    }
}

/// The tests above see a bias if there is one: a remainder of eight bits prefers the values below 54.
#[test]
fn a_remainder_would_be_found_out() {
    const COUNT: u32 = 101_000;
    let mut counts = [0u32; 101];
    let mut draws = Draws::from_seed(1, Kernel::PORTABLE);
    let bytes = std::iter::repeat_with(|| draws.lanes.step()).flatten().flat_map(u64::to_le_bytes);
    for byte in bytes.take(COUNT as usize) {
        counts[usize::from(byte % 101)] += 1;
    }
    let expected = f64::from(COUNT) / 101.0;
    let chi_square: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
    assert!(chi_square > 1000.0, "{chi_square}");
}

#[test]
fn lanes_are_never_all_zeros() {
    let mut words = std::iter::repeat_n(0, 4).chain(1..);
    let Ok(lanes) = Lanes::from_words(|| Ok::<u64, Infallible>(words.next().unwrap()));
    assert_eq!(lanes.0[0][0], 1);
}
