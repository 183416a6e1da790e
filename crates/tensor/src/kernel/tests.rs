//! The sums against rational arithmetic, on random and adversarial numbers.

use std::ops::Range;

use num_bigint::BigUint;
use num_traits::Signed;

use super::*;

/// SplitMix64: test data from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn exponent_below(&mut self, n: u64) -> i32 {
        i32::try_from(self.below(n)).unwrap()
    }
}

fn width_of(dtype: Dtype) -> usize {
    crate::to_index(dtype.bytes().unwrap())
}

/// Kinds of data that each break some shortcut.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Weights that drift a little from source to source.
    Walk,
    /// Any finite bits.
    Bits,
    /// Few significant bits in a narrow band: ties all the time; now and then a far smaller term that breaks the tie.
    NearTie,
    /// A tie at some short precision, and in the last source a term of any smaller size, or none.
    BrokenTie,
    /// Each second source undoes the one before but for its last bits.
    Cancel,
    Subnormal,
    Largest,
    Zeros,
    Equal,
    /// Rows that decayed towards zero.
    Decayed,
}

const KINDS: [Kind; 10] = [
    Kind::Walk,
    Kind::Bits,
    Kind::NearTie,
    Kind::BrokenTie,
    Kind::Cancel,
    Kind::Subnormal,
    Kind::Largest,
    Kind::Zeros,
    Kind::Equal,
    Kind::Decayed,
];

/// Finite bits of `format` near 2^exponent.
fn near(dice: &mut Dice, format: FloatFormat, exponent: i32) -> u64 {
    let fields = (1i64 << format.exponent_bits) - 2;
    let field = (i64::from(exponent - format.least_exponent - format.precision) + 2).clamp(0, fields).unsigned_abs();
    let fraction = dice.next() & ((1 << (format.precision - 1)) - 1);
    (field << (format.precision - 1)) | fraction | if dice.below(2) == 0 { format.sign_bit() } else { 0 }
}

fn element(dice: &mut Dice, format: FloatFormat, kind: Kind, n_sources: usize, before: &[u64], base: u64) -> u64 {
    let magnitudes = format.sign_bit() - 1;
    let fraction_bits = format.precision - 1;
    let bits = match kind {
        Kind::Walk => (base & !15) ^ dice.below(16),
        Kind::Bits => dice.next() & (magnitudes | format.sign_bit()),
        Kind::NearTie => {
            let exponent = if dice.below(6) == 0 { dice.exponent_below(4) - 30 } else { -5 };
            near(dice, format, exponent) & !((1 << (fraction_bits / 2)) - 1)
        }
        Kind::BrokenTie if before.len() + 1 == n_sources && n_sources > 1 => match dice.below(3) {
            0 => 0,
            // Fewer of the fields, so that all sizes below the tie come up alike.
            _ => dice.below((base & (format.sign_bit() - 1)).max(1)) | (dice.below(2) * format.sign_bit()),
        },
        Kind::BrokenTie => {
            // Bit patterns of the four output precisions' ties, and of sums of a few such terms.
            let n_kept = [8, 11, 24, 53][crate::to_index(dice.below(4))] - dice.exponent_below(4);
            let cut = (format.precision - 1 - n_kept).max(0);
            base >> cut << cut | u64::from(cut > 0) << (cut - 1).max(0)
        }
        Kind::Cancel => match before.last() {
            Some(&last) if before.len() % 2 == 1 => last ^ format.sign_bit() ^ dice.below(4),
            _ => near(dice, format, 3),
        },
        Kind::Subnormal => (dice.next() & ((1 << (format.precision + 1)) - 1)) | (dice.below(2) * format.sign_bit()),
        Kind::Largest => (format.infinity() - 1 - dice.below(4)) | (u64::from(dice.below(4) == 0) * format.sign_bit()),
        Kind::Zeros => match dice.below(5) {
            0 => 0,
            1 => base,
            _ => format.sign_bit(),
        },
        Kind::Equal => base,
        Kind::Decayed => {
            let exponent = -20 - dice.exponent_below(32);
            near(dice, format, exponent)
        }
    };
    if format.is_finite(bits) { bits } else { bits & !(1 << fraction_bits) }
}

