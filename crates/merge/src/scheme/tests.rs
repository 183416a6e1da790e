//! Coefficients against closed forms and published values.

use num_bigint::BigInt;
use num_traits::{One, Signed, Zero};

use super::*;
use crate::rational::nearest_f64;

fn scheme(text: &str) -> Scheme {
    Scheme::parse(text, SchemeParameters::default()).unwrap()
}

fn ratio(text: &str) -> Ratio {
    text.parse().unwrap()
}

/// What holds for every scheme, and the closed form of this one.
fn check_scheme<const N: usize>(text: &str, numerators: [i64; N], divisor: i64) {
    let scheme = scheme(text);
    let coefficients = scheme.coefficients(N).unwrap();
    assert_eq!(coefficients, Coefficients::new(numerators, divisor).unwrap(), "{text}");
    check_affine(&scheme, N);
}

fn check_affine(scheme: &Scheme, n: usize) {
    let coefficients = scheme.coefficients(n).unwrap();
    assert_eq!(coefficients.n_checkpoints(), n);
    assert!(coefficients.is_affine(), "{scheme}: {coefficients}");
    assert!(coefficients.numerators().iter().all(|numerator| !numerator.is_negative()), "{scheme}");
    assert_eq!(scheme.coefficients(1).unwrap(), Coefficients::new([1], 1).unwrap(), "{scheme}");
    assert_eq!(Scheme::parse(&scheme.to_string(), SchemeParameters::default()).unwrap(), *scheme);
    let positions: Vec<u64> = (1..=n as u64).map(|i| 4000 * i).collect();
    assert_eq!(scheme.coefficients_at(&positions).unwrap(), coefficients, "{scheme}: even positions are the even grid");
}

fn check_near(text: &str, expected: &[f64], tolerance: f64) {
    let found = scheme(text).coefficients(expected.len()).unwrap().as_f64();
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{text}: {found} where {expected} is expected");
    }
    check_affine(&scheme(text), expected.len());
}

#[test]
fn sma_is_one_nth_each() {
    check_scheme("sma", [1], 1);
    check_scheme("sma", [1, 1], 2);
    check_scheme("sma", [1, 1, 1], 3);
    check_scheme("sma", [1; 7], 7);
}

#[test]
fn wma_counts_upwards() {
    check_scheme("wma", [1], 1);
    check_scheme("wma", [1, 2], 3);
    check_scheme("wma", [1, 2, 3], 6);
    check_scheme("wma", [1, 2, 3, 4, 5], 15);
    check_scheme("wma", [1, 2, 3, 4, 5, 6, 7], 28);
}

#[test]
fn ema_of_three_matches_the_unrolled_recursion() {
    check_scheme("ema:0.5", [1], 1);
    check_scheme("ema:0.5", [1, 1], 2);
    check_scheme("ema:0.5", [1, 1, 2], 4);
    check_scheme("ema:0.5", [1, 1, 2, 4, 8, 16, 32], 64);
    check_scheme("ema:0.2", [4, 1], 5);
    check_scheme("ema:0.2", [16, 4, 5], 25);
    check_scheme("ema:1/3", [4, 2, 3], 9);
    check_scheme("ema:1", [0, 0, 1], 1);
}

#[test]
fn ema_equals_the_recursion_step_by_step() {
    for text in ["0.2", "0.1", "1/3", "0.999", "1"] {
        let alpha = ratio(text);
        let rest = Ratio::from(num_rational::BigRational::one() - alpha.as_rational());
        let mut expected = vec![Ratio::from_integer(1)];
        for n in 2..=12 {
            let scale = |value: &Ratio| Ratio::from(value.as_rational() * rest.as_rational());
            expected = expected.iter().map(scale).collect();
            expected.push(alpha.clone());
            assert_eq!(ema_coefficients(n, &alpha).unwrap(), Coefficients::from_ratios(&expected).unwrap());
        }
    }
}

