//! Schemes: the rules that turn a window of N checkpoints into N coefficients.
//!
//! Each is a function from the number of checkpoints (or their positions) and its parameters to exact
//! [`Coefficients`], in a separate file with its equation and source; [`SCHEMES`] lists them. Rational schemes are
//! exact. Irrational ones yield the double nearest to each real coefficient, and these doubles are then the exact
//! coefficients, over their exact sum. Nothing here reads a checkpoint.

mod custom;
mod decay;
mod ema;
mod error;
mod order;
mod power_ema;
mod real;
mod sma;
mod wma;

use std::fmt;

pub use custom::{SumRule, custom_coefficients};
pub use decay::{DecayCurve, decay_coefficients, decay_grid, even_decay_grid};
pub use ema::{ema_coefficients, ema_normalised_coefficients};
pub use error::SchemeError;
pub use order::CoefficientOrder;
pub use power_ema::{PowerSnapshot, power_ema_coefficients, power_ema_exponent, reconstruct_from_averages};
pub use sma::sma_coefficients;
pub use wma::wma_coefficients;

use crate::{Coefficients, Ratio};
use thalweg_tensor::nearest_name;

/// A parameter of a scheme, named as the option is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemeParameter {
    /// Share of the newest checkpoint.
    Alpha,
    /// Share of the peak learning rate at which a decay ends.
    Floor,
    /// Relative width of a power profile.
    SigmaRel,
    /// Coefficients given by hand.
    Coefficients,
    /// Division of hand-given coefficients by their sum.
    Normalize,
    /// Permission for hand-given coefficients to sum to something other than 1.
    AllowSum,
}

impl SchemeParameter {
    /// The option's name, without dashes in front.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Floor => "floor",
            Self::SigmaRel => "sigma-rel",
            Self::Coefficients => "coefficients",
            Self::Normalize => "normalize",
            Self::AllowSum => "allow-sum",
        }
    }
}

/// What may be given beside a scheme's name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemeParameters {
    /// Share of the newest checkpoint (EMA).
    pub alpha: Option<Ratio>,
    /// Share of the peak at which a decay ends.
    pub floor: Option<Ratio>,
    /// Relative width of a power profile.
    pub sigma_rel: Option<Ratio>,
    /// Hand-given coefficients, oldest first.
    pub coefficients: Option<Vec<Ratio>>,
    /// What happens to hand-given coefficients that do not sum to 1.
    pub sum_rule: SumRule,
}

impl SchemeParameters {
    fn given(&self) -> impl Iterator<Item = SchemeParameter> {
        let all = [
            (self.alpha.is_some(), SchemeParameter::Alpha),
            (self.floor.is_some(), SchemeParameter::Floor),
            (self.sigma_rel.is_some(), SchemeParameter::SigmaRel),
            (self.coefficients.is_some(), SchemeParameter::Coefficients),
            (self.sum_rule == SumRule::DivideBySum, SchemeParameter::Normalize),
            (self.sum_rule == SumRule::AsGiven, SchemeParameter::AllowSum),
        ];
        all.into_iter().filter(|(is_given, _)| *is_given).map(|(_, parameter)| parameter)
    }

    fn ratio_mut(&mut self, parameter: SchemeParameter) -> Option<&mut Option<Ratio>> {
        match parameter {
            SchemeParameter::Alpha => Some(&mut self.alpha),
            SchemeParameter::Floor => Some(&mut self.floor),
            SchemeParameter::SigmaRel => Some(&mut self.sigma_rel),
            SchemeParameter::Coefficients | SchemeParameter::Normalize | SchemeParameter::AllowSum => None,
        }
    }
}

