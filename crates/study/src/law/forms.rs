//! The forms that compete: what the loss could be as a function of k, and how well each fits.

use serde::Serialize;

use crate::least_squares::{Observed, explained, minimize};

/// The range of b.
pub(super) const B_RANGE: [f64; 2] = [-0.5, 30.0];
/// Nearer to an end of its range than this share of it, a parameter is at the end.
const AT_END: f64 = 1e-4;
/// Points of the grid in which the parameter is searched first.
const N_GRID: usize = 61;
/// The least residual that counts, relative to the spread: below it are rounding errors.
const ROUNDING: f64 = 1e-28;

/// Mean losses by k, ascending.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Levels {
    /// Models merged.
    pub(super) k: Vec<f64>,
    /// Mean loss of the merges of this many models.
    pub(super) losses: Vec<f64>,
}

/// What the loss is as a function of k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// L + A / (k + b), b on (-1/2, 30).
    #[default]
    Reciprocal,
    /// L + A / k: what theory gives for independent experts.
    Inverse,
    /// L + A k^-p.
    Power,
    /// L + A exp(-k / q).
    Exponential,
    /// L + A / (k + b) + D (k - 1): for checkpoints of one run, whose mean trails further behind the more there are.
    Drift,
}

/// A form with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fitted {
    pub(super) form: Form,
    /// L, A, and D of a drift.
    pub(super) linear: Vec<f64>,
    /// b, p or q.
    pub(super) shape: Option<f64>,
    /// Weighted sum of squared residuals.
    pub(super) rss: f64,
    /// Share of the variance of the mean losses that is explained, all of them alike.
    pub(super) r2: f64,
    /// The end of its range that the shape is at.
    pub(super) at_bound: Option<f64>,
}

/// A form as it is reported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FormRow {
    /// Which one.
    pub form: Form,
    /// As a formula.
    pub formula: &'static str,
    /// The floor: what infinitely many would score.
    pub l_inf: f64,
    /// The amplitude.
    pub a: f64,
    /// b, p or q by the name that the formula has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<f64>,
    /// The exponent of a power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// The scale of an exponential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<f64>,
    /// The drift for each further checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub d: Option<f64>,
    /// Parameters that were fitted.
    pub n_parameters: usize,
    /// Weighted sum of squared residuals.
    pub rss: f64,
    /// Share of the variance explained.
    pub r2: f64,
    /// Akaike's criterion, corrected for few points; nothing where there are too few.
    pub aicc: Option<f64>,
    /// AICc above that of the best form.
    pub delta_aicc: Option<f64>,
    /// The end of its range that b, p or q is at.
    pub at_bound: Option<f64>,
    /// What it predicts, for each k that was asked.
    pub predictions: Vec<f64>,
    /// What it gives along the law's [`curve`](super::MergeLaw::curve).
    pub curve: Vec<f64>,
}

/// The range in which a shape is searched, and the shape that a place in it means.
type Search = ([f64; 2], fn(f64) -> f64);

