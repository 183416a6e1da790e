//! Rules on a sphere, and model stock: coefficients of one tensor from its inner products.
//!
//! Every iterate of these rules is a linear combination of the sources, so it is kept as its coefficients, and its
//! products with the sources follow from their Gram matrix. Tensors are read twice, whatever the number of iterations.

use super::plan::PlanRule;
use super::table::{Convention, RuleKind};
use crate::gram::Gram;

/// What one tensor's sources are multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shares {
    /// Of the experts, in their order.
    pub(crate) experts: Vec<f64>,
    /// Of the base; `None` for what the experts leave of 1.
    pub(crate) base: Option<f64>,
}

/// Vectors of a sphere: their norms, and the inner products of their directions.
struct Sphere {
    norms: Vec<f64>,
    cosines: Vec<Vec<f64>>,
}

/// Directions whose squared sine is below this are opposite if they are not alike: inner products in f64 show no
/// smaller one reliably.
const LEAST_SQUARE: f64 = 1e-9;

/// A sum of directions below this has no direction: inner products in f64 do not show shorter ones.
const LEAST_NORM: f64 = 1e-7;

/// The root of a square; not a number stays what it is.
fn root(square: f64) -> f64 {
    if square < 0.0 { 0.0 } else { square.sqrt() }
}

impl Sphere {
    fn new(n: usize, product: impl Fn(usize, usize) -> f64) -> Self {
        let norms: Vec<f64> = (0..n).map(|i| root(product(i, i))).collect();
        let cosine = |i: usize, j: usize| match norms[i] * norms[j] {
            0.0 => 0.0,
            _ if i == j => 1.0,
            norm => (product(i, j) / norm).clamp(-1.0, 1.0),
        };
        let cosines = (0..n).map(|i| (0..n).map(|j| cosine(i, j)).collect()).collect();
        Self { norms, cosines }
    }

    /// The inner product of direction `i` with the vector that has coefficients `point` over all directions.
    fn dot(&self, i: usize, point: &[f64]) -> f64 {
        self.cosines[i].iter().zip(point).map(|(cosine, p)| cosine * p).sum()
    }

    fn norm(&self, point: &[f64]) -> f64 {
        root(point.iter().enumerate().map(|(i, p)| p * self.dot(i, point)).sum())
    }

    /// Coefficients of the vectors themselves for a point on the sphere of this radius.
    fn on_radius(&self, point: &[f64], radius: f64) -> Vec<f64> {
        point.iter().zip(&self.norms).map(|(p, norm)| if *norm == 0.0 { 0.0 } else { p / norm * radius }).collect()
    }
}

/// The coefficients of one tensor. `gram` is that of the experts, then of the base if there is one, then of zeros where
/// the rule [measures from zero](PlanRule::measures_from_zero); `weights` are the experts'.
pub(crate) fn find_shares(rule: &PlanRule, gram: &Gram, weights: &[f64]) -> Shares {
    let n = weights.len();
    match rule.kind {
        RuleKind::Slerp => slerp(rule.convention, gram, weights[0]),
        RuleKind::ModelStock => model_stock(gram, n),
        kind => {
            let total: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
            // With a base, the origin is the base: the last of the Gram matrix.
            let product = |i, j| if rule.base.is_some() { gram.relative(i, j) } else { gram.inner(i, j) };
            let sphere = Sphere::new(n, product);
            let merged = match kind {
                RuleKind::Karcher => karcher(&sphere, &shares, rule.convention),
                _ => multi_slerp(&sphere, &shares),
            };
            // Directions that cancel have no mean on the sphere: the plain mean is taken.
            Shares { experts: merged.unwrap_or(shares), base: None }
        }
    }
}

/// Shoemake 1985: sin((1-t)a)/sin(a) and sin(ta)/sin(a). Linear where a has no sine, or a vector no direction.
fn slerp(convention: Convention, gram: &Gram, t: f64) -> Shares {
    let norms = root(gram.inner(0, 0)) * root(gram.inner(1, 1));
    let linear = Shares { experts: vec![t], base: Some(1.0 - t) };
    let cosine = match norms {
        0.0 if convention == Convention::Paper => return linear,
        0.0 => 0.0,
        _ => (gram.inner(0, 1) / norms).clamp(-1.0, 1.0),
    };
    let most = match convention {
        Convention::Paper => 1.0 - 1e-12,
        Convention::Mergekit => 0.9995,
    };
    if cosine.abs() > most {
        return linear;
    }
    let angle = cosine.acos();
    Shares { experts: vec![(t * angle).sin() / angle.sin()], base: Some(((1.0 - t) * angle).sin() / angle.sin()) }
}