/// One line of the table of schemes.
#[derive(Debug)]
pub struct SchemeEntry {
    /// Name on the command line and in recipes.
    pub name: &'static str,
    /// Other names that users know.
    pub aliases: &'static [&'static str],
    /// What it is, in one line.
    pub help: &'static str,
    /// Coefficients of n checkpoints, oldest first.
    pub equation: &'static str,
    /// Where the equation comes from.
    pub source: &'static str,
    /// Parameters it takes; the first may follow the name after a colon (`ema:0.2`).
    pub parameters: &'static [SchemeParameter],
    build: fn(&SchemeEntry, SchemeParameters) -> Result<Scheme, SchemeError>,
}

/// All schemes.
pub static SCHEMES: [SchemeEntry; 9] = [
    SchemeEntry {
        name: "sma",
        aliases: &["uniform", "linear", "mean", "average"],
        help: "simple moving average: every checkpoint alike",
        equation: "c_i = 1/n",
        source: "Li et al. 2025, arXiv 2505.12082, eq. 3",
        parameters: &[],
        build: |_, _| Ok(Scheme::Sma),
    },
    SchemeEntry {
        name: "wma",
        aliases: &[],
        help: "weighted moving average: in proportion to the checkpoint's number",
        equation: "c_i = i / (n(n+1)/2)",
        source: "Li et al. 2025, arXiv 2505.12082, eq. 5",
        parameters: &[],
        build: |_, _| Ok(Scheme::Wma),
    },
    SchemeEntry {
        name: "ema",
        aliases: &[],
        help: "exponential moving average, the recursion started at the oldest checkpoint",
        equation: "c_1 = (1-a)^(n-1), c_i = a(1-a)^(n-i)",
        source: "Li et al. 2025, arXiv 2505.12082, eq. 4",
        parameters: &[SchemeParameter::Alpha],
        build: |entry, given| Ok(Scheme::Ema { alpha: require(entry, SchemeParameter::Alpha, given.alpha)? }),
    },
    SchemeEntry {
        name: "ema-normalised",
        aliases: &[],
        help: "the finite exponential sum divided by its total, not the recursion",
        equation: "c_i = a(1-a)^(n-i) / (1-(1-a)^n)",
        source: "Li et al. 2025, arXiv 2505.12082, section 4.2, normalised",
        parameters: &[SchemeParameter::Alpha],
        build: |entry, given| Ok(Scheme::EmaNormalised { alpha: require(entry, SchemeParameter::Alpha, given.alpha)? }),
    },
    SchemeEntry {
        name: "decay:linear",
        aliases: &[],
        help: "imitates a linear learning-rate decay; without a floor the same as sma",
        equation: "c_0 = 1-w_1, c_j = w_j-w_(j+1), c_(n-1) = w_(n-1); w(t) = r + (1-r)(1-t), t_i = i/n",
        source: "Tian et al. 2025, arXiv 2507.17634, theorem 3.1",
        parameters: &[SchemeParameter::Floor],
        build: |_, given| Ok(decay(DecayCurve::Linear, given)),
    },
    SchemeEntry {
        name: "decay:cosine",
        aliases: &[],
        help: "imitates a cosine learning-rate decay",
        equation: "as decay:linear, with w(t) = r + (1-r)(1+cos(pi t))/2",
        source: "Tian et al. 2025, arXiv 2507.17634, theorem 3.1",
        parameters: &[SchemeParameter::Floor],
        build: |_, given| Ok(decay(DecayCurve::Cosine, given)),
    },
    SchemeEntry {
        name: "decay:1-sqrt",
        aliases: &["minus-sqrt"],
        help: "imitates a 1-sqrt learning-rate decay; the oldest checkpoint gets the most",
        equation: "as decay:linear, with w(t) = r + (1-r)(1-sqrt(t))",
        source: "Tian et al. 2025, arXiv 2507.17634, theorem 3.1",
        parameters: &[SchemeParameter::Floor],
        build: |_, given| Ok(decay(DecayCurve::OneMinusSqrt, given)),
    },
    SchemeEntry {
        name: "power-ema",
        aliases: &[],
        help: "power-function average whose width is a fixed share of the training so far",
        equation: "c_i = (T_i/T_n)^(g+1) - (T_(i-1)/T_n)^(g+1), sigma-rel = sqrt(g+1)/((g+2)sqrt(g+3))",
        source: "Karras et al. 2024, arXiv 2312.02696, section 3",
        parameters: &[SchemeParameter::SigmaRel],
        build: |entry, given| {
            let sigma_rel = require(entry, SchemeParameter::SigmaRel, given.sigma_rel)?;
            Ok(Scheme::PowerEma { sigma_rel })
        },
    },
    SchemeEntry {
        name: "custom",
        aliases: &[],
        help: "coefficients given by hand, oldest first, signs allowed",
        equation: "c_i as given, summing to 1 unless allow-sum, or divided by their exact sum with normalize",
        source: "Li et al. 2025, arXiv 2505.12082, eq. 1 with any coefficients",
        parameters: &[SchemeParameter::Coefficients, SchemeParameter::Normalize, SchemeParameter::AllowSum],
        build: |entry, given| {
            let coefficients = require(entry, SchemeParameter::Coefficients, given.coefficients)?;
            Ok(Scheme::Custom { coefficients, sum_rule: given.sum_rule })
        },
    },
];

