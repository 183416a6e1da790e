//! The papers' equations read plainly: whole vectors in f64, sorted, nothing shared with the program but the mask.
//!
//! The mask is the published SplitMix64, written again.

use thalweg_merge::rule::{PlanRule, Rescale, RuleKind};

/// Numbers that look random, for inputs.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number between -scale and scale.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "24 bits fit an f32")]
    pub(crate) fn next(&mut self, scale: f32) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = mix(self.0) >> 40;
        ((bits as f64 / f64::from(1 << 23) - 1.0) * f64::from(scale)) as f32
    }
}

/// A tensor.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// Length of its rows.
    pub(crate) row: usize,
    pub(crate) values: Vec<f64>,
}

/// An expert and its coefficient.
pub(crate) struct Expert {
    pub(crate) parts: Vec<Part>,
    pub(crate) weight: f64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn key(seed: u64, name: &str, expert: usize) -> u64 {
    let step = 0x9e37_79b9_7f4a_7c15_u64;
    let mut key = mix(seed.wrapping_add(step));
    for value in name.bytes().map(u64::from).chain([256 + expert as u64]) {
        key = mix((key ^ value).wrapping_add(step));
    }
    key
}

fn draw(key: u64, element: usize) -> f64 {
    let bits = mix(key.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(element as u64 + 1))) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
    let value = bits as f64 / 2_f64.powi(53);
    value
}

/// Descending ranks of magnitudes, 0 for the largest.
#[expect(clippy::cast_possible_truncation, reason = "magnitudes are ranked as f32")]
fn ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| (values[j].abs() as f32).total_cmp(&(values[i].abs() as f32)));
    let mut ranks = vec![0; values.len()];
    order.into_iter().enumerate().for_each(|(rank, i)| ranks[i] = rank);
    ranks
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count"
)]
fn share(share: f64, n: usize) -> usize {
    (share * n as f64) as usize
}

/// The merged tensors.
pub(crate) fn merge(rule: &PlanRule, base: &[Part], experts: &[Expert]) -> Vec<(&'static str, Vec<f64>)> {
    let deltas: Vec<Vec<Vec<f64>>> = experts
        .iter()
        .map(|expert| {
            let pairs = expert.parts.iter().zip(base);
            pairs.map(|(x, b)| x.values.iter().zip(&b.values).map(|(x, b)| x - b).collect()).collect()
        })
        .collect();
    let weights: Vec<f64> = experts.iter().map(|expert| expert.weight).collect();
    let of_part = |(p, part): (usize, &Part)| {
        let of_part: Vec<&[f64]> = deltas.iter().map(|delta| delta[p].as_slice()).collect();
        let merged = match rule.kind {
            RuleKind::MultiSlerp => multi_slerp(&of_part, &weights),
            RuleKind::Karcher => karcher(&of_part, &weights),
            RuleKind::ModelStock => model_stock(&of_part),
            RuleKind::Sce => sce(&of_part, rule.densities[0]),
            _ => {
                let kept: Vec<Vec<f64>> = (0..experts.len()).map(|k| select(rule, k, &deltas[k], p, part)).collect();
                consensus(rule, &kept, &weights)
            }
        };
        (part.name, part.values.iter().zip(merged).map(|(b, d)| b + d).collect())
    };
    base.iter().enumerate().map(of_part).collect()
}

/// What a rule keeps of tensor `p` of expert `k`.
#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn select(rule: &PlanRule, k: usize, delta: &[Vec<f64>], p: usize, part: &Part) -> Vec<f64> {
    let values = &delta[p];
    let density = rule.densities[k];
    let n = values.len();
    let keep = |kept: &dyn Fn(usize) -> Option<f64>| (0..n).map(|i| kept(i).map_or(0.0, |by| values[i] / by)).collect();
    match rule.kind {
        RuleKind::Ties => {
            let whole: Vec<f64> = delta.iter().flatten().copied().collect();
            let ranks = ranks(&whole);
            let before: usize = delta[..p].iter().map(Vec::len).sum();
            let n_kept = share(density, whole.len()).max(1);
            keep(&|i| (ranks[before + i] < n_kept).then_some(1.0))
        }
        RuleKind::Dare | RuleKind::DareTies => {
            assert_eq!(rule.rescale, Rescale::Inverse);
            let key = key(rule.seed.unwrap(), part.name, k);
            // The paper divides by 1 - p; the program multiplies by the reciprocal.
            let factor = 1.0 / density;
            (0..n).map(|i| if draw(key, i) < density { values[i] * factor } else { 0.0 }).collect()
        }
        RuleKind::Della | RuleKind::DellaLinear => {
            let key = key(rule.seed.unwrap(), part.name, k);
            let epsilon = rule.epsilon.unwrap();
            let rows: Vec<usize> = values.chunks(part.row).flat_map(ranks).collect();
            keep(&|i| {
                let least_drop = 1.0 - density - epsilon / 2.0;
                let kept = 1.0 - (least_drop + epsilon * rows[i] as f64 / part.row as f64);
                (draw(key, i) < kept).then_some(kept)
            })
        }
        _ => {
            let ranks = ranks(values);
            let n_kept = share(density, n);
            let n_top = share(rule.gamma.unwrap(), n).min(n - n_kept);
            keep(&|i| (n_top..n_top + n_kept).contains(&ranks[i]).then_some(1.0))
        }
    }
}

