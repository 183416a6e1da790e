//! Cost of the sums alone: nanoseconds an output on one core, data in the second-level cache, beside copying the inputs.

#![expect(clippy::print_stdout, reason = "figures are what this program is for")]
#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "small counts")]

use std::time::Instant;

use num_bigint::BigInt;
use thalweg_tensor::Dtype;
use thalweg_tensor::kernel::{NonFinitePolicy, Simd, SumSpec, WeightedSum, difference_stats};

const N_BYTES: usize = 64 << 10;
const ROUNDS: usize = 600;

fn best(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best
}

fn source(dtype: Dtype, i: usize) -> Vec<u8> {
    let value = |l: usize| ((l as f32 * 0.618_034).fract() - 0.5) * 0.04 + (i * l % 97) as f32 * 1e-6;
    match dtype {
        Dtype::Bf16 => (0..N_BYTES / 2).flat_map(|l| value(l).to_le_bytes()[2..].to_vec()).collect(),
        Dtype::F32 => (0..N_BYTES / 4).flat_map(|l| value(l).to_le_bytes()).collect(),
        _ => (0..N_BYTES / 8).flat_map(|l| f64::from(value(l)).to_le_bytes()).collect(),
    }
}

fn combination(scheme: &str, n: usize) -> (Vec<BigInt>, BigInt) {
    let n_u32 = n as u32;
    match scheme {
        "sma" => (vec![BigInt::from(1); n], BigInt::from(n)),
        "wma" => ((1..=n).map(BigInt::from).collect(), BigInt::from(n * (n + 1) / 2)),
        "ema" => {
            let four = BigInt::from(4);
            let c = (1..=n_u32)
                .map(|i| if i == 1 { four.pow(n_u32 - 1) } else { four.pow(n_u32 - i) * BigInt::from(5).pow(i - 2) });
            (c.collect(), BigInt::from(5).pow(n_u32 - 1))
        }
        _ => {
            let c: Vec<BigInt> = (0..n as u64).map(|i| BigInt::from((1u64 << 53) - 977 * (i + 1))).collect();
            let total = c.iter().sum();
            (c, total)
        }
    }
}

fn main() {
    println!(
        "{:<6} {:<8} {:>3} {:<9} {:>12} {:>10} {:>8}",
        "dtype", "scheme", "N", "simd", "ns/output", "GB/s in", "slow"
    );
    for dtype in [Dtype::Bf16, Dtype::F32, Dtype::F64] {
        let n_outputs = N_BYTES / thalweg_tensor::to_index(dtype.bytes().unwrap_or(1));
        for (scheme, n) in [("sma", 4), ("sma", 10), ("wma", 10), ("ema", 10), ("doubles", 10)] {
            let sources: Vec<Vec<u8>> = (0..n).map(|i| source(dtype, i)).collect();
            let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
            let (c, d) = combination(scheme, n);
            let mut out = vec![0; N_BYTES];
            for simd in [Simd::Avx512, Simd::Avx2, Simd::Portable] {
                let spec = SumSpec { input: dtype, output: dtype, non_finite: NonFinitePolicy::Refuse, simd };
                let Ok(sum) = WeightedSum::new(&c, &d, spec) else { continue };
                let mut n_slow = 0;
                let seconds = best(|| n_slow = sum.sum_into(&slices, &mut out).map_or(0, |counts| counts.n_slow_path));
                let (ns, rate) = (seconds / n_outputs as f64 * 1e9, (n * N_BYTES) as f64 / seconds * 1e-9);
                let simd = format!("{simd:?}");
                println!("{:<6} {scheme:<8} {n:>3} {simd:<9} {ns:>12.3} {rate:>10.1} {n_slow:>8}", dtype.name());
            }
        }
        let (a, b) = (source(dtype, 0), source(dtype, 1));
        let stats = best(|| {
            std::hint::black_box(difference_stats(dtype, &a, &b));
        });
        let mut copy = vec![0; N_BYTES];
        let copied = best(|| copy.copy_from_slice(std::hint::black_box(&a)));
        println!(
            "{:<6} difference_stats {:>28.3}   copy of one source {:.3} ns/element",
            dtype.name(),
            stats / n_outputs as f64 * 1e9,
            copied / n_outputs as f64 * 1e9
        );
    }
}
