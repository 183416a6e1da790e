//! A rule as a plan carries it, and what makes one sound.

use std::str::FromStr;

use num_rational::BigRational;
use num_traits::{One, Zero};
use serde::{Deserialize, Serialize};
use thalweg_tensor::kernel::Election;
use thalweg_tensor::{counted, nearest_name};

use super::table::{Convention, Family, RULES, Rescale, RuleEntry, RuleKind, Sparsity};
use crate::Coefficients;
use crate::rational::{NumberError, Ratio};
use crate::scheme::SchemeError;

/// Sums of coefficients below this are not divided by, as in mergekit.
const SMALL_SUM: f64 = 1e-8;

/// The rule of an output, complete. The experts are the sources other than the base, with their coefficients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRule {
    /// Which rule.
    pub kind: RuleKind,
    /// Whose definition is followed where they differ.
    #[serde(default)]
    pub convention: Convention,
    /// Position of the base in the output's sources; its coefficient there is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<usize>,
    /// What the merged delta is multiplied by, an exact number.
    #[serde(default = "one")]
    pub lambda: String,
    /// Share of each expert's elements that are kept, in the order of the experts; empty for rules without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub densities: Vec<f64>,
    /// Breadcrumbs: share of the largest elements that are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// DELLA: range of the probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// DARE and DELLA: what the mask is drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether the sum is divided by the sum of the coefficients that took part.
    pub divide: bool,
    /// How kept elements make up for dropped ones.
    pub rescale: Rescale,
}

fn one() -> String {
    "1".to_owned()
}

/// Why a rule cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// There is no rule of this name.
    #[error("there is no rule `{text}`")]
    UnknownRule {
        /// What was given.
        text: String,
        /// A name that is close.
        nearest: Option<&'static str>,
    },
    /// A number outside of what it may be.
    #[error("{what} of `{kind}` must be {expected}, but it is {found}")]
    OutOfRange {
        /// The rule.
        kind: RuleKind,
        /// Which number.
        what: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A parameter that the rule does not have, or one that it lacks.
    #[error("`{kind}` {what}")]
    Parameters {
        /// The rule.
        kind: RuleKind,
        /// What is wrong.
        what: String,
    },
}

impl FromStr for RuleKind {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let is_named = |entry: &&RuleEntry| entry.name == text || entry.aliases.contains(&text);
        RULES.iter().find(is_named).map(|entry| entry.kind).ok_or_else(|| RuleError::UnknownRule {
            text: text.chars().take(40).flat_map(char::escape_default).collect(),
            nearest: nearest_name(text, RULES.iter().map(|entry| entry.name)),
        })
    }
}

impl RuleError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownRule { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownRule { .. } => {
                let names: Vec<&str> = RULES.iter().map(|entry| entry.name).collect();
                Some(format!("the rules are {}", names.join(", ")))
            }
            _ => None,
        }
    }
}

/// Coefficients and lambda are multiplied and divided in doubles, where others would become 0 or infinite.
const WORKABLE: std::ops::RangeInclusive<f64> = 1e-100..=1e100;
const WORKABLE_TEXT: &str = "0, or between 1e-100 and 1e100 without its sign";

/// A number as a plan has it, cut where it is very long.
fn shown(number: &str) -> String {
    const MAX_CHARS: usize = 40;
    let cut = if number.len() > MAX_CHARS { "..." } else { "" };
    number.chars().take(MAX_CHARS).chain(cut.chars()).collect()
}

fn is_workable(number: &Ratio) -> bool {
    number.is_zero() || WORKABLE.contains(&number.to_f64().abs())
}

impl PlanRule {
    /// A rule with its defaults in a convention: density 0.5 for each of `n_experts`, gamma 0.01, epsilon 0.1, seed 0.
    ///
    /// The base, if there is one, is the first source.
    pub fn new(kind: RuleKind, convention: Convention, base: Option<usize>, n_experts: usize) -> Self {
        let epsilon = match convention {
            Convention::Paper => 0.1,
            Convention::Mergekit => 0.15,
        };
        Self {
            kind,
            convention,
            base,
            lambda: one(),
            densities: if kind.has_density() { vec![0.5; n_experts] } else { Vec::new() },
            gamma: kind.has_gamma().then_some(0.01),
            epsilon: kind.has_epsilon().then_some(epsilon),
            seed: kind.has_seed().then_some(0),
            divide: kind.divides(convention),
            rescale: kind.rescale(convention),
        }
    }

