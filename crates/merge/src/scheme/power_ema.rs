//! Power-function EMA: averages whose width is a fixed share of the training so far.
//!
//! Karras et al. 2024 (EDM2, arXiv 2312.02696), section 3 and appendix C. The profile of the average at time t is
//! proportional to tau^g over 0 < tau <= t, its width is sigma_rel = sqrt(g+1) / ((g+2) sqrt(g+3)), and g is
//! the largest real root of g^3 + 7g^2 + (16 - s^-2) g + (12 - s^-2) with s = sigma_rel.
//!
//! **Over raw checkpoints** at steps T_1 < ... < T_n a checkpoint represents the training since the one before it, the
//! oldest for all training before it:
//!
//! c_i = (T_i / T_n)^(g+1) - (T_(i-1) / T_n)^(g+1), T_0 = 0,
//!
//! the integral of the profile over (T_(i-1), T_i]. These are also the coefficients of the paper's online update
//! A <- b A + (1-b) M with b = (1 - D/T)^(g+1) over increments D, whose first update copies M_1. So a window
//! that begins late gives its oldest checkpoint the weight of everything before it.
//!
//! **From averages** ([`reconstruct_from_averages`]): the profile of any width at any earlier step as the least-squares
//! combination of profiles that were kept during training. With the inner product of two profiles
//!
//! <a,b> = (g_a+1)(g_b+1) (t_min/t_max)^g / ((g_a+g_b+1) t_max), g that of the later one,
//!
//! the coefficients solve sum_j <i,j> x_j = <i,target> and are then divided by their sum. Smooth profiles are
//! reproduced well; windows with hard edges are not.
//!
//! Use it to look for the best width after training, as the paper does: the best width moves
//! with the learning rate and the length of training.

use astro_float_num::BigFloat;
use num_bigint::BigInt;
use num_traits::One;

use super::real::{Approximation, RealMath, decode, round_correctly};
use super::{SchemeError, check_positions};
use crate::{Coefficients, Ratio};

/// Most snapshots of one reconstruction: a few dozen give all the accuracy there is, and the exact work is cubic.
pub(crate) const MAX_SNAPSHOTS: usize = 128;

/// Coefficients of the power-function profile over checkpoints at these steps, oldest first.
///
/// `sigma_rel` is the profile's relative width, from 0.001 to below 1/sqrt(12). Each coefficient is the double nearest
/// to the real one, the divisor their exact sum. Karras et al. 2024 (arXiv 2312.02696), section 3, integrated over the
/// steps between checkpoints.
///
/// # Errors
/// `EmptyWindow`, `PositionsNotIncreasing`, `SigmaRelOutOfRange`.
///
/// # Example
/// ```
/// use thalweg_merge::scheme::power_ema_coefficients;
///
/// let coefficients = power_ema_coefficients(&[1000, 2000, 3000, 4000], &"0.1".parse()?)?;
/// assert!(coefficients.is_affine());
/// assert!(coefficients.as_f64()[3] > 0.8);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn power_ema_coefficients(positions: &[u64], sigma_rel: &Ratio) -> Result<Coefficients, SchemeError> {
    check_sigma_rel(sigma_rel)?;
    check_positions(positions)?;
    match positions {
        [] => return Err(SchemeError::EmptyWindow),
        [_] => return Coefficients::new([1], 1),
        _ => {}
    }
    let doubles = round_correctly(|math| evaluate_profile(math, positions, sigma_rel))?;
    Coefficients::from_f64_normalized(&doubles)
}

/// A power average that was kept during training, or one that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PowerSnapshot {
    /// Optimizer steps done; at least 1.
    pub step: u64,
    /// Relative width of its profile.
    pub sigma_rel: Ratio,
}