fn require<T>(entry: &SchemeEntry, parameter: SchemeParameter, given: Option<T>) -> Result<T, SchemeError> {
    given.ok_or(SchemeError::ParameterMissing { scheme: entry.name, parameter: parameter.name() })
}

fn decay(curve: DecayCurve, given: SchemeParameters) -> Scheme {
    Scheme::Decay { curve, floor: given.floor.unwrap_or_else(|| Ratio::from_integer(0)) }
}

/// Rule from a window to coefficients, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Simple moving average.
    Sma,
    /// Weighted moving average.
    Wma,
    /// Exponential moving average by the recursion.
    Ema {
        /// Share of the newest checkpoint.
        alpha: Ratio,
    },
    /// The finite exponential sum divided by its total.
    EmaNormalised {
        /// Share of the newest checkpoint before the division.
        alpha: Ratio,
    },
    /// Imitates a learning-rate decay.
    Decay {
        /// Form of the decay.
        curve: DecayCurve,
        /// Share of the peak at which it ends.
        floor: Ratio,
    },
    /// Power-function profile.
    PowerEma {
        /// Relative width.
        sigma_rel: Ratio,
    },
    /// Given by hand.
    Custom {
        /// One for each checkpoint, oldest first.
        coefficients: Vec<Ratio>,
        /// What happens to them if they do not sum to 1.
        sum_rule: SumRule,
    },
}

impl Scheme {
    /// Reads a scheme as the command line gives it: a name or alias of [`SCHEMES`], perhaps with its first parameter
    /// after a colon (`ema:0.2`, `decay:cosine:0.1`, `power-ema:0.1`), and the parameters of the options beside it.
    ///
    /// Ranges are checked here, so that a bad parameter is found before any checkpoint is opened.
    ///
    /// # Errors
    /// `UnknownScheme`, `ParameterMissing`, `ParameterUnused`, `ParameterTwice`, and those of the parameter itself.
    ///
    /// # Example
    /// ```
    /// use thalweg_merge::scheme::{Scheme, SchemeParameters};
    ///
    /// let short = Scheme::parse("ema:0.2", SchemeParameters::default())?;
    /// let long = Scheme::parse("ema", SchemeParameters { alpha: Some("1/5".parse()?), ..Default::default() })?;
    /// assert_eq!(short, long);
    /// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
    /// ```
    pub fn parse(text: &str, mut parameters: SchemeParameters) -> Result<Self, SchemeError> {
        let (entry, short) = find_entry(text)?;
        if let Some(short) = short {
            let value: Ratio = short.parse()?;
            let first = entry.parameters.first().copied();
            let Some((parameter, slot)) = first.and_then(|first| Some((first, parameters.ratio_mut(first)?))) else {
                return Err(unknown_scheme(text));
            };
            if let Some(second) = slot.replace(value.clone()).filter(|second| *second != value) {
                return Err(SchemeError::ParameterTwice {
                    parameter: parameter.name(),
                    first: Box::new(value),
                    second: Box::new(second),
                });
            }
        }
        if let Some(unused) = parameters.given().find(|parameter| !entry.parameters.contains(parameter)) {
            return Err(SchemeError::ParameterUnused { scheme: entry.name, parameter: unused.name() });
        }
        let scheme = (entry.build)(entry, parameters)?;
        scheme.check()?;
        Ok(scheme)
    }