    /// Positions of the experts among `n_sources` sources.
    pub(crate) fn experts(&self, n_sources: usize) -> impl Iterator<Item = usize> + use<> {
        let base = self.base;
        (0..n_sources).filter(move |&i| Some(i) != base)
    }

    /// Whether the vectors of a rule on a sphere begin at zero, and not at the base.
    pub(crate) fn measures_from_zero(&self) -> bool {
        self.kind == RuleKind::Slerp || self.base.is_none()
    }

    /// lambda as an exact number.
    fn exact_lambda(&self) -> Result<Ratio, RuleError> {
        self.lambda.parse().map_err(|_: NumberError| {
            self.out_of_range("lambda", "a decimal number or a fraction", shown(&self.lambda))
        })
    }

    pub(crate) fn lambda_f64(&self) -> f64 {
        self.exact_lambda().map_or(1.0, |lambda| lambda.to_f64())
    }

    fn out_of_range(&self, what: &'static str, expected: &'static str, found: String) -> RuleError {
        RuleError::OutOfRange { kind: self.kind, what, expected, found }
    }

    fn parameters(&self, what: impl Into<String>) -> RuleError {
        RuleError::Parameters { kind: self.kind, what: what.into() }
    }

    /// Checks the rule against its sources' coefficients.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, coefficients: &Coefficients) -> Result<(), RuleError> {
        let n_sources = coefficients.n_checkpoints();
        match self.base {
            Some(base) if base >= n_sources => return Err(self.parameters("names a base that is not a source")),
            Some(base) if !coefficients.numerators()[base].is_zero() => {
                return Err(self.parameters("has a base with a coefficient: only experts have one"));
            }
            None if !self.kind.works_without_base() => return Err(self.parameters("needs a base")),
            _ => {}
        }
        let n_experts = self.experts(n_sources).count();
        let (least, most) = self.kind.n_experts();
        if n_experts < least || n_experts > most {
            let wanted = if most == least { counted(least, "expert") } else { format!("{least} or more experts") };
            return Err(self.parameters(format!("merges {wanted} with the base, not {n_experts}")));
        }
        if let Some(weight) = coefficients.ratios().find(|weight| !is_workable(weight)) {
            return Err(self.out_of_range("a coefficient", WORKABLE_TEXT, shown(&weight.to_string())));
        }
        self.check_parameters(n_experts)?;
        if matches!(self.kind, RuleKind::MultiSlerp | RuleKind::Karcher) && coefficients.sum().is_zero() {
            return Err(self.parameters("divides by the sum of the coefficients, which is 0"));
        }
        let is_share = |t: &Ratio| !t.is_negative() && t.to_f64() <= 1.0;
        if self.kind == RuleKind::Slerp && !coefficients.ratios().all(|t| is_share(&t)) {
            return Err(self.out_of_range("the coefficient", "between 0 and 1", coefficients.sum().to_string()));
        }
        let is_alike = |n: &num_bigint::BigInt| *n == coefficients.numerators()[self.first_expert()];
        if !self.kind.has_coefficients() && !self.experts(n_sources).all(|i| is_alike(&coefficients.numerators()[i])) {
            return Err(self.parameters("weights all experts equally, but they have different coefficients"));
        }
        Ok(())
    }

    fn first_expert(&self) -> usize {
        usize::from(self.base == Some(0))
    }

    fn check_parameters(&self, n_experts: usize) -> Result<(), RuleError> {
        let wanted = if self.kind.has_density() { n_experts } else { 0 };
        if wanted == 0 && !self.densities.is_empty() {
            return Err(self.parameters("has no density"));
        }
        if self.densities.len() != wanted {
            let given = counted(self.densities.len(), "density");
            return Err(
                self.parameters(format!("needs {}, one for each expert, not {given}", counted(wanted, "density")))
            );
        }
        for density in &self.densities {
            if !(0.0..=1.0).contains(density) {
                return Err(self.out_of_range("the density", "between 0 and 1", density.to_string()));
            }
        }
        let is_first = |density: &f64| self.densities.first().is_some_and(|first| first.total_cmp(density).is_eq());
        if self.kind == RuleKind::Sce && !self.densities.iter().all(is_first) {
            return Err(self.parameters("has one density for all experts"));
        }
        let has = [
            ("gamma", self.gamma.is_some(), self.kind.has_gamma()),
            ("epsilon", self.epsilon.is_some(), self.kind.has_epsilon()),
            ("seed", self.seed.is_some(), self.kind.has_seed()),
            ("lambda", self.lambda != "1", self.kind.has_lambda()),
            ("rescaling", self.rescale != Rescale::None, self.kind.has_density()),
            ("division", self.divide, self.kind.has_lambda()),
        ];
        for (name, is_given, is_known) in has {
            if is_given && !is_known {
                return Err(self.parameters(format!("has no {name}")));
            }
            if !is_given && is_known && matches!(name, "gamma" | "epsilon" | "seed") {
                return Err(self.parameters(format!("needs {name}")));
            }
        }
        if !is_workable(&self.exact_lambda()?) {
            return Err(self.out_of_range("lambda", WORKABLE_TEXT, shown(&self.lambda)));
        }
        if let Some(gamma) = self.gamma.filter(|gamma| !(0.0..=1.0).contains(gamma)) {
            return Err(self.out_of_range("gamma", "between 0 and 1", gamma.to_string()));
        }
        if self.rescale == Rescale::Inverse && !self.kind.has_seed() {
            return Err(self.parameters("does not drop elements at random, so there is no probability to divide by"));
        }
        self.epsilon.map_or(Ok(()), |epsilon| self.check_epsilon(epsilon))
    }

    /// Every probability must lie between 0 and 1.
    fn check_epsilon(&self, epsilon: f64) -> Result<(), RuleError> {
        let reach = self.reach(epsilon);
        let inside = || self.densities.iter().copied().filter(|&density| density > 0.0 && density < 1.0);
        if epsilon >= 0.0 && inside().all(|density| density - reach > 0.0 && density + reach < 1.0) {
            return Ok(());
        }
        let room = |density: f64| density.min(1.0 - density);
        let limit = inside().min_by(|a, b| room(*a).total_cmp(&room(*b))).map_or_else(String::new, |density| {
            format!(" and below {:.4} at density {density}", room(density) / self.reach(1.0))
        });
        Err(self.parameters(format!("needs an epsilon of at least 0{limit}, not {epsilon}")))
    }

    /// How far probabilities are from the density, at most.
    pub(crate) fn reach(&self, epsilon: f64) -> f64 {
        match self.convention {
            Convention::Paper => epsilon / 2.0,
            Convention::Mergekit => epsilon,
        }
    }

    /// The coefficients of all sources, base included, where they do not depend on values; `None` for other rules.
    ///
    /// # Errors
    /// `DivisorTooLarge` for coefficients that have too little in common.
    pub(crate) fn affine_coefficients(&self, weights: &Coefficients) -> Result<Option<Coefficients>, SchemeError> {
        let Family::Delta { election: Election::None, sparsity } = self.kind.family() else { return Ok(None) };
        let keeps_all = sparsity == Sparsity::None || self.densities.iter().all(|&density| density >= 1.0);
        let (Some(base), true) = (self.base, keeps_all) else { return Ok(None) };
        let exact = |ratio: &Ratio| BigRational::new(ratio.numerator().clone(), ratio.denominator().clone());
        let sum = exact(&weights.sum());
        let is_small = weights.sum().to_f64().abs() < SMALL_SUM;
        let divisor = if self.divide && !is_small { sum.clone() } else { BigRational::one() };
        let lambda = self.exact_lambda().map_or_else(|_| BigRational::one(), |lambda| exact(&lambda));
        let rest = BigRational::one() - &lambda * &sum / &divisor;
        let mut shares: Vec<Ratio> =
            weights.ratios().map(|weight| Ratio::from(exact(&weight) * &lambda / &divisor)).collect();
        shares[base] = Ratio::from(rest);
        Coefficients::from_ratios(&shares).map(Some)
    }

    /// The name that a plan's scheme has, with what matters most.
    pub fn scheme_name(&self) -> String {
        let mut name = self.kind.to_string();
        if let [first, rest @ ..] = &*self.densities {
            let is_one = rest.iter().all(|density| density.total_cmp(first).is_eq());
            name.push_str(&if is_one { format!(":{first}") } else { ":various".to_owned() });
        }
        if self.convention == Convention::Mergekit {
            name.push_str(" (mergekit)");
        }
        name
    }
}