#[test]
fn the_normalised_finite_sum_is_another_scheme() {
    check_scheme("ema-normalised:0.5", [1], 1);
    check_scheme("ema-normalised:0.5", [1, 2], 3);
    check_scheme("ema-normalised:0.5", [1, 2, 4], 7);
    check_scheme("ema-normalised:0.5", [1, 2, 4, 8, 16, 32, 64], 127);
    check_scheme("ema-normalised:1", [0, 0, 1], 1);
}

#[test]
fn linear_decay_is_the_simple_average() {
    check_scheme("decay:linear", [1], 1);
    check_scheme("decay:linear", [1, 1], 2);
    check_scheme("decay:linear", [1, 1, 1], 3);
    check_scheme("decay:linear", [1; 7], 7);
    // c = r newest + (1-r)/n
    check_scheme("decay:linear:0.1", [3, 3, 4], 10);
    check_scheme("decay:linear:1/3", [1, 2], 3);
    check_scheme("decay:linear:1", [0, 0, 1], 1);
}

#[test]
fn irrational_curves_have_rational_points() {
    check_scheme("decay:cosine", [1], 1);
    check_scheme("decay:cosine", [1, 1], 2);
    check_scheme("decay:cosine", [1, 2, 1], 4);
    check_scheme("decay:cosine:1", [0, 0, 1], 1);
    check_scheme("decay:1-sqrt", [1], 1);
    check_scheme("decay:1-sqrt:1", [0, 1], 1);
}

/// Coefficients of the published dossiers, to the digits that they print.
#[test]
fn ten_checkpoints_have_the_published_coefficients() {
    let tolerance = 0.5e-4;
    check_near("wma", &[0.0182, 0.0364, 0.0545, 0.0727, 0.0909, 0.1091, 0.1273, 0.1455, 0.1636, 0.1818], tolerance);
    check_near("ema:0.1", &[0.3874, 0.0430, 0.0478, 0.0531, 0.0590, 0.0656, 0.0729, 0.0810, 0.0900, 0.1000], tolerance);
    check_near("ema:0.2", &[0.1342, 0.0336, 0.0419, 0.0524, 0.0655, 0.0819, 0.1024, 0.1280, 0.1600, 0.2000], tolerance);
    let tenth = [0.0595, 0.0661, 0.0734, 0.0816, 0.0907, 0.1007, 0.1119, 0.1244, 0.1382, 0.1535];
    check_near("ema-normalised:0.1", &tenth, tolerance);
    let fifth = [0.0301, 0.0376, 0.0470, 0.0587, 0.0734, 0.0918, 0.1147, 0.1434, 0.1792, 0.2241];
    check_near("ema-normalised:0.2", &fifth, tolerance);
    let cosine = [0.024, 0.071, 0.111, 0.139, 0.155, 0.155, 0.139, 0.111, 0.071, 0.024];
    check_near("decay:cosine", &cosine, 0.5e-3);
    let one_minus_sqrt = [
        0.316227766,
        0.130985829,
        0.100508962,
        0.084732975,
        0.074651249,
        0.067489888,
        0.062063357,
        0.057767164,
        0.054256107,
        0.051316702,
    ];
    check_near("decay:1-sqrt", &one_minus_sqrt, 0.5e-9);
}

#[test]
fn few_checkpoints_have_the_published_coefficients() {
    check_near("minus-sqrt", &[0.5, 0.207106781, 0.158918623, 0.133974596], 0.5e-9);
    check_near("ema:0.2", &[0.4096, 0.1024, 0.128, 0.16, 0.2], 1e-15);
    check_near("ema-normalised:0.2", &[0.12184674, 0.152308425, 0.190385531, 0.237981913, 0.297477392], 0.5e-9);
    assert!((scheme("decay:1-sqrt").coefficients(8).unwrap().as_f64()[0] - 0.354).abs() < 0.5e-3);
    assert!((scheme("decay:1-sqrt").coefficients(16).unwrap().as_f64()[0] - 0.25).abs() < 1e-12);
}