fn make_sources(dice: &mut Dice, dtype: Dtype, kind: Kind, n_sources: usize, n_elements: usize) -> Vec<Vec<u8>> {
    let format = FloatFormat::of(dtype).unwrap();
    let width = width_of(dtype);
    let mut sources = vec![vec![0; n_elements * width]; n_sources];
    for idx in 0..n_elements {
        let base = near(dice, format, -5);
        let mut column = Vec::new();
        for source in &mut sources {
            let bits = element(dice, format, kind, n_sources, &column, base);
            column.push(bits);
            store_bits(dtype, source, idx, bits);
        }
    }
    sources
}

/// Coefficients of every regime: small and large divisors, signed, one, doubles over their sum.
fn combinations(n: usize) -> Vec<(Vec<BigInt>, BigInt)> {
    let whole = |values: Vec<i64>| values.into_iter().map(BigInt::from).collect::<Vec<_>>();
    let count = i64::try_from(n).unwrap();
    let ema = |p: u32, q: u32| {
        let rest = BigInt::from(q - p);
        let n = u32::try_from(n).unwrap();
        let c = (1..=n).map(|i| {
            if i == 1 { rest.pow(n - 1) } else { BigInt::from(p) * rest.pow(n - i) * BigInt::from(q).pow(i - 2) }
        });
        (c.collect::<Vec<_>>(), BigInt::from(q).pow(n - 1))
    };
    let doubles: Vec<BigInt> = (0..n).map(|i| BigInt::from((1u64 << 53) - 977 * (i as u64 + 1))).collect();
    let total: BigInt = doubles.iter().sum();
    vec![
        (whole(vec![1; n]), BigInt::from(count)),
        (whole((1..=count).collect()), BigInt::from(count * (count + 1) / 2)),
        ema(1, 5),
        (
            whole((0..count).map(|i| (i * 37 + 11) % 400 - 150).map(|c| if c == 0 { 7 } else { c }).collect()),
            BigInt::from(-100),
        ),
        (doubles, total),
    ]
}

/// Whether `bits` is the correct rounding of sum(c x)/d, judged by its neighbours alone.
fn is_correct(c: &[BigInt], d: &BigInt, inputs: &[u64], from: FloatFormat, bits: Option<u64>, to: FloatFormat) -> bool {
    const SCALE: i32 = 1080;
    let value = |format: FloatFormat, bits: u64| {
        let x = format.decode(bits).unwrap();
        let size = BigInt::from(x.significand) << (x.exponent + SCALE);
        if x.is_negative { -size } else { size }
    };
    let (c, d): (Vec<BigInt>, BigInt) =
        if d.is_negative() { (c.iter().map(|c| -c).collect(), -d) } else { (c.to_vec(), d.clone()) };
    let sum: BigInt = c.iter().zip(inputs).map(|(c, &x)| c * value(from, x)).sum();
    let is_minus_zero =
        |(c, &x): (&BigInt, &u64)| x & (from.sign_bit() - 1) == 0 && (x & from.sign_bit() != 0) != c.is_negative();
    if sum.is_zero() {
        let expected = if c.iter().zip(inputs).all(is_minus_zero) { to.sign_bit() } else { 0 };
        return bits == Some(expected);
    }
    let size = BigUint::try_from(sum.abs()).unwrap() << 1u32;
    let d = BigUint::try_from(d).unwrap();
    let twice = |magnitude: u64| {
        // The first number beyond the largest counts as the power of two that it would be.
        let at = magnitude.min(to.infinity() - 1);
        let base = BigUint::try_from(value(to, at)).unwrap();
        if magnitude == at { base } else { base + (BigUint::from(1u32) << (to.decode(at).unwrap().exponent + SCALE)) }
    };
    let magnitude = bits.map_or(to.infinity(), |bits| bits & (to.sign_bit() - 1));
    let is_even = magnitude & 1 == 0;
    let below_ok = magnitude == 0 || {
        let middle = (twice(magnitude) + twice(magnitude - 1)) * &d;
        size > middle || (size == middle && is_even)
    };
    let above_ok = bits.is_none() || {
        let middle = (twice(magnitude) + twice(magnitude + 1)) * &d;
        size < middle || (size == middle && is_even)
    };
    let sign_ok = bits.is_none_or(|bits| (bits & to.sign_bit() != 0) == sum.is_negative());
    below_ok && above_ok && sign_ok
}

const LEVELS: [Simd; 3] = [Simd::Portable, Simd::Avx2, Simd::Avx512];
const FLOATS: [Dtype; 4] = [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F64];

