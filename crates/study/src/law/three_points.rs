//! The law through three points, in closed form.

use serde::Serialize;

use super::forms::B_RANGE;

/// L + A / (k + b) through three points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ThreePointLaw {
    /// The floor.
    pub l_inf: f64,
    /// The amplitude.
    pub a: f64,
    /// The offset.
    pub b: f64,
}

/// What three points predict for the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThreePointRow {
    /// The three numbers of models.
    pub k: [u32; 3],
    /// (L1 - L2) / (L2 - L3).
    pub r: f64,
    /// The values of r for which b is on its range.
    pub r_domain: [f64; 2],
    /// The law; nothing outside the domain.
    pub law: Option<ThreePointLaw>,
    /// Why there is none.
    pub reason: Option<String>,
    /// Further k that were measured or asked for.
    pub predictions: Vec<ThreePointPrediction>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ThreePointPrediction {
    /// Models.
    pub k: u32,
    /// The prediction.
    pub loss: f64,
    /// What was measured, if it was.
    pub measured: Option<f64>,
    /// Prediction minus measurement.
    pub error: Option<f64>,
}

impl ThreePointLaw {
    /// The loss at k.
    pub fn predict(&self, k: f64) -> f64 {
        self.l_inf + self.a / (k + self.b)
    }
}

/// r = (L1 - L2)/(L2 - L3), and the values of it for which b is between -1/2 and 30.
///
/// b = ((k2-k1) k3 - r (k3-k2) k1) / (r (k3-k2) - (k2-k1)) falls with r, so the domain is an interval; for 1, 2, 4 it
/// is 34/62 < r < 7/2.
pub(super) fn ratio_and_domain([k1, k2, k3]: [f64; 3], [l1, l2, l3]: [f64; 3]) -> (f64, [f64; 2]) {
    let at = |b: f64| (k2 - k1) * (k3 + b) / ((k3 - k2) * (k1 + b));
    ((l1 - l2) / (l2 - l3), [at(B_RANGE[1]), at(B_RANGE[0])])
}

/// The law through three points with k1 < k2 < k3; `None` where no law with b between -1/2 and 30 goes through them.
///
/// # Example
/// ```
/// use thalweg_study::law::three_point_law;
///
/// let law = three_point_law([1.0, 2.0, 4.0], [3.0, 2.5, 2.25]).unwrap();
/// assert_eq!((law.l_inf, law.a, law.b), (2.0, 1.0, 0.0));
/// assert_eq!(three_point_law([1.0, 2.0, 4.0], [3.0, 2.5, 2.75]), None);
/// ```
pub fn three_point_law(k: [f64; 3], losses: [f64; 3]) -> Option<ThreePointLaw> {
    let (r, [low, high]) = ratio_and_domain(k, losses);
    let ([k1, k2, k3], [l1, l2, _]) = (k, losses);
    if !(r > low && r < high) || l1 <= l2 {
        return None;
    }
    let b = ((k2 - k1) * k3 - r * (k3 - k2) * k1) / (r * (k3 - k2) - (k2 - k1));
    let a = (l1 - l2) * (k1 + b) * (k2 + b) / (k2 - k1);
    Some(ThreePointLaw { l_inf: l1 - a / (k1 + b), a, b })
}

/// Three points with their predictions of the others; `predict` is asked for, `known` was measured.
pub(super) fn three_point_row(k: [u32; 3], known: &[(u32, f64)], predict: &[u32]) -> Option<ThreePointRow> {
    let loss = |k: u32| known.iter().find(|(known, _)| *known == k).map(|(_, loss)| *loss);
    let losses = [loss(k[0])?, loss(k[1])?, loss(k[2])?];
    let places = k.map(f64::from);
    let (r, r_domain) = ratio_and_domain(places, losses);
    let law = three_point_law(places, losses);
    let others = known.iter().map(|(k, _)| *k).chain(predict.iter().copied()).filter(|other| !k.contains(other));
    let mut others: Vec<u32> = others.collect();
    others.sort_unstable();
    others.dedup();
    let prediction = |law: &ThreePointLaw, k: u32| {
        let (predicted, measured) = (law.predict(f64::from(k)), loss(k));
        ThreePointPrediction { k, loss: predicted, measured, error: measured.map(|measured| predicted - measured) }
    };
    let predictions = law.iter().flat_map(|law| others.iter().map(|k| prediction(law, *k))).collect();
    let reason = law.is_none().then(|| refusal(k, losses, r, r_domain));
    Some(ThreePointRow { k, r, r_domain, law, reason, predictions })
}

fn refusal(k: [u32; 3], [l1, l2, l3]: [f64; 3], r: f64, [low, high]: [f64; 2]) -> String {
    let [k1, k2, k3] = k;
    if l1 <= l2 || l2 <= l3 {
        return format!("the losses at k = {k1}, {k2}, {k3} do not fall ({l1:.4}, {l2:.4}, {l3:.4})");
    }
    let what = if r <= low { "they fall too evenly to have a floor" } else { "they fall too fast at first" };
    format!("no law goes through k = {k1}, {k2}, {k3}: {what} (r = {r:.3}, outside {low:.3} to {high:.3})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_laws_are_recovered_from_any_three_points() {
        for b in [-0.4, 0.0, 1.0, 5.2, 25.0] {
            for k in [[1.0, 2.0, 4.0], [2.0, 4.0, 8.0], [1.0, 3.0, 4.0], [3.0, 4.0, 20.0]] {
                let law = three_point_law(k, k.map(|k| 1.5 + 0.7 / (k + b))).unwrap();
                assert!((law.b - b).abs() < 1e-7 * (1.0 + b.abs()), "{k:?} {b} {law:?}");
                assert!((law.l_inf - 1.5).abs() < 1e-8 && (law.predict(50.0) - (1.5 + 0.7 / (50.0 + b))).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn for_one_two_four_the_offset_is_its_short_form() {
        // b = (4 - 2r) / (2r - 1), and the ends of the domain: b = 30 at 34/62, b = -1/2 at 7/2.
        for r in [0.6, 1.0, 2.0, 2.18, 3.4] {
            let law = three_point_law([1.0, 2.0, 4.0], [1.0 + r, 1.0, 0.0]).unwrap();
            assert!((law.b - (4.0 - 2.0 * r) / (2.0 * r - 1.0)).abs() < 1e-12);
        }
        let (_, [low, high]) = ratio_and_domain([1.0, 2.0, 4.0], [3.0, 2.0, 1.0]);
        assert!((low - 34.0 / 62.0).abs() < 1e-15 && (high - 3.5).abs() < 1e-15);
        for r in [0.5, 0.54, 3.51, 100.0] {
            assert_eq!(three_point_law([1.0, 2.0, 4.0], [1.0 + r, 1.0, 0.0]), None, "{r}");
        }
    }

    #[test]
    fn losses_without_a_law_are_refused_with_the_reason() {
        let row =
            |losses: [f64; 3]| three_point_row([1, 2, 4], &[(1, losses[0]), (2, losses[1]), (4, losses[2])], &[8]);
        let reason = |losses| row(losses).unwrap().reason.unwrap();
        assert!(reason([2.0, 2.1, 1.9]).contains("do not fall"));
        assert!(reason([2.0, 1.9, 1.95]).contains("do not fall"));
        assert!(reason([2.0, 1.9, 1.7]).contains("too evenly to have a floor"));
        assert!(reason([2.0, 1.0, 0.99]).contains("too fast at first"));
        let good = row([3.0, 2.5, 2.25]).unwrap();
        assert_eq!((good.predictions[0].k, good.predictions[0].loss, good.reason), (8, 2.125, None));
    }
}