#[test]
fn mean_ages_rank_the_schemes_as_the_published_scores_do() {
    for (text, expected) in
        [("wma", 3.0), ("ema:0.2", 3.463), ("sma", 4.5), ("ema:0.1", 5.513), ("ema-normalised:0.1", 3.647)]
    {
        let coefficients = scheme(text).coefficients(10).unwrap().as_f64();
        let age: f64 = coefficients.iter().rev().zip(0..).map(|(c, age)| c * f64::from(age)).sum();
        assert!((age - expected).abs() < 0.5e-3, "{text}: {age}");
    }
}

/// Fixed-point arithmetic on big integers, sharing nothing with the library that the schemes use.
mod fixed_point {
    use super::*;

    pub(super) const BITS: u32 = 600;

    pub(super) fn one() -> BigInt {
        BigInt::one() << BITS
    }

    pub(super) fn mul(a: &BigInt, b: &BigInt) -> BigInt {
        (a * b) >> BITS
    }

    pub(super) fn sqrt(numerator: usize, denominator: usize) -> BigInt {
        ((BigInt::from(numerator) << (2 * BITS)) / denominator).sqrt()
    }

    fn arctan_of_inverse(x: u32) -> BigInt {
        let (mut power, mut sum) = (one() / x, BigInt::zero());
        for k in 0u32.. {
            if power.is_zero() {
                break;
            }
            let term = &power / (2 * k + 1);
            sum += if k % 2 == 0 { term } else { -term };
            power /= x * x;
        }
        sum
    }

    /// Machin 1706.
    pub(super) fn pi() -> BigInt {
        (arctan_of_inverse(5) * 4 - arctan_of_inverse(239)) * 4
    }

    pub(super) fn cos(x: &BigInt) -> BigInt {
        let square = mul(x, x);
        let (mut term, mut sum) = (one(), BigInt::zero());
        for k in 1u32.. {
            if term.is_zero() {
                break;
            }
            sum += &term;
            term = -mul(&term, &square) / (2 * k * (2 * k - 1));
        }
        sum
    }

    /// The nearest double, and a check that the errors of this module (below 2^-550) cannot change it.
    pub(super) fn round(value: &BigInt) -> f64 {
        let error = BigInt::one() << 50;
        let (low, high) = (nearest_f64(&(value - &error), &one()), nearest_f64(&(value + &error), &one()));
        assert_eq!(low.to_bits(), high.to_bits());
        low
    }
}

#[test]
fn irrational_coefficients_are_correctly_rounded() {
    use fixed_point as fixed;
    let floor = ratio("0.1");
    for n in (2..=40).chain([64, 100]) {
        let curves: [(DecayCurve, Vec<BigInt>); 2] = [
            (DecayCurve::OneMinusSqrt, (1..n).map(|i| fixed::one() - fixed::sqrt(i, n)).collect()),
            (DecayCurve::Cosine, (1..n).map(|i| (fixed::one() + fixed::cos(&(fixed::pi() * i / n))) / 2).collect()),
        ];
        for (curve, points) in curves {
            for floor in [&Ratio::from_integer(0), &floor] {
                let scale = |point: &BigInt| {
                    let above = point * (floor.denominator() - floor.numerator());
                    (above + fixed::one() * floor.numerator()) / floor.denominator()
                };
                let ends: Vec<BigInt> = std::iter::once(fixed::one()).chain(points.iter().map(scale)).collect();
                let mut expected: Vec<f64> = ends.windows(2).map(|pair| fixed::round(&(&pair[0] - &pair[1]))).collect();
                expected.push(fixed::round(&ends[n - 1]));
                let found = decay_coefficients(curve, floor, &even_decay_grid(n)).unwrap();
                assert_eq!(found, Coefficients::from_f64_normalized(&expected).unwrap(), "{curve:?} {n} {floor}");
            }
        }
    }
}