/// Coefficients that make `target` from snapshots of power averages, in the order of the snapshots.
///
/// Snapshots after the target's step get the coefficient 0. The others are the doubles nearest to the real
/// least-squares solution divided by its sum. Karras et al. 2024 (arXiv 2312.02696), appendix C.
///
/// # Errors
/// `SigmaRelOutOfRange`, `StepZero`, `NoSnapshots` at or before the target, `TooManySnapshots` ([`MAX_SNAPSHOTS`]),
/// `SnapshotTwice`.
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, scheme::{PowerSnapshot, reconstruct_from_averages}};
///
/// let kept = [(100, "0.05"), (100, "0.1"), (200, "0.05"), (200, "0.1")];
/// let kept = kept.map(|(step, sigma)| PowerSnapshot { step, sigma_rel: sigma.parse().unwrap() });
/// let target = PowerSnapshot { step: 200, sigma_rel: "0.1".parse()? };
/// assert_eq!(reconstruct_from_averages(&kept, &target)?, Coefficients::new([0, 0, 0, 1], 1)?);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn reconstruct_from_averages(
    snapshots: &[PowerSnapshot],
    target: &PowerSnapshot,
) -> Result<Coefficients, SchemeError> {
    let usable = check_snapshots(snapshots, target)?;
    if let Some(own) = snapshots.iter().position(|snapshot| snapshot == target) {
        return Coefficients::new((0..snapshots.len()).map(|i| i32::from(i == own)), 1);
    }
    let kept: Vec<&PowerSnapshot> = usable.iter().map(|&i| &snapshots[i]).collect();
    let doubles = round_correctly(|math| {
        let coarse = solve_normalized(math, &kept, target)?;
        let mut fine_math = RealMath::new(2 * math.n_bits())?;
        let values = solve_normalized(&mut fine_math, &kept, target)?;
        // The system can be badly conditioned, so that the error is measured: it is at most about that of the coarse
        // solution, which the fine one shows.
        let mut error_exponent = math.error_exponent(8);
        for (a, b) in coarse.iter().zip(&values) {
            let (mantissa, exponent) = decode(&fine_math.sub(a, b))?;
            error_exponent = error_exponent.max(exponent + i64::try_from(mantissa.bits()).unwrap_or(0) + 4);
        }
        Ok(Approximation { values, error_exponent })
    })?;
    let mut all = vec![0.0; snapshots.len()];
    usable.iter().zip(doubles).for_each(|(&i, value)| all[i] = value);
    Coefficients::from_f64_normalized(&all)
}

/// g of the profile of this relative width, as the double nearest to it; for averages that are kept while training.
///
/// The largest root of the cubic of EDM2 (arXiv 2312.02696, section 3 and appendix C); above 0 (`sigma_rel` near
/// 1/sqrt(12)) and below 1000 (at 0.001).
///
/// # Errors
/// `SigmaRelOutOfRange`.
///
/// # Example
/// ```
/// let exponent = thalweg_merge::scheme::power_ema_exponent(&"0.1".parse()?)?;
/// assert!((exponent - 6.937204).abs() < 1e-6);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn power_ema_exponent(sigma_rel: &Ratio) -> Result<f64, SchemeError> {
    check_sigma_rel(sigma_rel)?;
    let rounded = round_correctly(|math| {
        let root = exponent_of_width(math, sigma_rel);
        // The cubic's terms are below 2^31 and its slope at the root is at least 4; as for the coefficients, 40 are
        // granted.
        Ok(Approximation { values: vec![root], error_exponent: math.error_exponent(40) })
    })?;
    rounded.into_iter().next().ok_or(SchemeError::ArithmeticFailed)
}

/// `SigmaRelOutOfRange` unless a power profile of this width exists and is worth computing.
pub(crate) fn check_sigma_rel(sigma_rel: &Ratio) -> Result<(), SchemeError> {
    let (numerator, denominator) = (sigma_rel.numerator(), sigma_rel.denominator());
    // sigma < 1/sqrt(12) means 12 sigma^2 < 1; below 0.001 the profile is the last checkpoint and nothing else.
    let is_narrow_enough = BigInt::from(12) * numerator * numerator < denominator * denominator;
    match is_narrow_enough && numerator * BigInt::from(1000) >= *denominator {
        true => Ok(()),
        false => Err(SchemeError::SigmaRelOutOfRange { sigma_rel: sigma_rel.clone() }),
    }
}

fn check_snapshots(snapshots: &[PowerSnapshot], target: &PowerSnapshot) -> Result<Vec<usize>, SchemeError> {
    let mut sorted: Vec<&PowerSnapshot> = snapshots.iter().collect();
    for snapshot in sorted.iter().copied().chain([target]) {
        check_sigma_rel(&snapshot.sigma_rel)?;
        if snapshot.step == 0 {
            return Err(SchemeError::StepZero);
        }
    }
    sorted.sort_by(|a, b| (a.step, &a.sigma_rel).cmp(&(b.step, &b.sigma_rel)));
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(SchemeError::SnapshotTwice { step: pair[0].step, sigma_rel: pair[0].sigma_rel.clone() });
    }
    let usable: Vec<usize> = (0..snapshots.len()).filter(|&i| snapshots[i].step <= target.step).collect();
    match usable.len() {
        0 => Err(SchemeError::NoSnapshots { target_step: target.step }),
        n_snapshots if n_snapshots > MAX_SNAPSHOTS => {
            Err(SchemeError::TooManySnapshots { n_snapshots, max_snapshots: MAX_SNAPSHOTS })
        }
        _ => Ok(usable),
    }
}