fn consensus(rule: &PlanRule, kept: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let lambda: f64 = rule.lambda.parse().unwrap();
    let elects = !matches!(rule.kind, RuleKind::Dare | RuleKind::DellaLinear | RuleKind::Breadcrumbs);
    (0..kept[0].len())
        .map(|i| {
            let terms: Vec<f64> = kept.iter().zip(weights).map(|(delta, w)| delta[i] * w).collect();
            let sum: f64 = terms.iter().sum();
            if !elects {
                return sum * lambda;
            }
            let agreeing: Vec<usize> = (0..terms.len())
                .filter(|&k| terms[k] != 0.0 && sum != 0.0 && (terms[k] > 0.0) == (sum > 0.0))
                .collect();
            let total: f64 = agreeing.iter().map(|&k| terms[k]).sum();
            let taken: f64 = agreeing.iter().map(|&k| weights[k]).sum();
            if taken == 0.0 { 0.0 } else { total / taken * lambda }
        })
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn scaled(a: &[f64], by: f64) -> Vec<f64> {
    a.iter().map(|a| a * by).collect()
}

fn sum(vectors: &[Vec<f64>]) -> Vec<f64> {
    (0..vectors[0].len()).map(|i| vectors.iter().map(|vector| vector[i]).sum()).collect()
}

fn unit(a: &[f64]) -> Vec<f64> {
    scaled(a, 1.0 / dot(a, a).sqrt())
}

/// exp_m(v), a point on the unit sphere.
fn exponential(m: &[f64], v: &[f64]) -> Vec<f64> {
    let length = dot(v, v).sqrt();
    if length == 0.0 {
        return m.to_vec();
    }
    sum(&[scaled(m, length.cos()), scaled(v, length.sin() / length)])
}

fn shares(weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    scaled(weights, 1.0 / total)
}

fn multi_slerp(deltas: &[&[f64]], weights: &[f64]) -> Vec<f64> {
    let shares = shares(weights);
    let units: Vec<Vec<f64>> = deltas.iter().map(|d| unit(d)).collect();
    let weighed: Vec<Vec<f64>> = units.iter().zip(&shares).map(|(u, share)| scaled(u, *share)).collect();
    let m = unit(&sum(&weighed));
    let tangents: Vec<Vec<f64>> = units
        .iter()
        .zip(&shares)
        .map(|(u, share)| scaled(&sum(&[u.clone(), scaled(&m, -dot(u, &m))]), *share))
        .collect();
    let radius: f64 = deltas.iter().zip(&shares).map(|(d, share)| dot(d, d).sqrt() * share).sum();
    scaled(&exponential(&m, &sum(&tangents)), radius)
}

fn karcher(deltas: &[&[f64]], weights: &[f64]) -> Vec<f64> {
    let shares = shares(weights);
    let units: Vec<Vec<f64>> = deltas.iter().map(|d| unit(d)).collect();
    let mut m = unit(&sum(&units));
    for _ in 0..500 {
        let logs: Vec<Vec<f64>> = units
            .iter()
            .zip(&shares)
            .map(|(u, share)| {
                let along = dot(u, &m).clamp(-1.0, 1.0);
                let across = sum(&[u.clone(), scaled(&m, -along)]);
                let length = dot(&across, &across).sqrt();
                if length == 0.0 { across } else { scaled(&across, share * along.acos() / length) }
            })
            .collect();
        m = unit(&exponential(&m, &sum(&logs)));
    }
    let radius: f64 = deltas.iter().zip(&shares).map(|(d, share)| dot(d, d).sqrt() * share).sum();
    scaled(&m, radius)
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn model_stock(deltas: &[&[f64]]) -> Vec<f64> {
    let n = deltas.len();
    let mut cosines = Vec::new();
    for i in 0..n {
        for j in 0..i {
            cosines.push(dot(&unit(deltas[i]), &unit(deltas[j])));
        }
    }
    let cosine = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let t = n as f64 * cosine / (1.0 + (n as f64 - 1.0) * cosine);
    let all: Vec<Vec<f64>> = deltas.iter().map(|d| d.to_vec()).collect();
    scaled(&sum(&all), t / n as f64)
}

/// Wan et al. 2024: select by variance, calculate coefficients from squares, erase the minority of signs.
#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn sce(deltas: &[&[f64]], density: f64) -> Vec<f64> {
    let n = deltas.len() as f64;
    let variance = |i: usize| {
        let mean = deltas.iter().map(|delta| delta[i]).sum::<f64>() / n;
        deltas.iter().map(|delta| (delta[i] - mean).powi(2)).sum::<f64>() / n
    };
    let variances: Vec<f64> = (0..deltas[0].len()).map(variance).collect();
    let ranks = ranks(&variances);
    let n_kept = share(density, variances.iter().filter(|variance| **variance > 0.0).count());
    let kept: Vec<Vec<f64>> = deltas
        .iter()
        .map(|delta| (0..delta.len()).map(|i| if ranks[i] < n_kept { delta[i] } else { 0.0 }).collect())
        .collect();
    let squares: Vec<f64> = kept.iter().map(|delta| dot(delta, delta)).collect();
    let whole: f64 = squares.iter().sum();
    let merged = |i: usize| {
        let sign: f64 = kept.iter().map(|delta| delta[i]).sum();
        let agreeing = || kept.iter().zip(&squares).filter(move |(delta, _)| delta[i] * sign > 0.0);
        let total: f64 = agreeing().map(|(delta, square)| delta[i] * (square / whole)).sum();
        let taken: f64 = agreeing().map(|(_, square)| square / whole).sum();
        if taken == 0.0 { 0.0 } else { total / taken }
    };
    (0..deltas[0].len()).map(merged).collect()
}