#[test]
fn uneven_checkpoints_use_their_positions() {
    // Way 1/4 and 4/4 of 3 checkpoints, so t = 1/4 x 2/3 and 2/3.
    let grid = decay_grid(&[100, 125, 200]).unwrap();
    assert_eq!(grid, [ratio("1/6"), ratio("2/3")]);
    let coefficients = scheme("decay:linear").coefficients_at(&[100, 125, 200]).unwrap();
    assert_eq!(coefficients, Coefficients::new([1, 3, 2], 6).unwrap());
    assert!(scheme("decay:cosine").coefficients_at(&[100, 125, 200]).unwrap().is_affine());
    let far = u64::MAX;
    assert!(scheme("decay:cosine").coefficients_at(&[0, 1, far - 1, far]).unwrap().as_f64()[0] > 0.0);
    assert_eq!(scheme("decay:cosine").coefficients_at(&[7]).unwrap(), Coefficients::new([1], 1).unwrap());
    for positions in [[5, 5], [6, 5]] {
        let error = scheme("decay:1-sqrt").coefficients_at(&positions).unwrap_err();
        assert!(matches!(error, SchemeError::PositionsNotIncreasing { idx: 1, .. }));
    }
}

#[test]
fn a_grid_may_end_where_the_decay_ends() {
    for curve in [DecayCurve::Linear, DecayCurve::Cosine, DecayCurve::OneMinusSqrt] {
        let coefficients = decay_coefficients(curve, &ratio("0"), &[ratio("1/2"), ratio("1")]).unwrap();
        assert!(coefficients.numerators()[2].is_zero(), "{curve:?}");
        assert!(decay_coefficients(curve, &ratio("0"), &[ratio("1/2"), ratio("1.1")]).is_err());
        assert!(decay_coefficients(curve, &ratio("0"), &[ratio("0"), ratio("1/2")]).is_err());
    }
}

#[test]
fn custom_coefficients_are_used_as_given() {
    let given = ["0.75", "0.25", "1.5"].map(ratio).to_vec();
    let parameters = SchemeParameters { coefficients: Some(given), sum_rule: SumRule::AsGiven, ..Default::default() };
    let as_given = Scheme::parse("custom", parameters.clone()).unwrap();
    assert_eq!(as_given.coefficients(3).unwrap(), Coefficients::new([3, 1, 6], 4).unwrap());
    let by_sum = Scheme::parse("custom", SchemeParameters { sum_rule: SumRule::DivideBySum, ..parameters.clone() });
    let by_sum = by_sum.unwrap();
    let refused = Scheme::parse("custom", SchemeParameters { sum_rule: SumRule::MustBeOne, ..parameters });
    assert_eq!(refused, Err(SchemeError::SumNotOne { sum: Box::new(ratio("2.5")) }));
    assert_eq!(by_sum.coefficients(3).unwrap(), Coefficients::new([3, 1, 6], 10).unwrap());
    let error = as_given.coefficients(4).unwrap_err();
    assert_eq!(error, SchemeError::CountMismatch { n_coefficients: 3, n_checkpoints: 4 });
    let opposite = Some(vec![ratio("1"), ratio("-1")]);
    let zero_sum = SchemeParameters { coefficients: opposite, sum_rule: SumRule::DivideBySum, ..Default::default() };
    assert_eq!(Scheme::parse("custom", zero_sum), Err(SchemeError::SumZero));
}

#[test]
fn names_and_aliases_are_those_users_know() {
    for (text, expected) in [
        ("uniform", Scheme::Sma),
        ("mean", Scheme::Sma),
        ("SMA", Scheme::Sma),
        ("Decay:Cosine:0.1", scheme("decay:cosine:0.1")),
        ("EMA:0.2", scheme("ema:0.2")),
        ("linear", Scheme::Sma),
        ("minus-sqrt", scheme("decay:1-sqrt")),
        ("decay:1-sqrt:0", scheme("decay:1-sqrt")),
        ("ema:1/5", scheme("ema:0.2")),
    ] {
        assert_eq!(scheme(text), expected, "{text}");
    }
    let mut names: Vec<&str> =
        SCHEMES.iter().flat_map(|entry| std::iter::once(&entry.name).chain(entry.aliases)).copied().collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(SCHEMES.iter().all(|entry| !entry.equation.is_empty() && !entry.source.is_empty()));
}