/// g of a profile: the only positive root of the cubic, by Newton's method from above.
fn exponent_of_width(math: &mut RealMath, sigma_rel: &Ratio) -> BigFloat {
    let inverse = sigma_rel.as_rational().recip();
    let inverse_square = &inverse * &inverse;
    let linear = math.ratio(&Ratio::from(num_rational::BigRational::from_integer(16.into()) - &inverse_square));
    let constant = math.ratio(&Ratio::from(num_rational::BigRational::from_integer(12.into()) - &inverse_square));
    let [two, three, seven] = [2, 3, 7].map(|value| math.integer(&BigInt::from(value)));
    let fourteen = math.mul(&two, &seven);
    // At g = 1/sigma the cubic is 6g^2 + 16g + 12 > 0, and it is convex from 0 on: the steps only go down.
    let mut root = math.ratio(&Ratio::from(inverse));
    let max_steps = 64 + math.n_bits();
    for _ in 0..max_steps {
        let value =
            math.add(&math.mul(&math.add(&math.mul(&math.add(&root, &seven), &root), &linear), &root), &constant);
        let slope = math.add(&math.mul(&math.add(&math.mul(&three, &root), &fourteen), &root), &linear);
        let next = math.sub(&root, &math.div(&value, &slope));
        let is_lower = next.cmp(&root).is_some_and(|order| order < 0);
        if !is_lower {
            break;
        }
        root = next;
    }
    root
}

/// The coefficients over raw checkpoints. A logarithm is below 45 and g + 1 below 1002, so that their product loses 17
/// bits; 40 are granted.
fn evaluate_profile(math: &mut RealMath, positions: &[u64], sigma_rel: &Ratio) -> Result<Approximation, SchemeError> {
    let one = math.integer(&BigInt::one());
    let exponent = exponent_of_width(math, sigma_rel);
    let exponent = math.add(&exponent, &one);
    let newest = BigInt::from(positions.last().copied().unwrap_or(1));
    let mut before = math.integer(&BigInt::from(0));
    let mut values = Vec::with_capacity(positions.len());
    for &position in positions {
        let share = match Ratio::new(position, newest.clone()) {
            Some(ratio) if ratio.is_one() => one.clone(),
            Some(ratio) if !ratio.is_zero() => {
                let share = math.ratio(&ratio);
                let logarithm = math.ln(&share);
                math.exp(&math.mul(&exponent, &logarithm))
            }
            _ => before.clone(),
        };
        values.push(math.sub(&share, &before));
        before = share;
    }
    Ok(Approximation { values, error_exponent: math.error_exponent(40) })
}

/// A profile with what its inner products need.
struct Profile {
    step: BigInt,
    ln_step: BigFloat,
    exponent: BigFloat,
}

impl Profile {
    fn new(math: &mut RealMath, snapshot: &PowerSnapshot) -> Self {
        let step = BigInt::from(snapshot.step);
        let exponent = exponent_of_width(math, &snapshot.sigma_rel);
        let as_real = math.integer(&step);
        Self { step, ln_step: math.ln(&as_real), exponent }
    }

    fn inner_product(&self, math: &mut RealMath, other: &Self) -> BigFloat {
        let (early, late) = if self.step < other.step { (self, other) } else { (other, self) };
        let one = math.integer(&BigInt::one());
        let [early_plus, late_plus] = [early, late].map(|profile| math.add(&profile.exponent, &one));
        let logarithm = math.mul(&late.exponent, &math.sub(&early.ln_step, &late.ln_step));
        let power = if early.step == late.step { one } else { math.exp(&logarithm) };
        let above = math.mul(&math.mul(&early_plus, &late_plus), &power);
        let late_step = math.integer(&late.step);
        let below = math.mul(&math.add(&early.exponent, &late_plus), &late_step);
        math.div(&above, &below)
    }
}