impl Form {
    /// As a formula.
    pub fn formula(self) -> &'static str {
        match self {
            Self::Reciprocal => "L + A/(k + b)",
            Self::Inverse => "L + A/k",
            Self::Power => "L + A k^-p",
            Self::Exponential => "L + A exp(-k/q)",
            Self::Drift => "L + A/(k + b) + D (k - 1)",
        }
    }

    /// Parameters, without the variance of the residuals.
    pub(super) fn n_parameters(self) -> usize {
        match self {
            Self::Inverse => 2,
            Self::Reciprocal | Self::Power | Self::Exponential => 3,
            Self::Drift => 4,
        }
    }

    /// The range of the shape as it is searched, and what a place in it means.
    fn search(self) -> Option<Search> {
        match self {
            Self::Inverse => None,
            // Where b matters most, near the least k, places lie closer.
            Self::Reciprocal | Self::Drift => {
                Some(([0.5_f64.ln(), 31.0_f64.ln()], |place| (place.exp() - 1.0).clamp(B_RANGE[0], B_RANGE[1])))
            }
            Self::Power => Some(([0.01_f64.ln(), 10.0_f64.ln()], f64::exp)),
            Self::Exponential => Some(([0.1_f64.ln(), 1000.0_f64.ln()], f64::exp)),
        }
    }

    fn column(self, shape: f64, k: f64) -> f64 {
        match self {
            Self::Inverse => 1.0 / k,
            Self::Reciprocal | Self::Drift => 1.0 / (k + shape),
            Self::Power => k.powf(-shape),
            Self::Exponential => (-k / shape).exp(),
        }
    }

    fn columns(self, shape: f64, k: &[f64]) -> Vec<Vec<f64>> {
        let mut columns = vec![k.iter().map(|k| self.column(shape, *k)).collect()];
        if self == Self::Drift {
            columns.push(k.iter().map(|k| k - 1.0).collect());
        }
        columns
    }

    /// Fits the form with weights in proportion to k, as Wang et al. do; `None` where the levels do not determine it.
    pub(super) fn fit(self, levels: &Levels) -> Option<Fitted> {
        if levels.k.len() < self.n_parameters() {
            return None;
        }
        let observed = Observed { values: &levels.losses, weights: &levels.k };
        let linear = |shape: f64| observed.fit(&self.columns(shape, &levels.k));
        let (shape, at_bound) = match self.search() {
            None => (0.0, None),
            Some((range, meaning)) => {
                let cost = |place: f64| linear(meaning(place)).map_or(f64::INFINITY, |fit| fit.rss);
                let place = minimize(range, N_GRID, cost)?;
                let slack = AT_END * (range[1] - range[0]);
                let end = range.into_iter().find(|end| (end - place).abs() <= slack);
                (meaning(place), end.map(meaning))
            }
        };
        let fit = linear(shape)?;
        let mut fitted = Fitted {
            form: self,
            linear: fit.coefficients,
            shape: (self != Self::Inverse).then_some(shape),
            rss: fit.rss,
            r2: 0.0,
            at_bound,
        };
        fitted.r2 = explained(&levels.losses, levels.k.iter().map(|k| fitted.predict(*k)));
        Some(fitted)
    }
}

impl Fitted {
    pub(super) fn l_inf(&self) -> f64 {
        self.linear[0]
    }

    pub(super) fn a(&self) -> f64 {
        self.linear[1]
    }

    pub(super) fn b(&self) -> f64 {
        self.shape.unwrap_or(0.0)
    }

    pub(super) fn d(&self) -> Option<f64> {
        self.linear.get(2).copied()
    }

    /// The loss at k.
    pub(super) fn predict(&self, k: f64) -> f64 {
        let drift = self.d().map_or(0.0, |d| d * (k - 1.0));
        self.linear[0] + self.linear[1] * self.form.column(self.b(), k) + drift
    }

    /// Akaike's criterion with the correction of Hurvich and Tsai 1989; the variance counts as a parameter.
    pub(super) fn aicc(&self, levels: &Levels) -> Option<f64> {
        let n = levels.k.len();
        let p = self.form.n_parameters() + 1;
        let spread = Observed { values: &levels.losses, weights: &levels.k }.spread();
        if n <= p + 1 || spread <= 0.0 {
            return None;
        }
        let (n, p) = (n as f64, p as f64);
        let rss = self.rss.max(ROUNDING * spread);
        Some(n * (rss / n).ln() + 2.0 * p + 2.0 * p * (p + 1.0) / (n - p - 1.0))
    }

    pub(super) fn row(&self, levels: &Levels, predict: &[u32], along: &[f64]) -> FormRow {
        let shape_of = |forms: &[Form]| self.shape.filter(|_| forms.contains(&self.form));
        FormRow {
            form: self.form,
            formula: self.form.formula(),
            l_inf: self.l_inf(),
            a: self.a(),
            b: shape_of(&[Form::Reciprocal, Form::Drift]),
            p: shape_of(&[Form::Power]),
            q: shape_of(&[Form::Exponential]),
            d: self.d(),
            n_parameters: self.form.n_parameters(),
            rss: self.rss,
            r2: self.r2,
            aicc: self.aicc(levels),
            delta_aicc: None,
            at_bound: self.at_bound,
            predictions: predict.iter().map(|k| self.predict(f64::from(*k))).collect(),
            curve: along.iter().map(|k| self.predict(*k)).collect(),
        }
    }
}