    /// The name in [`SCHEMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sma => "sma",
            Self::Wma => "wma",
            Self::Ema { .. } => "ema",
            Self::EmaNormalised { .. } => "ema-normalised",
            Self::Decay { curve: DecayCurve::Linear, .. } => "decay:linear",
            Self::Decay { curve: DecayCurve::Cosine, .. } => "decay:cosine",
            Self::Decay { curve: DecayCurve::OneMinusSqrt, .. } => "decay:1-sqrt",
            Self::PowerEma { .. } => "power-ema",
            Self::Custom { .. } => "custom",
        }
    }

    /// Coefficients of `n` evenly spaced checkpoints, oldest first; for power-EMA at positions 1..n.
    ///
    /// # Errors
    /// `EmptyWindow` if `n` is 0, `CountMismatch` if coefficients are given for another number of checkpoints, and
    /// those of the scheme's own function.
    ///
    /// # Example
    /// ```
    /// use thalweg_merge::{Coefficients, scheme::{Scheme, SchemeParameters}};
    ///
    /// let scheme = Scheme::parse("decay:linear", SchemeParameters::default())?;
    /// assert_eq!(scheme.coefficients(4)?, Coefficients::new([1, 1, 1, 1], 4)?);
    /// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
    /// ```
    pub fn coefficients(&self, n: usize) -> Result<Coefficients, SchemeError> {
        match self {
            _ if n == 0 => Err(SchemeError::EmptyWindow),
            Self::Sma => sma_coefficients(n),
            Self::Wma => wma_coefficients(n),
            Self::Ema { alpha } => ema_coefficients(n, alpha),
            Self::EmaNormalised { alpha } => ema_normalised_coefficients(n, alpha),
            Self::Decay { curve, floor } => decay_coefficients(*curve, floor, &even_decay_grid(n)),
            Self::PowerEma { sigma_rel } => power_ema_coefficients(&(1..=n as u64).collect::<Vec<_>>(), sigma_rel),
            Self::Custom { coefficients, .. } if coefficients.len() != n => {
                Err(SchemeError::CountMismatch { n_coefficients: coefficients.len(), n_checkpoints: n })
            }
            Self::Custom { coefficients, sum_rule } => custom_coefficients(coefficients, *sum_rule),
        }
    }

    /// Coefficients of checkpoints with these optimizer steps, oldest first, `None` for an unknown step. Every merge
    /// uses this.
    ///
    /// Schemes that follow positions use the steps if all are known, and equal spacing otherwise.
    ///
    /// # Errors
    /// As [`coefficients_at`](Self::coefficients_at).
    ///
    /// # Example
    /// ```
    /// use thalweg_merge::{Coefficients, scheme::{Scheme, SchemeParameters}};
    ///
    /// let scheme = Scheme::parse("decay:linear", SchemeParameters::default())?;
    /// let by_step = scheme.coefficients_for(&[Some(2000), Some(4000), Some(10_000)])?;
    /// assert_eq!(by_step, Coefficients::new([1, 3, 2], 6)?);
    /// assert_eq!(scheme.coefficients_for(&[None, None, None])?, Coefficients::new([1, 1, 1], 3)?);
    /// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
    /// ```
    pub fn coefficients_for(&self, steps: &[Option<u64>]) -> Result<Coefficients, SchemeError> {
        let known: Option<Vec<u64>> = steps.iter().copied().collect();
        match known {
            Some(positions) if self.follows_positions() => self.coefficients_at(&positions),
            _ => self.coefficients(steps.len()),
        }
    }

    /// Whether coefficients depend on the distances between checkpoints.
    pub fn follows_positions(&self) -> bool {
        matches!(self, Self::Decay { .. } | Self::PowerEma { .. })
    }

    /// Whether coefficients depend on the order of the checkpoints.
    pub fn follows_order(&self) -> bool {
        !matches!(self, Self::Sma)
    }

    /// Coefficients of checkpoints at these positions (steps, or tokens), oldest first.
    ///
    /// Decay schemes and power-EMA depend on the positions; the others only on their number.
    ///
    /// # Errors
    /// `PositionsNotIncreasing`, and those of [`coefficients`](Self::coefficients).
    pub fn coefficients_at(&self, positions: &[u64]) -> Result<Coefficients, SchemeError> {
        match self {
            Self::Decay { curve, floor } if !positions.is_empty() => {
                decay_coefficients(*curve, floor, &decay_grid(positions)?)
            }
            Self::PowerEma { sigma_rel } => power_ema_coefficients(positions, sigma_rel),
            _ => self.coefficients(positions.len()),
        }
    }

    fn check(&self) -> Result<(), SchemeError> {
        match self {
            Self::Custom { coefficients, sum_rule } => custom_coefficients(coefficients, *sum_rule).map(|_| ()),
            // Every range is checked by the scheme's own function, for any number of checkpoints.
            _ => self.coefficients(1).map(|_| ()),
        }
    }
}

