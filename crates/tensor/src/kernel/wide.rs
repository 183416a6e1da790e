//! Sums of doubles: a cascade that keeps what each addition loses, a bound, and the slow path for the rest.

use crate::Dtype;
use crate::kernel::format::{load_bits, store_bits};
use crate::kernel::portable::{Fused, OutBf16, OutF16, OutF32, round_quotient};
use crate::kernel::prepared::Prepared;

/// a + b and what its rounding lost.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// Outside of these magnitudes the error terms themselves may be lost.
const LEAST: f64 = 1e-250;
const MOST: f64 = 1e250;

/// What one element's cascade gives.
enum Settled {
    Bits(u64),
    NonFinite,
    Unclear,
}

/// Sums element `idx` of doubles to bits of `output`.
fn sum_element(prepared: &Prepared, sources: &[&[u8]], idx: usize, output: Dtype) -> Settled {
    let (mut sum, mut lost, mut lost_again) = (-0.0f64, 0.0f64, 0.0f64);
    let (mut most, mut least) = (0.0f64, f64::INFINITY);
    for (source, &c) in sources.iter().zip(&prepared.coefficients) {
        let x = f64::from_bits(load_bits(Dtype::F64, source, idx));
        if !x.is_finite() {
            return Settled::NonFinite;
        }
        let product = c * x;
        let product_rest = c.mul_add(x, -product);
        let (next, rest) = two_sum(sum, product);
        let (lost_1, rest_1) = two_sum(lost, rest);
        let (lost_2, rest_2) = two_sum(lost_1, product_rest);
        (sum, lost) = (next, lost_2);
        lost_again += rest_1.abs() + rest_2.abs();
        most = most.max(x.abs());
        least = if x == 0.0 { least } else { least.min(x.abs()) };
    }
    if most == 0.0 {
        return Settled::Bits(zero_bits(sum, output));
    }
    if least < LEAST || most > MOST || prepared.is_extreme {
        return Settled::Unclear;
    }
    let (high, low) = two_sum(sum, lost);
    let quotient = high * prepared.reciprocal;
    let quotient = (-quotient).mul_add(prepared.d, high).mul_add(prepared.reciprocal, quotient);
    let rest = (-quotient).mul_add(prepared.d, high);
    let correction = (rest + low) * prepared.reciprocal;
    // Coefficients that had to be rounded carry an error of their own.
    let inexact = if prepared.small.is_some() { 0.0 } else { 2f64.powi(-52) * prepared.sum_abs * most };
    let error =
        correction.abs() * 2f64.powi(-49) + (lost_again + inexact) * 1.01 * prepared.reciprocal + f64::MIN_POSITIVE;
    let (from, to) = (quotient + (correction - error), quotient + (correction + error));
    if from.is_sign_negative() != to.is_sign_negative() {
        return Settled::Unclear;
    }
    match (round_double(from, output), round_double(to, output)) {
        (Some(a), Some(b)) if a == b => Settled::Bits(a),
        _ => Settled::Unclear,
    }
}

fn zero_bits(sum: f64, output: Dtype) -> u64 {
    u64::from(sum.is_sign_negative()) << (output.bits() - 1)
}

/// A double rounded to `output`; `None` when too large.
pub(crate) fn round_double(value: f64, output: Dtype) -> Option<u64> {
    let (bits, infinity) = match output {
        Dtype::F64 => return value.is_finite().then(|| value.to_bits()),
        Dtype::F32 => (round_quotient::<OutF32, Fused>(value, 1.0, 1.0), 0x7F80_0000),
        Dtype::F16 => (round_quotient::<OutF16, Fused>(value, 1.0, 1.0), 0x7C00),
        _ => (round_quotient::<OutBf16, Fused>(value, 1.0, 1.0), 0x7F80),
    };
    (bits < infinity).then(|| u64::from(bits) | zero_bits(value, output))
}

/// Sums up to 64 elements from `at` on; the two masks are those that are not finite and those that are not settled.
#[inline(always)]
pub(crate) fn sum_doubles(
    prepared: &Prepared,
    sources: &[&[u8]],
    at: usize,
    n_elements: usize,
    output: Dtype,
    out: &mut [u8],
) -> (u64, u64) {
    let (mut non_finite, mut unclear) = (0, 0);
    for l in 0..n_elements {
        match sum_element(prepared, sources, at + l, output) {
            Settled::Bits(bits) => store_bits(output, out, l, bits),
            Settled::NonFinite => non_finite |= 1u64 << l,
            Settled::Unclear => unclear |= 1u64 << l,
        }
    }
    (non_finite, unclear)
}