/// Fits the forms that compete and ranks them by AICc; they are evaluated at `predict` and `along` the law's curve.
pub(super) fn compete(forms: &[Form], levels: &Levels, predict: &[u32], along: &[f64]) -> Vec<FormRow> {
    let fits = forms.iter().filter_map(|form| form.fit(levels));
    let mut rows: Vec<FormRow> = fits.map(|fit| fit.row(levels, predict, along)).collect();
    let least = rows.iter().filter_map(|row| row.aicc).min_by(f64::total_cmp);
    for row in &mut rows {
        row.delta_aicc = row.aicc.zip(least).map(|(aicc, least)| aicc - least);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(k: &[f64], loss: impl Fn(f64) -> f64) -> Levels {
        Levels { k: k.to_vec(), losses: k.iter().map(|k| loss(*k)).collect() }
    }

    const K: [f64; 8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];

    fn check_recovered(form: Form, shape: f64, loss: impl Fn(f64) -> f64) {
        let fit = form.fit(&levels(&K, loss)).unwrap();
        assert!((fit.l_inf() - 2.0).abs() < 1e-6 && (fit.a() - 0.4).abs() < 1e-5, "{fit:?}");
        assert!((fit.b() - shape).abs() < 1e-5 * shape.abs().max(1.0), "{fit:?}");
        assert!(fit.r2 > 1.0 - 1e-12 && fit.at_bound.is_none(), "{fit:?}");
    }

    #[test]
    fn planted_parameters_are_recovered_by_each_form() {
        for b in [-0.3, 0.0, 0.7, 5.2, 22.0] {
            check_recovered(Form::Reciprocal, b, |k| 2.0 + 0.4 / (k + b));
        }
        check_recovered(Form::Power, 0.6, |k| 2.0 + 0.4 * k.powf(-0.6));
        check_recovered(Form::Exponential, 3.0, |k| 2.0 + 0.4 * (-k / 3.0).exp());
        check_recovered(Form::Inverse, 0.0, |k| 2.0 + 0.4 / k);
        let drift = |k: f64| 2.0 + 0.4 / (k + 0.5) + 0.01 * (k - 1.0);
        check_recovered(Form::Drift, 0.5, drift);
        assert!((Form::Drift.fit(&levels(&K, drift)).unwrap().d().unwrap() - 0.01).abs() < 1e-7);
    }

    #[test]
    fn the_form_that_made_the_losses_has_the_least_aicc() {
        let noise = |k: f64| 1e-4 * (7.0 * k).sin();
        let all = [Form::Reciprocal, Form::Inverse, Form::Power, Form::Exponential];
        let best = |loss: &dyn Fn(f64) -> f64| {
            let rows = compete(&all, &levels(&K, |k| loss(k) + noise(k)), &[], &[]);
            rows.into_iter().find(|row| row.delta_aicc == Some(0.0)).unwrap().form
        };
        assert_eq!(best(&|k| 2.0 + 0.4 / (k + 3.0)), Form::Reciprocal);
        assert_eq!(best(&|k| 2.0 + 0.4 / k), Form::Inverse);
        assert_eq!(best(&|k| 2.0 + 0.4 * (-k / 3.0).exp()), Form::Exponential);
        assert_eq!(best(&|k| 2.0 + 0.4 * k.powf(-0.3)), Form::Power);
    }

    #[test]
    fn aicc_is_its_formula_and_needs_points() {
        let levels = levels(&K, |k| 2.0 + 0.4 / k + if (k - 2.0).abs() < 0.5 { 0.1 } else { 0.0 });
        let fit = Form::Inverse.fit(&levels).unwrap();
        // Two parameters and the variance: p = 3, n = 8.
        let expected = 8.0 * (fit.rss / 8.0).ln() + 6.0 + 24.0 / 4.0;
        assert!((fit.aicc(&levels).unwrap() - expected).abs() < 1e-12);
        let few = Levels { k: K[..4].to_vec(), losses: levels.losses[..4].to_vec() };
        assert_eq!(Form::Inverse.fit(&few).unwrap().aicc(&few), None);
        assert_eq!(Form::Drift.fit(&Levels { k: K[..3].to_vec(), losses: levels.losses[..3].to_vec() }), None);
    }

    #[test]
    fn a_line_puts_b_at_its_bound() {
        let fit = Form::Reciprocal.fit(&levels(&K, |k| 3.0 - 0.1 * k)).unwrap();
        assert_eq!(fit.at_bound, Some(30.0));
        let fit = Form::Reciprocal.fit(&levels(&K, |k| if k < 1.5 { 3.0 } else { 2.0 })).unwrap();
        assert_eq!(fit.at_bound, Some(-0.5));
    }
}