/// Checks every element of one set for every instruction set; returns (elements, slow-path elements).
fn check_set(sources: &[Vec<u8>], c: &[BigInt], d: &BigInt, input: Dtype, output: Dtype, what: &str) -> (u64, u64) {
    let (from, to) = (FloatFormat::of(input).unwrap(), FloatFormat::of(output).unwrap());
    let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
    let (width_in, width_out) = (width_of(input), width_of(output));
    let n_elements = slices[0].len() / width_in;
    let (mut n_slow, mut first) = (0, None);
    for simd in LEVELS {
        let spec = SumSpec { input, output, non_finite: NonFinitePolicy::Refuse, simd };
        let sum = WeightedSum::new(c, d, spec).unwrap();
        let mut out = vec![0xAA; n_elements * width_out];
        let outcome = sum.sum_into(&slices, &mut out);
        if let Some((known, known_out)) = &first {
            assert_eq!(known, &outcome.map(|_| ()), "{what} {simd:?}");
            assert!(outcome.is_err() || *known_out == out, "{what} {simd:?} gives other bits");
            continue;
        }
        let column = |idx: usize| slices.iter().map(|source| load_bits(input, source, idx)).collect::<Vec<_>>();
        match outcome {
            Ok(counts) => {
                n_slow = counts.n_slow_path;
                for idx in 0..n_elements {
                    let bits = Some(load_bits(output, &out, idx));
                    assert!(
                        is_correct(c, d, &column(idx), from, bits, to),
                        "{what} element {idx}: {:x?} gives {bits:x?}",
                        column(idx)
                    );
                }
            }
            Err(SumFault::Overflow { element_idx, .. }) => {
                assert!(is_correct(c, d, &column(element_idx), from, None, to), "{what} element {element_idx}");
            }
            Err(fault) => panic!("{what}: {fault:?}"),
        }
        first = Some((outcome.map(|_| ()), out));
    }
    (n_elements as u64, n_slow)
}