impl fmt::Display for Scheme {
    /// The form that [`Scheme::parse`] reads; hand-given coefficients show their name only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Ema { alpha } | Self::EmaNormalised { alpha } => write!(f, ":{alpha}"),
            Self::Decay { floor, .. } if !floor.is_zero() => write!(f, ":{floor}"),
            Self::PowerEma { sigma_rel } => write!(f, ":{sigma_rel}"),
            _ => Ok(()),
        }
    }
}

/// The entry of a name, and what follows its last colon if that is not part of the name.
fn find_entry(text: &str) -> Result<(&'static SchemeEntry, Option<&str>), SchemeError> {
    let find = |name: &str| {
        let is_name = |known: &str| known.eq_ignore_ascii_case(name);
        SCHEMES.iter().find(|entry| is_name(entry.name) || entry.aliases.iter().any(|alias| is_name(alias)))
    };
    if let Some(entry) = find(text) {
        return Ok((entry, None));
    }
    let split = text.rsplit_once(':').and_then(|(name, short)| Some((find(name)?, Some(short))));
    split.ok_or_else(|| unknown_scheme(text))
}

fn unknown_scheme(text: &str) -> SchemeError {
    let names = || SCHEMES.iter().flat_map(|entry| std::iter::once(&entry.name).chain(entry.aliases)).copied();
    let base = text.split(':').next().unwrap_or(text);
    let name = text.chars().take(40).flat_map(char::escape_default).collect();
    SchemeError::UnknownScheme { name, nearest: nearest_name(text, names()).or_else(|| nearest_name(base, names())) }
}

/// `PositionsNotIncreasing` unless each position is beyond the one before it.
fn check_positions(positions: &[u64]) -> Result<(), SchemeError> {
    match positions.windows(2).position(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        Some(i) => Err(SchemeError::PositionsNotIncreasing {
            idx: i + 1,
            position: Box::new(Ratio::from_integer(positions[i + 1])),
            previous: Box::new(Ratio::from_integer(positions[i])),
        }),
    }
}

#[cfg(test)]
mod tests;