#[test]
fn wrong_requests_say_what_is_wrong() {
    let check = |text: &str, parameters: SchemeParameters, message: &str, hint: Option<&str>| {
        let error = Scheme::parse(text, parameters).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.hint().as_deref(), hint, "{text}");
    };
    let none = SchemeParameters::default;
    let alpha = |text: &str| SchemeParameters { alpha: Some(ratio(text)), ..Default::default() };
    check("emaa:0.2", none(), "there is no scheme `emaa:0.2`", Some("did you mean `ema`?"));
    let all = "one of sma, wma, ema, ema-normalised, decay:linear, decay:cosine, decay:1-sqrt, power-ema, custom";
    check("slerp", none(), "there is no scheme `slerp`", Some(all));
    check("sma:3", none(), "there is no scheme `sma:3`", Some("did you mean `sma`?"));
    let needs_alpha = "the share of the newest checkpoint: `--alpha 0.2`, or `ema:0.2`";
    check("ema", none(), "scheme `ema` needs `alpha`", Some(needs_alpha));
    check("wma", alpha("0.2"), "scheme `wma` takes no `alpha`", None);
    check("ema:0.2", alpha("0.1"), "`alpha` is given twice: `0.2` and `0.1`", None);
    check("ema:0", none(), "`alpha` is 0; it must be above 0 and at most 1", None);
    check("ema:1.01", none(), "`alpha` is 1.01; it must be above 0 and at most 1", None);
    check("ema:-0.1", none(), "`alpha` is -0.1; it must be above 0 and at most 1", None);
    check("ema:nan", none(), "`nan` is not a finite decimal number or fraction", None);
    check("decay:cosine:1.5", none(), "`floor` is 1.5; it must be a share of the peak, from 0 to 1", None);
    let width = "`sigma-rel` is 0.3; it must be at least 0.001 and below 1/sqrt(12) = 0.28867...";
    check("power-ema:0.3", none(), width, None);
    assert_eq!(scheme("sma").coefficients(0), Err(SchemeError::EmptyWindow));
    assert_eq!(scheme("ema:0.2").coefficients(0), Err(SchemeError::EmptyWindow));
}

#[test]
fn endless_digits_are_refused_and_not_computed() {
    let alpha = format!("0.{}1", "0".repeat(900));
    let error = scheme(&format!("ema:{alpha}")).coefficients(300).unwrap_err();
    assert!(matches!(error, SchemeError::DivisorTooLarge { n_checkpoints: 300, .. }));
    let unlike: Vec<Ratio> = (0..200).map(|i| ratio(&format!("1/{}7", 10u64.pow(15) + 2 * i + 1)).clone()).collect();
    let many: Vec<Ratio> = unlike.iter().cycle().take(200).cloned().collect();
    assert!(custom_coefficients(&many, SumRule::AsGiven).is_ok());
    let long = |i: usize| ratio(&format!("1/{}{}7", "9".repeat(900), 1000 + i));
    let many: Vec<Ratio> = (0..40).map(long).collect();
    let error = custom_coefficients(&many, SumRule::AsGiven).unwrap_err();
    assert!(matches!(error, SchemeError::DivisorTooLarge { .. }));
}

#[test]
fn power_average_is_a_scheme_like_the_others() {
    for text in ["power-ema:0.1", "power-ema:0.25", "power-ema:0.05"] {
        for n in [1, 2, 3, 7] {
            check_affine(&scheme(text), n);
        }
    }
    for text in ["decay:cosine", "decay:1-sqrt:0.1", "decay:cosine:1/3", "decay:1-sqrt"] {
        for n in [1, 2, 3, 7, 10] {
            check_affine(&scheme(text), n);
        }
    }
}