#[test]
fn every_element_is_the_rational_sum_rounded_once() {
    let mut dice = Dice(7);
    for input in FLOATS {
        for output in FLOATS {
            for n in [1, 2, 3, 10] {
                for kind in KINDS {
                    let sources = make_sources(&mut dice, input, kind, n, 131);
                    for (i, (c, d)) in combinations(n).into_iter().enumerate() {
                        let what = format!("{input} to {output}, {n} sources, {kind:?}, combination {i}");
                        check_set(&sources, &c, &d, input, output, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn long_windows_are_rounded_once_too() {
    let mut dice = Dice(11);
    for dtype in FLOATS {
        for n in [64, 300] {
            for kind in [Kind::Walk, Kind::NearTie, Kind::BrokenTie, Kind::Cancel, Kind::Decayed] {
                let sources = make_sources(&mut dice, dtype, kind, n, 67);
                for (i, (c, d)) in combinations(n).into_iter().enumerate() {
                    check_set(
                        &sources,
                        &c,
                        &d,
                        dtype,
                        dtype,
                        &format!("{dtype}, {n} sources, {kind:?}, combination {i}"),
                    );
                }
            }
        }
    }
}

#[test]
fn equal_sources_give_their_bits_back() {
    let mut dice = Dice(13);
    for dtype in FLOATS {
        let source = make_sources(&mut dice, dtype, Kind::Bits, 1, 200).remove(0);
        for n in [1, 3, 7] {
            let (c, d) = combinations(n).remove(1);
            let spec = SumSpec { input: dtype, output: dtype, non_finite: NonFinitePolicy::Refuse, simd: Simd::Auto };
            let mut out = vec![0; source.len()];
            WeightedSum::new(&c, &d, spec).unwrap().sum_into(&vec![source.as_slice(); n], &mut out).unwrap();
            assert_eq!(out, source, "{dtype} {n}");
        }
    }
}

fn singles(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    let mut a = vec![1.0f32; 300];
    let mut b = a.clone();
    (a[200], b[130], b[131]) = (f32::NAN, f32::INFINITY, f32::NAN);
    for simd in LEVELS {
        let spec = SumSpec { input: Dtype::F32, output: Dtype::F32, non_finite: NonFinitePolicy::Refuse, simd };
        let sum = WeightedSum::new(&[1.into(), 1.into()], &2.into(), spec).unwrap();
        let mut out = vec![0; 1200];
        let fault = sum.sum_into(&[&singles(&a), &singles(&b)], &mut out);
        assert_eq!(fault, Err(SumFault::NonFiniteInput { source_idx: 1, element_idx: 130 }));
    }
}

#[test]
fn ieee_rules_hold_where_they_are_asked_for() {
    let inf = f32::INFINITY;
    let a = singles(&[inf, inf, -inf, f32::NAN, 1.0]);
    let b = singles(&[1.0, -inf, -inf, 2.0, 4.0]);
    let spec =
        SumSpec { input: Dtype::F32, output: Dtype::Bf16, non_finite: NonFinitePolicy::Propagate, simd: Simd::Auto };
    let sum = WeightedSum::new(&[1.into(), 1.into()], &2.into(), spec).unwrap();
    let mut out = [0; 10];
    let counts = sum.sum_into(&[&a, &b], &mut out).unwrap();
    let bits: Vec<u16> = out.as_chunks::<2>().0.iter().map(|chunk| u16::from_le_bytes(*chunk)).collect();
    assert_eq!(bits, [0x7F80, 0x7FC0, 0xFF80, 0x7FC0, 0x4020]);
    assert_eq!(counts.n_non_finite, 4);
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn what_a_double_cannot_hold_still_breaks_a_tie() {
    // 1 + 2^-8 + 2^-80 in bf16, and the same in single and half: the nearest double is the tie.
    for (output, step, odd) in [
        (Dtype::Bf16, 2f64.powi(-8), 0x3F81u64),
        (Dtype::F32, 2f64.powi(-24), 0x3F80_0001),
        (Dtype::F16, 2f64.powi(-11), 0x3C01),
    ] {
        let (a, b) = (doubles(&[1.0 + step, 1.0 + step]), doubles(&[2f64.powi(-80), -(2f64.powi(-80))]));
        for simd in LEVELS {
            let spec = SumSpec { input: Dtype::F64, output, non_finite: NonFinitePolicy::Refuse, simd };
            let sum = WeightedSum::new(&[1.into(), 1.into()], &1.into(), spec).unwrap();
            let mut out = vec![0; 2 * width_of(output)];
            sum.sum_into(&[&a, &b], &mut out).unwrap();
            assert_eq!([0, 1].map(|idx| load_bits(output, &out, idx)), [odd, odd - 1], "{output} {simd:?}");
        }
    }
}

#[test]
fn a_hair_above_a_tie_rounds_up() {
    // 1.00390625 + 2^-40 in bf16: through a single it would be the tie.
    let (a, b) = (singles(&[1.0, 1.0]), singles(&[1.007_812_5, 1.007_812_5]));
    let c = singles(&[2f32.powi(-40), -(2f32.powi(-40))]);
    let spec =
        SumSpec { input: Dtype::F32, output: Dtype::Bf16, non_finite: NonFinitePolicy::Refuse, simd: Simd::Auto };
    let sum = WeightedSum::new(&[1.into(), 1.into(), 2.into()], &2.into(), spec).unwrap();
    let mut out = [0; 4];
    sum.sum_into(&[&a, &b, &c], &mut out).unwrap();
    assert_eq!(out, [0x81, 0x3F, 0x80, 0x3F]);
}

/// Sources of a window's oldest ones on, for windows of `n`.
fn check_windows(dice: &mut Dice, input: Dtype, output: Dtype, kind: Kind, n: u32) -> u64 {
    const N_SOURCES: usize = 14;
    let sources = make_sources(dice, input, kind, N_SOURCES, 200);
    let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
    let n_window = n as usize;
    let whole = |values: Vec<u32>| values.into_iter().map(BigInt::from).collect::<Vec<_>>();
    let mut n_running = 0;
    for simd in LEVELS {
        let spec = SumSpec { input, output, non_finite: NonFinitePolicy::Refuse, simd };
        let equal = WeightedSum::new(&whole(vec![1; n_window]), &n.into(), spec).unwrap();
        let rising = WeightedSum::new(&whole((1..=n).collect()), &(n * (n + 1) / 2).into(), spec).unwrap();
        assert_eq!(equal.window_weights(), Some(WindowWeights::Equal));
        assert_eq!(rising.window_weights(), Some(WindowWeights::Rising));
        let mut sums = WindowSums::default();
        let spec = WindowSpec { input, simd, n_longest: n, weights: WindowWeights::Rising };
        n_running += u64::from(sums.prepare(spec, &slices));
        sums.start(&slices[..n_window]);
        for end in n_window..=N_SOURCES {
            if end > n_window {
                sums.advance(slices[end - n_window - 1], slices[end - 1], n);
            }
            let window = &slices[end - n_window..end];
            for sum in [&equal, &rising] {
                let (mut alone, mut running) = (vec![0xAA; 200 * width_of(output)], vec![0x55; 200 * width_of(output)]);
                let expected = sum.sum_into(window, &mut alone);
                let found = sum.sum_window_into(&sums, window, &mut running);
                // An exact sum settles some elements that the other one leaves open.
                let n_slow = |counts: &Result<SumCounts, SumFault>| counts.as_ref().map_or(0, |one| one.n_slow_path);
                assert!(n_slow(&found) <= n_slow(&expected), "{input} {kind:?} {simd:?}");
                let without_slow = |counts: &Result<SumCounts, SumFault>| (*counts).map(|one| one.n_non_finite);
                assert_eq!(without_slow(&found), without_slow(&expected), "{input} {kind:?} {simd:?}");
                assert!(expected.is_err() || alone == running, "{input} to {output}, {kind:?}, {n}, {simd:?}, {end}");
            }
        }
    }
    n_running
}

#[test]
fn windows_that_move_have_the_bits_of_sums_from_scratch() {
    let mut dice = Dice(17);
    let narrow = [Dtype::Bf16, Dtype::F16, Dtype::F32];
    for kind in KINDS {
        let mut n_running = 0;
        for input in narrow {
            for output in narrow {
                for n in [2, 3, 5, 10] {
                    n_running += check_windows(&mut dice, input, output, kind, n);
                }
            }
        }
        let is_usual = matches!(kind, Kind::Walk | Kind::NearTie | Kind::Equal);
        assert!(n_running > 0 || !is_usual, "{kind:?} is always summed from scratch");
    }
}

#[test]
fn a_window_that_lost_its_last_positive_zero_is_minus_zero() {
    let (plus, minus) = (singles(&[0.0; 64]), singles(&[-0.0; 64]));
    let spec = SumSpec { input: Dtype::F32, output: Dtype::F32, non_finite: NonFinitePolicy::Refuse, simd: Simd::Auto };
    let sum = WeightedSum::new(&[1.into(), 1.into()], &2.into(), spec).unwrap();
    let mut sums = WindowSums::default();
    let spec = WindowSpec { input: Dtype::F32, simd: Simd::Auto, n_longest: 2, weights: WindowWeights::Equal };
    sums.prepare(spec, &[&plus, &minus, &minus]);
    sums.start(&[&plus, &minus]);
    sums.advance(&plus, &minus, 2);
    let mut out = vec![0; 256];
    sum.sum_window_into(&sums, &[&minus, &minus], &mut out).unwrap();
    assert_eq!(out, minus);
}

/// Finishes a sum from what was kept of all sources but the last; how many elements stayed open.
fn check_head(dice: &mut Dice, (input, output): (Dtype, Dtype), kind: Kind, numerators: &[u32]) -> usize {
    const N_ELEMENTS: usize = 1300;
    let sources = make_sources(dice, input, kind, numerators.len(), N_ELEMENTS);
    let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
    let (newest, older) = slices.split_last().unwrap();
    let whole: Vec<BigInt> = numerators.iter().map(|&c| BigInt::from(c)).collect();
    let divisor = BigInt::from(numerators.iter().sum::<u32>());
    let mut n_open = 0;
    for simd in LEVELS {
        let spec = SumSpec { input, output, non_finite: NonFinitePolicy::Refuse, simd };
        let sum = WeightedSum::new(&whole, &divisor, spec).unwrap();
        let mut expected = vec![0xAA; N_ELEMENTS * width_of(output)];
        if sum.sum_into(&slices, &mut expected).is_err() {
            continue;
        }
        let Some(dtype) = sum.head_dtype() else {
            assert!(input != Dtype::F32 && output == Dtype::F32, "{input} to {output}");
            continue;
        };
        let mut head = vec![0x55; N_ELEMENTS * width_of(dtype)];
        sum.sum_head_into(older, &mut head).unwrap();
        let (mut out, mut open) = (vec![0x55; expected.len()], Vec::new());
        sum.finish_head_into((&head, newest), &mut out, &mut open).unwrap();
        n_open = open.iter().map(ExactSizeIterator::len).sum();
        for range in open {
            let of = |range: &Range<usize>, width: usize| range.start * width..range.end * width;
            let part: Vec<&[u8]> = slices.iter().map(|source| &source[of(&range, width_of(input))]).collect();
            sum.sum_into(&part, &mut out[of(&range, width_of(output))]).unwrap();
        }
        assert!(out == expected, "{input} to {output}, {kind:?}, {numerators:?}, {simd:?}");
    }
    n_open
}

#[test]
fn a_sum_that_is_finished_later_has_the_bits_of_a_sum_at_once() {
    let mut dice = Dice(18);
    let narrow = [Dtype::Bf16, Dtype::F16, Dtype::F32];
    for kind in KINDS {
        for input in narrow {
            for output in narrow {
                for numerators in
                    [&[1; 2][..], &[1; 3], &[1; 10], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[512, 128, 160, 200]]
                {
                    let n_open = check_head(&mut dice, (input, output), kind, numerators);
                    let is_usual = matches!(kind, Kind::Walk | Kind::Equal);
                    assert!(n_open < 200 || !is_usual, "{kind:?} of {input}: {n_open} of 1300 are left open");
                }
            }
        }
    }
}

/// The bytes of values that the element type can hold, or rounds to infinity.
fn narrow(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let spec = SumSpec { input: Dtype::F32, output: dtype, non_finite: NonFinitePolicy::Propagate, simd: Simd::Auto };
    let mut out = vec![0; values.len() * width_of(dtype)];
    WeightedSum::new(&[1.into()], &1.into(), spec).unwrap().sum_into(&[&singles(values)], &mut out).unwrap();
    out
}

#[test]
fn what_is_not_finite_is_refused_and_kept_from_each_element_type_to_each() {
    let floats = [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F64];
    for (input, output) in floats.into_iter().flat_map(|input| floats.map(|output| (input, output))) {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let with_bad = |usual: f32| {
                let mut values = [usual; 150];
                (values[70], values[140]) = (bad, bad);
                values
            };
            let (a, b) = (narrow(input, &[0.5; 150]), narrow(input, &with_bad(1.5)));
            for simd in LEVELS {
                let summed = |non_finite| {
                    let spec = SumSpec { input, output, non_finite, simd };
                    let sum = WeightedSum::new(&[1.into(), 1.into()], &2.into(), spec).unwrap();
                    let mut out = vec![0; 150 * width_of(output)];
                    sum.sum_into(&[&a, &b], &mut out).map(|_| out)
                };
                let refused = Err(SumFault::NonFiniteInput { source_idx: 1, element_idx: 70 });
                assert_eq!(summed(NonFinitePolicy::Refuse), refused, "{input} to {output}, {bad}, {simd:?}");
                let kept = summed(NonFinitePolicy::Propagate).unwrap();
                assert!(kept == narrow(output, &with_bad(1.0)), "{input} to {output}, {bad}, {simd:?}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_or_too_large_is_left_open() {
    for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
        let spec = SumSpec { input: dtype, output: dtype, non_finite: NonFinitePolicy::Propagate, simd: Simd::Auto };
        let largest = if dtype == Dtype::F16 { 65504.0 } else { 3e38 };
        let mut cases = vec![
            ([f32::NAN, 1.0], 1.0),
            ([f32::INFINITY, 1.0], 1.0),
            ([1.0, 1.0], f32::NEG_INFINITY),
            ([1.0, 1.0], f32::INFINITY),
            ([1.0, 1.0], f32::NAN),
            ([largest, largest], largest),
        ];
        if dtype == Dtype::F32 {
            cases.push(([f32::MAX, 1.0], f32::MIN));
        }
        for (values, newest) in cases {
            let sum = WeightedSum::new(&[1.into(), 1.into(), 1.into()], &1.into(), spec).unwrap();
            let [a, b] = values.map(|value| narrow(dtype, &[value; 70]));
            let mut head = vec![0; 70 * width_of(sum.head_dtype().unwrap())];
            let (mut out, mut open) = (vec![0; 70 * width_of(dtype)], Vec::new());
            sum.sum_head_into(&[&a, &b], &mut head).unwrap();
            sum.finish_head_into((&head, &narrow(dtype, &[newest; 70])), &mut out, &mut open).unwrap();
            assert_eq!(open, [0..64, 64..70], "{dtype}: {values:?} and {newest}");
        }
    }
}
