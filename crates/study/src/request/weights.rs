//! From scheme options and checkpoints to coefficients, with notes about them.

use clap::Args;
use thalweg_merge::plan::SourceRef;
use thalweg_merge::scheme::{CoefficientOrder, Scheme, SchemeError, SchemeParameters, SumRule, custom_coefficients};
use thalweg_merge::{Coefficients, Ratio};

use crate::Error;
use crate::select::even_interval;

/// Coefficients that a note lists one by one.
const MAX_LISTED: usize = 6;

/// How the checkpoints are weighed. Exact numbers are text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Scheme")]
pub struct SchemeOptions {
    /// sma, wma, ema, ema-normalised, decay:linear, decay:cosine, decay:1-sqrt, power-ema, custom [default: sma]
    #[arg(long, value_name = "SCHEME")]
    pub scheme: Option<String>,
    /// EMA: share of the newest checkpoint
    #[arg(long, value_name = "A")]
    pub alpha: Option<String>,
    /// Decay schemes: learning rate at the end, as a share of the peak
    #[arg(long, value_name = "F")]
    pub floor: Option<String>,
    /// Power EMA: relative width of the profile
    #[arg(long, value_name = "S")]
    pub sigma_rel: Option<String>,
    /// Custom: coefficients, oldest first
    #[arg(long, value_name = "C,C,...", value_delimiter = ',', allow_hyphen_values = true)]
    pub coefficients: Vec<String>,
    /// Reconstruct a power EMA from snapshots of online averages: twice or more
    #[arg(long, value_name = "SIGMA=RUN")]
    pub from_averages: Vec<String>,
    /// as-is: checkpoints by step if all have one; given: in the order given, equally spaced; reverse
    /// or scramble:SEED: coefficients on the wrong checkpoints, for experiments [default: as-is]
    #[arg(long, value_name = "ORDER")]
    pub order: Option<String>,
    /// Divide hand-given coefficients by their exact sum
    #[arg(long)]
    pub normalize: bool,
    /// Use hand-given coefficients as they are, even if they do not sum to 1, which scales the model
    #[arg(long, conflicts_with = "normalize")]
    pub allow_sum: bool,
}

impl SchemeOptions {
    /// The rule for a sum other than 1.
    pub(super) fn sum_rule(&self) -> SumRule {
        match (self.normalize, self.allow_sum) {
            (true, _) => SumRule::DivideBySum,
            (_, true) => SumRule::AsGiven,
            _ => SumRule::MustBeOne,
        }
    }

    /// Which checkpoint gets which coefficient.
    pub(super) fn coefficient_order(&self) -> Result<CoefficientOrder, Error> {
        Ok(self.order.as_deref().map(str::parse).transpose()?.unwrap_or_default())
    }

    /// The scheme that the options mean; `sma` when none is named.
    pub(super) fn scheme(&self) -> Result<Scheme, Error> {
        let optional =
            |option: &str, text: &Option<String>| text.as_deref().map(|text| parse_ratio(option, text)).transpose();
        let coefficients: Vec<Ratio> =
            self.coefficients.iter().map(|text| parse_ratio("coefficients", text)).collect::<Result<_, _>>()?;
        let parameters = SchemeParameters {
            alpha: optional("alpha", &self.alpha)?,
            floor: optional("floor", &self.floor)?,
            sigma_rel: optional("sigma-rel", &self.sigma_rel)?,
            coefficients: (!coefficients.is_empty()).then_some(coefficients),
            sum_rule: self.sum_rule(),
        };
        let named = self.scheme.as_deref().unwrap_or(if self.coefficients.is_empty() { "sma" } else { "custom" });
        Ok(Scheme::parse(named, parameters)?)
    }

    /// The scheme for a window of one run.
    ///
    /// # Errors
    /// `Scheme` and `Request` for options that do not fit.
    pub fn window_scheme(&self) -> Result<Scheme, Error> {
        if !self.from_averages.is_empty() {
            return Err(Error::request("`--from-averages` is an option of `merge` and `plan` only"));
        }
        self.scheme()
    }
}

/// How the checkpoints are weighed.
#[derive(Debug, Clone)]
pub(super) enum Weights {
    /// By a scheme.
    Scheme(Scheme),
    /// By coefficients that were given with the checkpoints, in their order.
    Given(Vec<Ratio>, SumRule),
}

/// Coefficients with the name under which a plan records them.
#[derive(Debug)]
pub(super) struct Weighed {
    /// Coefficients of the sources, oldest first.
    pub(super) coefficients: Coefficients,
    /// The name of the scheme.
    pub(super) name: String,
    /// Notes for the user.
    pub(super) notes: Vec<String>,
}

/// Coefficients of `sources`, oldest first.
pub(super) fn weigh(weights: &Weights, order: CoefficientOrder, sources: &[SourceRef]) -> Result<Weighed, Error> {
    let mut notes = Vec::new();
    let (coefficients, name) = match weights {
        Weights::Given(given, sum_rule) => (custom_coefficients(given, *sum_rule)?, "custom".to_owned()),
        Weights::Scheme(scheme) => {
            let steps = match order {
                // The order may contradict the steps, so distances between them mean nothing.
                CoefficientOrder::Given => vec![None; sources.len()],
                _ => sources.iter().map(|source| source.step).collect::<Vec<_>>(),
            };
            let coefficients = scheme.coefficients_for(&steps)?;
            notes.extend(order_note(scheme, order, sources));
            notes.extend(spacing_note(scheme, order, &steps, &coefficients)?);
            (coefficients, scheme.to_string())
        }
    };
    if !coefficients.is_affine() {
        notes.push(format!("the coefficients sum to {}, which scales the model", coefficients.sum()));
    }
    let name = if order == CoefficientOrder::AsIs { name } else { format!("{name} ({order})") };
    Ok(Weighed { coefficients: order.apply(&coefficients), name, notes })
}

