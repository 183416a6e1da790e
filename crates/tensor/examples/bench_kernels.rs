//! Cost of the kernels alone: nanoseconds an element on one core, data in the second-level cache, beside copying the
//! same input bytes in the same run. It does not measure disks, digests or threads.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(clippy::cast_precision_loss, reason = "counts far below 2^53, for a table")]

use std::hint::black_box;
use std::time::Instant;

use num_bigint::BigInt;
use thalweg_tensor::kernel::{
    NonFinitePolicy, Simd, SumSpec, WeightedSum, WindowSpec, WindowSums, WindowWeights, difference_stats, gram_into,
    ulp_difference,
};
use thalweg_tensor::{Dtype, to_index};

const N_ELEMENTS: usize = 16 << 10;
const ROUNDS: usize = 400;

/// Shortest of many rounds: what the machine does undisturbed.
fn best_seconds(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best
}

fn width_of(dtype: Dtype) -> usize {
    to_index(dtype.bytes().unwrap_or(1))
}

/// Weights of one checkpoint: numbers around 0.02 that drift a little from source to source.
fn source(dtype: Dtype, i: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let values = (0..N_ELEMENTS).map(|_| (uniform() + uniform()) * 0.04 + uniform() * 1e-3 * i as f64);
    let doubles: Vec<u8> = values.flat_map(f64::to_le_bytes).collect();
    let spec = SumSpec { input: Dtype::F64, output: dtype, non_finite: NonFinitePolicy::Refuse, simd: Simd::Auto };
    let mut bytes = vec![0; N_ELEMENTS * width_of(dtype)];
    let one = BigInt::from(1);
    if let Ok(rounding) = WeightedSum::new(std::slice::from_ref(&one), &one, spec) {
        rounding.sum_into(&[&doubles], &mut bytes).unwrap_or_default();
    }
    bytes
}

fn combination(scheme: &str, n: usize) -> (Vec<BigInt>, BigInt) {
    match scheme {
        "sma" => (vec![BigInt::from(1); n], BigInt::from(n)),
        "wma" => ((1..=n).map(BigInt::from).collect(), BigInt::from(n * (n + 1) / 2)),
        "ema-0.2" => {
            let power = |base: u32, n: usize| (0..n).fold(BigInt::from(1), |product, _| product * base);
            let c = (1..=n).map(|i| if i == 1 { power(4, n - 1) } else { power(4, n - i) * power(5, i - 2) });
            (c.collect(), power(5, n - 1))
        }
        // 1 - sqrt(i/n): doubles over their exact sum.
        _ => {
            let bits = |i: usize| (1.0 - (i as f64 / n as f64).sqrt()).to_bits();
            let scaled = |bits: u64| BigInt::from(bits & ((1 << 52) - 1) | 1 << 52) << (bits >> 52);
            let c: Vec<BigInt> = (0..n).map(|i| scaled(bits(i)) >> 900).collect();
            let total = c.iter().sum();
            (c, total)
        }
    }
}

fn print_sums(input: Dtype, output: Dtype, cases: &[(&str, usize)]) {
    for &(scheme, n) in cases {
        let sources: Vec<Vec<u8>> = (0..n).map(|i| source(input, i)).collect();
        let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
        let (c, d) = combination(scheme, n);
        let mut out = vec![0; N_ELEMENTS * width_of(output)];
        let mut copies = sources.clone();
        let copied = best_seconds(|| {
            for (copy, source) in copies.iter_mut().zip(&slices) {
                copy.copy_from_slice(black_box(source));
            }
            black_box(&mut copies);
        });
        for simd in [Simd::Avx512, Simd::Avx2, Simd::Portable] {
            let spec = SumSpec { input, output, non_finite: NonFinitePolicy::Refuse, simd };
            let Ok(sum) = WeightedSum::new(&c, &d, spec) else { continue };
            let mut n_slow = 0;
            let seconds =
                best_seconds(|| n_slow = sum.sum_into(black_box(&slices), &mut out).map_or(0, |c| c.n_slow_path));
            let ns = seconds / N_ELEMENTS as f64 * 1e9;
            let rate = (n * N_ELEMENTS * width_of(input)) as f64 / seconds * 1e-9;
            let pair = format!("{} to {}", input.name(), output.name());
            let (simd, ratio) = (format!("{simd:?}"), seconds / copied);
            println!("{pair:<13} {scheme:<8} {n:>3} {simd:<9} {ns:>9.3} {rate:>8.1} {ratio:>8.2} {n_slow:>6}");
        }
    }
}