/// arXiv 2403.19522, eq. 4 for n experts: t = n cos / (1 + (n-1) cos), tensor by tensor.
#[expect(clippy::cast_precision_loss, reason = "a count of experts")]
fn model_stock(gram: &Gram, n: usize) -> Shares {
    let norm = |i: usize| root(gram.relative(i, i));
    let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    let cosine = |(i, j): (usize, usize)| match norm(i) * norm(j) {
        0.0 => 0.0,
        norms => (gram.relative(i, j) / norms).clamp(-1.0, 1.0),
    };
    let count = n as f64;
    let mean = pairs.map(cosine).sum::<f64>() / (count * (count - 1.0) / 2.0);
    let divisor = 1.0 + (count - 1.0) * mean;
    // Opposite deltas have no finite answer: the base stays.
    let t = if divisor.abs() < 1e-6 { 0.0 } else { count * mean / divisor };
    Shares { experts: vec![t / count; n], base: None }
}

/// One step of the weighted mean in the tangent space at the normalised mean direction.
fn multi_slerp(sphere: &Sphere, shares: &[f64]) -> Option<Vec<f64>> {
    let n = shares.len();
    if n == 1 {
        return None;
    }
    let unit = |i: usize| f64::from(u8::from(sphere.norms[i] != 0.0));
    let mut mean: Vec<f64> = (0..n).map(|i| shares[i] * unit(i)).collect();
    let norm = sphere.norm(&mean);
    if norm < LEAST_NORM {
        return None;
    }
    mean.iter_mut().for_each(|m| *m /= norm);
    let dots: Vec<f64> = (0..n).map(|i| sphere.dot(i, &mean)).collect();
    let along: f64 = shares.iter().zip(&dots).map(|(share, dot)| share * dot).sum();
    let tangent: Vec<f64> = (0..n).map(|i| shares[i] * unit(i) - along * mean[i]).collect();
    let length = sphere.norm(&tangent);
    let sine = if length > 0.0 { length.sin() / length } else { 1.0 };
    let point: Vec<f64> = mean.iter().zip(&tangent).map(|(m, v)| m * length.cos() + v * sine).collect();
    let radius = shares.iter().zip(&sphere.norms).map(|(share, norm)| share * norm).sum();
    Some(sphere.on_radius(&point, radius))
}

/// Gradient descent on the sphere from the normalised mean direction, until the step is short.
fn karcher(sphere: &Sphere, shares: &[f64], convention: Convention) -> Option<Vec<f64>> {
    let (max_steps, tolerance) = match convention {
        Convention::Paper => (100, 1e-12),
        Convention::Mergekit => (10, 1e-5),
    };
    let n = shares.len();
    if n == 1 {
        return None;
    }
    // What has no direction counts for the radius only.
    let least = if convention == Convention::Paper { 0.0 } else { tolerance };
    let has_direction: Vec<bool> = sphere.norms.iter().map(|norm| norm.is_nan() || *norm > least).collect();
    let total: f64 = (0..n).filter(|&i| has_direction[i]).map(|i| shares[i]).sum();
    let first = has_direction.iter().position(|has| *has)?;
    if total == 0.0 {
        return None;
    }
    let weight = |i: usize| if has_direction[i] { shares[i] / total } else { 0.0 };
    let mut mean: Vec<f64> = (0..n).map(weight).collect();
    let norm = sphere.norm(&mean);
    if norm < LEAST_NORM {
        mean = (0..n).map(|i| f64::from(u8::from(i == first))).collect();
    } else {
        mean.iter_mut().for_each(|m| *m /= norm);
    }
    for _ in 0..max_steps {
        let tangent = step_towards(sphere, &mean, &weight, tolerance);
        let length = sphere.norm(&tangent);
        if length < tolerance {
            break;
        }
        mean.iter_mut().zip(&tangent).for_each(|(m, v)| *m = length.cos() * *m + length.sin() / length * v);
        let norm = sphere.norm(&mean);
        mean.iter_mut().for_each(|m| *m /= norm);
    }
    let radius = shares.iter().zip(&sphere.norms).map(|(share, norm)| share * norm).sum();
    Some(sphere.on_radius(&mean, radius))
}

/// The weighted sum of the logarithms of all directions at `mean`.
fn step_towards(sphere: &Sphere, mean: &[f64], weight: &dyn Fn(usize) -> f64, tolerance: f64) -> Vec<f64> {
    let mut tangent = vec![0.0; mean.len()];
    for i in 0..mean.len() {
        let dot = sphere.dot(i, mean).clamp(-1.0, 1.0);
        let angle = dot.acos();
        // The opposite of the mean lies in every direction alike: it pulls in none.
        let is_opposite = dot < 0.0 && 1.0 - dot * dot < LEAST_SQUARE;
        if weight(i) == 0.0 || angle < tolerance || is_opposite {
            continue;
        }
        let factor = weight(i) * angle / angle.sin();
        tangent.iter_mut().zip(mean).for_each(|(v, m)| *v -= factor * dot * m);
        tangent[i] += factor;
    }
    tangent
}