/// The least-squares coefficients divided by their sum.
fn solve_normalized(
    math: &mut RealMath,
    snapshots: &[&PowerSnapshot],
    target: &PowerSnapshot,
) -> Result<Vec<BigFloat>, SchemeError> {
    let raw = solve_reconstruction(math, snapshots, target)?;
    let zero = math.integer(&BigInt::from(0));
    let sum = raw.iter().fold(zero, |sum, value| math.add(&sum, value));
    Ok(raw.iter().map(|value| math.div(value, &sum)).collect())
}

fn solve_reconstruction(
    math: &mut RealMath,
    snapshots: &[&PowerSnapshot],
    target: &PowerSnapshot,
) -> Result<Vec<BigFloat>, SchemeError> {
    let profiles: Vec<Profile> = snapshots.iter().map(|snapshot| Profile::new(math, snapshot)).collect();
    let wanted = Profile::new(math, target);
    let mut rows: Vec<Vec<BigFloat>> = Vec::with_capacity(profiles.len());
    for (i, profile) in profiles.iter().enumerate() {
        let mut row = Vec::with_capacity(profiles.len() + 1);
        for (j, other) in profiles.iter().enumerate() {
            let known = rows.get(j).map(|above| above[i].clone());
            row.push(known.unwrap_or_else(|| profile.inner_product(math, other)));
        }
        row.push(profile.inner_product(math, &wanted));
        rows.push(row);
    }
    Ok(eliminate(math, rows))
}