/// A note that the order is only that of the arguments, because no step is known.
fn order_note(scheme: &Scheme, order: CoefficientOrder, sources: &[SourceRef]) -> Option<String> {
    let is_ordered_by_hand = order == CoefficientOrder::Given || matches!(scheme, Scheme::Custom { .. });
    let is_unknown = sources.len() > 1 && sources.iter().all(|source| source.step.is_none());
    (is_unknown && scheme.follows_order() && !is_ordered_by_hand).then(|| {
        format!("the steps of the checkpoints are unknown: {scheme} takes them in the order given, oldest first")
    })
}

/// A note about what the spacing of the checkpoints does to the coefficients of a scheme that follows positions.
fn spacing_note(
    scheme: &Scheme,
    order: CoefficientOrder,
    steps: &[Option<u64>],
    coefficients: &Coefficients,
) -> Result<Option<String>, Error> {
    if !scheme.follows_positions() || steps.len() < 2 {
        return Ok(None);
    }
    let Some(known) = steps.iter().copied().collect::<Option<Vec<u64>>>() else {
        let why =
            if order == CoefficientOrder::Given { "they are in the order given" } else { "some steps are unknown" };
        return Ok(Some(format!("{scheme} treats the checkpoints as equally spaced: {why}")));
    };
    if even_interval(&known).is_some() {
        return Ok(None);
    }
    let even = even_coefficients(scheme, &known)?.as_f64();
    let own = coefficients.as_f64();
    let effect = if own.len() <= MAX_LISTED {
        let list = |values: &[f64]| values.iter().map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(", ");
        format!("{} instead of {}", list(&own), list(&even))
    } else {
        let largest = own.iter().zip(&even).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        format!("coefficients differ by up to {largest:.4} from those of equal spacing")
    };
    Ok(Some(format!("{scheme} uses the checkpoints' own steps, which are unevenly spaced: {effect}")))
}

/// The coefficients for the same span with equal spacing.
fn even_coefficients(scheme: &Scheme, steps: &[u64]) -> Result<Coefficients, SchemeError> {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return Err(SchemeError::EmptyWindow) };
    let n_gaps = steps.len() as u64 - 1;
    // Only ratios of steps matter, so all are scaled to make the even steps whole numbers.
    let scaled = |i: u64| first.checked_mul(n_gaps)?.checked_add((last - first).checked_mul(i)?);
    match (0..=n_gaps).map(scaled).collect::<Option<Vec<u64>>>() {
        Some(even) => scheme.coefficients_at(&even),
        None => scheme.coefficients(steps.len()),
    }
}

/// Parses a scheme in one word, such as `ema:0.2`, for commands without further options for schemes.
///
/// # Errors
/// `Scheme` and `Request` for a text that names none.
pub fn parse_scheme_word(text: &str) -> Result<Scheme, Error> {
    Scheme::parse(text, SchemeParameters::default()).map_err(|error| match error {
        SchemeError::ParameterMissing { scheme, parameter: "coefficients" } => Error::request_with_hint(
            format!("scheme `{scheme}` needs coefficients, but this command does not take any"),
            "choose another scheme: `thalweg merge --coefficients C,C,...` takes them",
        ),
        SchemeError::ParameterMissing { scheme, parameter } => Error::request_with_hint(
            format!("scheme `{scheme}` needs `{parameter}`"),
            format!("write it after the name: `{scheme}:0.1`"),
        ),
        error => error.into(),
    })
}

/// A scheme and a number of checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct SchemeWindow {
    pub(crate) scheme: Scheme,
    pub(crate) n_checkpoints: usize,
}

/// Parses `SCHEME:N`, a value of `--windows`. The scheme may have a parameter after a colon too.
pub(crate) fn parse_scheme_window(text: &str) -> Result<SchemeWindow, Error> {
    let refuse = |what: String| {
        Error::request_with_hint(what, "write SCHEME:N, such as `sma:10`, `ema:0.2:10` or `decay:1-sqrt:8`")
    };
    let Some((scheme, n)) = text.rsplit_once(':') else {
        return Err(refuse(format!("`--windows {text}` does not say how many checkpoints")));
    };
    let n_checkpoints = n.parse().ok().filter(|n| *n > 0);
    let n_checkpoints =
        n_checkpoints.ok_or_else(|| refuse(format!("`--windows {text}`: `{n}` is not a number of checkpoints")))?;
    // `ema:10` is a scheme without its parameter, not one with a wrong window.
    let lacks_parameter =
        matches!(Scheme::parse(scheme, SchemeParameters::default()), Err(SchemeError::ParameterMissing { .. }));
    if lacks_parameter && !scheme.starts_with("custom") {
        return Err(Error::request_with_hint(
            format!("`--windows {text}`: scheme `{scheme}` needs a parameter before the number of checkpoints"),
            format!("write it between them: `{scheme}:0.1:{n}`"),
        ));
    }
    Ok(SchemeWindow { scheme: parse_scheme_word(scheme)?, n_checkpoints })
}

/// Parses a number of an option. The error names the option and the text.
pub(super) fn parse_ratio(option: &str, text: &str) -> Result<Ratio, Error> {
    text.parse().map_err(|error| Error::request(format!("`--{option} {text}`: {error}")))
}