/// Means of 10 at all ends of a run of 40, plain and rising, by running sums and each by itself.
fn print_windows(dtype: Dtype) {
    const N_SOURCES: usize = 40;
    const N_WINDOW: usize = 10;
    // The rows are cut as in a merge of so many sources.
    let n_bytes = 8192 * width_of(dtype);
    let sources: Vec<Vec<u8>> = (0..N_SOURCES).map(|i| source(dtype, i)[..n_bytes].to_vec()).collect();
    let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
    let mut out = vec![0; n_bytes];
    for simd in [Simd::Avx512, Simd::Avx2, Simd::Portable] {
        let spec = SumSpec { input: dtype, output: dtype, non_finite: NonFinitePolicy::Refuse, simd };
        let sums: Vec<WeightedSum> = ["sma", "wma"]
            .iter()
            .filter_map(|scheme| {
                let (c, d) = combination(scheme, N_WINDOW);
                WeightedSum::new(&c, &d, spec).ok()
            })
            .collect();
        let alone = best_seconds(|| {
            for window in slices.windows(N_WINDOW) {
                for sum in &sums {
                    let _ = black_box(sum.sum_into(window, &mut out));
                }
            }
        });
        let mut running = WindowSums::default();
        let spec = WindowSpec { input: dtype, simd, n_longest: 10, weights: WindowWeights::Rising };
        let moving = best_seconds(|| {
            running.prepare(spec, &slices);
            running.start(&slices[..N_WINDOW]);
            for (end, window) in (N_WINDOW..).zip(slices.windows(N_WINDOW)) {
                if end > N_WINDOW {
                    running.advance(slices[end - N_WINDOW - 1], slices[end - 1], 10);
                }
                for sum in &sums {
                    let _ = black_box(sum.sum_window_into(&running, window, &mut out));
                }
            }
        });
        let n_outputs = (2 * (N_SOURCES - N_WINDOW + 1) * 8192) as f64;
        let ns = |seconds: f64| seconds / n_outputs * 1e9;
        println!(
            "{:<13} 62 windows of 10 {simd:?}: {:.3} ns an output by itself, {:.3} by running sums",
            dtype.name(),
            ns(alone),
            ns(moving)
        );
    }
}

fn print_stats(dtype: Dtype) {
    let (a, b) = (source(dtype, 0), source(dtype, 1));
    let sources: Vec<Vec<u8>> = (0..10).map(|i| source(dtype, i)).collect();
    let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
    let mut products = vec![0.0; 66];
    let ns = |seconds: f64| seconds / N_ELEMENTS as f64 * 1e9;
    let stats = best_seconds(|| {
        black_box(difference_stats(dtype, black_box(&a), &b));
    });
    let steps = best_seconds(|| {
        black_box(ulp_difference(dtype, black_box(&a), &b));
    });
    let gram = best_seconds(|| gram_into(dtype, black_box(&a), &slices, &mut products));
    println!(
        "{:<13} difference_stats {:.3}, ulp_difference {:.3} ns an element; gram of 10: {:.4} ns a product",
        dtype.name(),
        ns(stats),
        ns(steps),
        ns(gram) / 66.0
    );
}

fn main() {
    println!(
        "{:<13} {:<8} {:>3} {:<9} {:>9} {:>8} {:>8} {:>6}",
        "dtypes", "scheme", "N", "simd", "ns/output", "GB/s in", "x copy", "slow"
    );
    let cases = [("sma", 4), ("sma", 10), ("wma", 10), ("ema-0.2", 10), ("ema-0.2", 40), ("1-sqrt", 10)];
    for dtype in [Dtype::Bf16, Dtype::F32, Dtype::F16, Dtype::F64] {
        print_sums(dtype, dtype, &cases);
    }
    let pairs = [(Dtype::Bf16, Dtype::F32), (Dtype::F32, Dtype::Bf16), (Dtype::F16, Dtype::Bf16)];
    for (input, output) in pairs.into_iter().chain([(Dtype::F32, Dtype::F64)]) {
        print_sums(input, output, &[("sma", 10), ("1-sqrt", 10)]);
    }
    [Dtype::Bf16, Dtype::F16, Dtype::F32].into_iter().for_each(print_windows);
    [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F64].into_iter().for_each(print_stats);
}