/// Solves a positive definite system, whose rows end in the right side: Gaussian elimination needs no pivots there.
fn eliminate(math: &RealMath, mut rows: Vec<Vec<BigFloat>>) -> Vec<BigFloat> {
    let n = rows.len();
    for pivot_idx in 0..n {
        let (done, open) = rows.split_at_mut(pivot_idx + 1);
        let pivot_row = &done[pivot_idx];
        for row in open {
            let factor = math.div(&row[pivot_idx], &pivot_row[pivot_idx]);
            for (value, above) in row[pivot_idx..].iter_mut().zip(&pivot_row[pivot_idx..]) {
                *value = math.sub(value, &math.mul(&factor, above));
            }
        }
    }
    let mut solution: Vec<BigFloat> = Vec::with_capacity(n);
    for row in rows.iter().rev() {
        // `solution` is in reverse here: its first entry belongs to the last column.
        let known = row[..n].iter().rev().zip(&solution);
        let rest = known.fold(row[n].clone(), |rest, (factor, value)| math.sub(&rest, &math.mul(factor, value)));
        solution.push(math.div(&rest, &row[n - 1 - solution.len()]));
    }
    solution.reverse();
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(text: &str) -> Ratio {
        text.parse().unwrap()
    }

    fn snapshot(step: u64, sigma_rel: &str) -> PowerSnapshot {
        PowerSnapshot { step, sigma_rel: ratio(sigma_rel) }
    }

    fn to_f64(value: &BigFloat) -> f64 {
        let (mantissa, exponent) = decode(value).unwrap();
        crate::rational::nearest_f64(&mantissa, &(BigInt::one() << exponent.unsigned_abs()))
    }

    /// The doubles are given as bits, from mpmath at 2000 bits with its own root finder and its own solver.
    fn check_bits(found: &Coefficients, expected: &[u64]) {
        let doubles: Vec<f64> = expected.iter().map(|&bits| f64::from_bits(bits)).collect();
        assert_eq!(*found, Coefficients::from_f64_normalized(&doubles).unwrap());
        assert!(found.is_affine());
    }

    #[test]
    fn widths_have_the_published_exponents() {
        for (sigma_rel, expected) in [
            ("0.05", 16.972199),
            ("0.07", 11.244939),
            ("0.10", 6.937204),
            ("0.15", 3.557869),
            ("0.20", 1.826214),
            ("0.25", 0.719824),
            ("0.28", 0.169344),
        ] {
            let exponent = exponent_of_width(&mut RealMath::new(256).unwrap(), &ratio(sigma_rel));
            assert!((to_f64(&exponent) - expected).abs() < 1e-6, "{sigma_rel}: {}", to_f64(&exponent));
            assert_eq!(power_ema_exponent(&ratio(sigma_rel)).unwrap().to_bits(), to_f64(&exponent).to_bits());
        }
    }

    #[test]
    fn the_exponent_gives_its_width_back() {
        for text in ["0.001", "0.003", "0.1", "0.2", "0.28867"] {
            let mut math = RealMath::new(512).unwrap();
            let exponent = exponent_of_width(&mut math, &ratio(text));
            let [one, two, three] = [1, 2, 3].map(|value| math.integer(&BigInt::from(value)));
            let above = math.sqrt(&math.add(&exponent, &one));
            let below = math.mul(&math.add(&exponent, &two), &math.sqrt(&math.add(&exponent, &three)));
            let wanted = math.ratio(&ratio(text));
            let error = math.sub(&math.div(&above, &below), &wanted);
            let (mantissa, exponent) = decode(&error).unwrap();
            assert!(exponent + i64::try_from(mantissa.bits()).unwrap() < -480, "{text}");
        }
    }

    #[test]
    fn profile_coefficients_are_correctly_rounded() {
        check_bits(
            &power_ema_coefficients(&[1, 2, 3, 4, 5, 6, 7], &ratio("0.1")).unwrap(),
            &[
                0x3e8a4ef32063f91d,
                0x3f0915c735c9ddde,
                0x3f52e0f5b9047be4,
                0x3f85a8224ec073e1,
                0x3fad67c7c1dc23b5,
                0x3fcccc45a5277929,
                0x3fe695fc562837c4,
            ],
        );
        check_bits(
            &power_ema_coefficients(&[1000, 2500, 2600, 9000], &ratio("0.05")).unwrap(),
            &[0x3c60548dbf4a59c2, 0x3ddb9db231256877, 0x3ddc449a80c13484, 0x3fefffffffe40eda],
        );
        check_bits(
            &power_ema_coefficients(&[12, 13], &ratio("0.2")).unwrap(),
            &[0x3fe9857bc7e4ee72, 0x3fc9ea10e06c4638],
        );
        check_bits(
            &power_ema_coefficients(&[10, 100, 1000, 123_456_789_012_345], &ratio("0.288")).unwrap(),
            &[0x3d2df4e45a857689, 0x3d617610e5a1ef5c, 0x3d9689ceed844c82, 0x3fefffffffff385c],
        );
        let steps: Vec<u64> = (1..=12).map(|i| 500 * i).collect();
        check_bits(
            &power_ema_coefficients(&steps, &ratio("0.01")).unwrap(),
            &[
                0x29f9d905415a494c,
                0x3019c1a90e643e42,
                0x33b01d12fe5a6fd2,
                0x3639aa61f81870a1,
                0x3832c0d8285ced95,
                0x39d00e82e5d83238,
                0x3b2bd3c40fa8eb12,
                0x3c59932c70e9f96f,
                0x3d64171f39a6889f,
                0x3e52afbd2a5db69c,
                0x3f29f6ff9801bd24,
                0x3feffe6086ae8d38,
            ],
        );
    }

    #[test]
    fn raw_coefficients_are_those_of_the_online_update() {
        // At step 10 with increments of 1 the published shares of the old average are .150535 and .433325.
        for (sigma_rel, kept) in [("0.05", 0.150535), ("0.10", 0.433325)] {
            let steps: Vec<u64> = (1..=10).collect();
            let newest = power_ema_coefficients(&steps, &ratio(sigma_rel)).unwrap().as_f64()[9];
            assert!((1.0 - newest - kept).abs() < 1e-6, "{sigma_rel}: {newest}");
        }
    }

    #[test]
    fn edges_of_the_raw_profile() {
        let single = Coefficients::new([1], 1).unwrap();
        assert_eq!(power_ema_coefficients(&[0], &ratio("0.1")).unwrap(), single);
        assert_eq!(power_ema_coefficients(&[], &ratio("0.1")), Err(SchemeError::EmptyWindow));
        let with_start = power_ema_coefficients(&[0, 5], &ratio("0.1")).unwrap();
        assert_eq!(with_start, Coefficients::new([0, 1], 1).unwrap());
        // (1/u64::MAX)^1000 is below every double: the coefficient is 0, and found to be.
        let far = power_ema_coefficients(&[1, u64::MAX], &ratio("0.001")).unwrap();
        assert_eq!(far, Coefficients::new([0, 1], 1).unwrap());
        for sigma_rel in ["0", "-0.1", "0.0009", "0.2887", "1"] {
            let error = power_ema_coefficients(&[1, 2], &ratio(sigma_rel)).unwrap_err();
            assert!(matches!(error, SchemeError::SigmaRelOutOfRange { .. }), "{sigma_rel}");
        }
    }

    #[test]
    fn reconstruction_solves_the_published_systems() {
        let kept: Vec<PowerSnapshot> =
            ["0.05", "0.28"].iter().flat_map(|sigma| (1..=4).map(|i| snapshot(100 * i, sigma))).collect();
        let target = snapshot(400, "0.15");
        let math = &mut RealMath::new(512).unwrap();
        let raw = solve_reconstruction(math, &kept.iter().collect::<Vec<_>>(), &target).unwrap();
        let published = [0.000574, 0.01059, 0.052092, 0.162131, -0.02296, -0.23307, -0.962723, 1.994823];
        for (found, expected) in raw.iter().zip(published) {
            assert!((to_f64(found) - expected).abs() < 1e-6, "{} {expected}", to_f64(found));
        }
        check_bits(
            &reconstruct_from_averages(&kept, &target).unwrap(),
            &[
                0x3f42c98e6348fd93,
                0x3f85a85ab5f18af2,
                0x3faaa1dee39315ae,
                0x3fc4b8faa3f58194,
                0xbf977a22e39509df,
                0xbfcdca1e439a5cf8,
                0xbfeec3251ce01f9c,
                0x3fffdee6af9e1a7f,
            ],
        );
    }

    #[test]
    fn sixteen_snapshots_have_the_published_coefficients() {
        let kept: Vec<PowerSnapshot> =
            (1..=8).flat_map(|i| ["0.05", "0.10"].map(|sigma| snapshot(4096 * i, sigma))).collect();
        let found = reconstruct_from_averages(&kept, &snapshot(32_768, "0.07")).unwrap();
        check_bits(
            &found,
            &[
                0x3d911e5cc4954086,
                0xbdda48291ecf9965,
                0x3e52a9663b18a0ad,
                0xbe7fbc685c5deef4,
                0x3ec2a7f74935b766,
                0xbee32b9f862203b1,
                0x3f115321142eeebe,
                0xbf2c1b1f8dfce9db,
                0x3f4d0d51877c495a,
                0xbf64d82b7a26448c,
                0x3f7db475b7051227,
                0xbf93df052aebb541,
                0x3fa5b52de62d077e,
                0xbfbbcfe4a249bc3b,
                0x3fd8c5f420bbd1f5,
                0x3fe62e198b4cc3b6,
            ],
        );
        let published = [7.25218e-3, -1.94054e-2, 4.23979e-2, -1.08641e-1, 3.87082e-1, 6.93127e-1];
        for (found, expected) in found.as_f64()[10..].iter().zip(published) {
            assert!((found / expected - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_profile_that_was_kept_is_its_own_reconstruction() {
        let kept = [snapshot(100, "0.05"), snapshot(100, "0.1"), snapshot(200, "0.05"), snapshot(300, "0.1")];
        for (i, target) in kept.iter().enumerate() {
            let expected = Coefficients::new((0..4).map(|j| i32::from(i == j)), 1).unwrap();
            assert_eq!(reconstruct_from_averages(&kept, target).unwrap(), expected);
        }
    }

    #[test]
    fn later_snapshots_do_not_take_part() {
        let kept = [snapshot(100, "0.05"), snapshot(300, "0.05"), snapshot(200, "0.1"), snapshot(100, "0.1")];
        let found = reconstruct_from_averages(&kept, &snapshot(200, "0.07")).unwrap();
        let (used, rest) = found.without_zeros();
        assert_eq!(used, [0, 2, 3]);
        let early = [kept[0].clone(), kept[2].clone(), kept[3].clone()];
        assert_eq!(reconstruct_from_averages(&early, &snapshot(200, "0.07")).unwrap(), rest);
    }

    #[test]
    fn impossible_reconstructions_are_refused() {
        let target = snapshot(200, "0.07");
        let check = |kept: &[PowerSnapshot], expected: SchemeError| {
            assert_eq!(reconstruct_from_averages(kept, &target), Err(expected));
        };
        check(&[], SchemeError::NoSnapshots { target_step: 200 });
        check(&[snapshot(201, "0.1")], SchemeError::NoSnapshots { target_step: 200 });
        check(&[snapshot(0, "0.1")], SchemeError::StepZero);
        let twice = [snapshot(5, "0.1"), snapshot(7, "0.1"), snapshot(5, "1/10")];
        check(&twice, SchemeError::SnapshotTwice { step: 5, sigma_rel: ratio("0.1") });
        let many: Vec<PowerSnapshot> = (1..=129).map(|step| snapshot(step, "0.1")).collect();
        check(&many, SchemeError::TooManySnapshots { n_snapshots: 129, max_snapshots: 128 });
    }
}
