//! The law of a curve: parameters with intervals, the forms that compete, forecasts, and what is wrong with them.

use std::collections::BTreeMap;

use serde::Serialize;
use thalweg_eval::uncertainty::quantile;
use thalweg_tensor::{SplitMix, counted};

use super::curve::{Curve, Unit};
use super::forms::{Fitted, Form, FormRow, Levels, compete};
use super::outlook::{MarginalRow, ReachRow, StopRow, TargetRow, marginal_gain, reach_row, stop_row, target_row};
use super::sizes::{JointLaw, SizeLevels, SizeRow, fit_joint, size_rows};
use super::three_points::{ThreePointRow, three_point_row};
use crate::Error;
use crate::values::mean;

/// What k counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Experts that were trained from one base: any subset of them.
    #[default]
    Experts,
    /// Checkpoints of one run: the newest k. The form has a drift, which is ours, not the paper's.
    Checkpoints,
}

/// What is asked of a curve.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LawQuestion {
    /// What k counts.
    pub axis: Axis,
    /// Numbers of models whose loss is wanted.
    pub predict: Vec<u32>,
    /// A loss to reach.
    pub target: Option<f64>,
    /// A distance to the floor to reach.
    pub within: Option<f64>,
    /// The least gain that is worth one more model.
    pub least_gain: Option<f64>,
    /// Models in the pool; as the curve says, if left out.
    pub pool: Option<u32>,
    /// The three numbers of models of the closed form; chosen, if left out.
    pub points: Option<[u32; 3]>,
    /// Size of the models in billions of parameters; the largest of the curve, if left out.
    pub n_billions: Option<f64>,
    /// Resamples of the bootstrap.
    pub n_resamples: u32,
    /// Its seed.
    pub seed: u64,
}

/// Mean loss of the merges of one number of models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelRow {
    /// Models.
    pub k: u32,
    /// Mean loss, over subsets and domains.
    pub loss: f64,
    /// Merges that were scored.
    pub n_merges: usize,
    /// Standard deviation over them.
    pub sd: Option<f64>,
    /// What the law gives.
    pub fitted: f64,
}

/// The law between the least and the largest k, to be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Models, not always a whole number.
    pub k: f64,
    /// What the law gives.
    pub loss: f64,
    /// Its 95 % interval.
    pub interval_95: Option<[f64; 2]>,
}

/// A predicted loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictionRow {
    /// Models.
    pub k: u32,
    /// The prediction; nothing where the curve supports none.
    pub loss: Option<f64>,
    /// Its 95 % interval.
    pub interval_95: Option<[f64; 2]>,
    /// What was measured, if it was.
    pub measured: Option<f64>,
    /// Why there is none, or what it does not say.
    pub reason: Option<String>,
}

/// How intervals were made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BootstrapRow {
    /// `subsets`, drawn again for each k; or `residuals`, where each k has one loss.
    pub over: &'static str,
    /// Resamples.
    pub n_resamples: u32,
    /// Resamples whose b is at an end of its range.
    pub n_at_bound: u32,
    /// Seed.
    pub seed: u64,
}

/// The law of one domain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DomainRow {
    /// Its name.
    pub domain: String,
    /// The floor.
    pub l_inf: f64,
    /// The amplitude.
    pub a: f64,
    /// The offset.
    pub b: f64,
    /// Share of the variance explained.
    pub r2: f64,
    /// The end of its range that b is at.
    pub at_bound: Option<f64>,
}

/// The law of a curve and what follows from it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct MergeLaw {
    /// What k counts.
    pub axis: Axis,
    /// The form of the law.
    pub form: Form,
    /// As a formula.
    pub formula: &'static str,
    /// The floor: what infinitely many models would score.
    pub l_inf: f64,
    /// The amplitude.
    pub a: f64,
    /// The offset, between -1/2 and 30.
    pub b: f64,
    /// The drift for each further checkpoint of one run.
    pub d: Option<f64>,
    /// 95 % interval of the floor.
    pub l_inf_interval_95: Option<[f64; 2]>,
    /// 95 % interval of the amplitude.
    pub a_interval_95: Option<[f64; 2]>,
    /// 95 % interval of the offset.
    pub b_interval_95: Option<[f64; 2]>,
    /// How the intervals were made.
    pub bootstrap: Option<BootstrapRow>,
    /// Share of the variance of the mean losses that the law explains.
    pub r2: f64,
    /// Parameters of the models in billions, where the curve has sizes.
    pub n_billions: Option<f64>,
    /// Mean losses.
    pub points: Vec<LevelRow>,
    /// Loss of the base, where it was scored.
    pub base: Option<f64>,
    /// The law from the least to the largest k that was measured, or predicted where the curve supports a law.
    pub curve: Vec<CurvePoint>,
    /// The forms that compete, with AICc.
    pub forms: Vec<FormRow>,
    /// Predictions.
    pub predictions: Vec<PredictionRow>,
    /// The closed form through three points.
    pub three_point: Option<ThreePointRow>,
    /// What the pool of models can reach.
    pub reach: Option<ReachRow>,
    /// Numbers of models for the losses to reach.
    pub targets: Vec<TargetRow>,
    /// What one more model gains.
    pub marginal: Vec<MarginalRow>,
    /// When one more is no longer worth it.
    pub stop: Option<StopRow>,
    /// The best number of checkpoints of one run, sqrt(A/D) - b.
    pub optimum: Option<f64>,
    /// Each domain by itself.
    pub domains: Vec<DomainRow>,
    /// Each size by itself.
    pub sizes: Vec<SizeRow>,
    /// All sizes together.
    pub joint: Option<JointLaw>,
    /// What to be careful about.
    pub warnings: Vec<String>,
    /// Why the curve supports no law: its numbers then hold only between the measured ones.
    pub refusal: Option<String>,
}

/// The merges of one number of models.
struct Group<'a> {
    k: u32,
    units: Vec<&'a Unit>,
}

/// Fits the law of a curve.
///
/// # Errors
/// `Request` where fewer than three numbers of models were scored (four for checkpoints of one run), where k does not
/// vary, for a size that the curve does not have, and for a question that the axis does not answer.
///
/// # Example
/// ```
/// use thalweg_study::law::{LawQuestion, fit_merge_law, read_curve};
///
/// let lines = [(1, 3.0), (2, 2.5), (4, 2.25)].map(|(k, loss)| format!("{{\"k\": {k}, \"loss\": {loss}}}\n"));
/// let law = fit_merge_law(&read_curve(&lines.concat())?, &LawQuestion::default())?;
/// assert!((law.l_inf - 2.0).abs() < 1e-6 && (law.a - 1.0).abs() < 1e-5 && law.b.abs() < 1e-5);
/// # Ok::<(), thalweg_study::Error>(())
/// ```
pub fn fit_merge_law(curve: &Curve, question: &LawQuestion) -> Result<MergeLaw, Error> {
    check_question(question)?;
    let by_size = by_size(curve)?;
    let n_billions = chosen_size(&by_size, question.n_billions)?;
    let groups = by_size.iter().find(|(size, _)| same_size(*size, n_billions)).map(|(_, groups)| groups.as_slice());
    let groups = groups.unwrap_or_default();
    let form = match question.axis {
        Axis::Experts => Form::Reciprocal,
        Axis::Checkpoints => Form::Drift,
    };
    check_groups(groups, form)?;
    check_pool(question.pool, groups)?;
    let levels = levels_of(groups, Unit::macro_loss);
    let fit = form.fit(&levels).ok_or_else(|| Error::request("the losses do not determine a law"))?;
    let base = curve.bases.iter().find(|base| same_size(base.n_billions, n_billions)).map(Unit::macro_loss);
    let pool = question.pool.or(curve.pool);
    let drawn = bootstrap(groups, &levels, &fit, question);
    let refusal = refusal_of(&fit);
    let mut law = begin(question.axis, &fit, groups, n_billions);
    let along = ks_to_draw(groups, if refusal.is_some() { &[] } else { &question.predict });
    law.base = base;
    law.curve = curve_points(&fit, drawn.as_ref(), &along);
    law.forms = compete(&competitors(question.axis), &levels, &question.predict, &along);
    if let Some(drawn) = &drawn {
        law.l_inf_interval_95 = drawn.interval(|one| one.l_inf());
        law.a_interval_95 = drawn.interval(|one| one.a());
        law.b_interval_95 = drawn.interval(|one| one.b());
        law.bootstrap = Some(drawn.row.clone());
    }
    law.predictions = predictions(&fit, (&law.points, drawn.as_ref()), (pool, refusal.as_deref()), &question.predict);
    law.three_point = three_points(&law.points, question)?;
    if refusal.is_none() {
        add_outlook(&mut law, question, pool);
    }
    if curve.domains.len() > 1 {
        law.domains = domain_rows(curve, groups, form);
    }
    if by_size.len() > 1 {
        let sizes: Vec<SizeLevels> = by_size
            .iter()
            .filter_map(|(size, groups)| {
                Some(SizeLevels { n_billions: (*size)?, levels: levels_of(groups, Unit::macro_loss) })
            })
            .collect();
        law.sizes = size_rows(&sizes, question.target);
        law.joint = fit_joint(&sizes);
    }
    law.warnings = warnings(&law, base, pool);
    law.refusal = refusal;
    Ok(law)
}

fn check_question(question: &LawQuestion) -> Result<(), Error> {
    let positive = [("--within", question.within), ("--least-gain", question.least_gain)];
    if let Some((option, Some(value))) =
        positive.iter().find(|(_, value)| value.is_some_and(|value| value.is_nan() || value <= 0.0))
    {
        return Err(Error::request(format!("`{option} {value}` is not above 0")));
    }
    if question.target.is_some_and(|target| !target.is_finite()) {
        return Err(Error::request("`--target` is not a finite number"));
    }
    if question.predict.contains(&0) {
        return Err(Error::request("`--predict 0`: a merge has at least one model"));
    }
    let of_experts = question.target.is_some() || question.within.is_some() || question.least_gain.is_some();
    if question.axis == Axis::Checkpoints && of_experts {
        return Err(Error::request_with_hint(
            "for checkpoints of one run there is a best number, not a floor to approach",
            "leave out `--target`, `--within` and `--least-gain`; `optimum` is the best number",
        ));
    }
    Ok(())
}

/// No more models can have been merged than there are.
fn check_pool(pool: Option<u32>, groups: &[Group<'_>]) -> Result<(), Error> {
    let merged = groups.iter().map(|group| group.k).max();
    match pool.zip(merged).filter(|(pool, merged)| merged > pool) {
        None => Ok(()),
        Some((pool, merged)) => Err(Error::request_with_hint(
            format!("`--pool {pool}`: the curve has a merge of {}", counted(merged, "model")),
            format!("give `--pool` at least {merged}, or leave it out"),
        )),
    }
}

fn same_size(a: Option<f64>, b: Option<f64>) -> bool {
    a.map(f64::to_bits) == b.map(f64::to_bits)
}

/// The merges by size, and for each size by k.
type BySize<'a> = Vec<(Option<f64>, Vec<Group<'a>>)>;

fn by_size(curve: &Curve) -> Result<BySize<'_>, Error> {
    let mut sizes: BTreeMap<Option<u64>, BTreeMap<u32, Vec<&Unit>>> = BTreeMap::new();
    for unit in &curve.units {
        let of_size = sizes.entry(unit.n_billions.map(f64::to_bits)).or_default();
        of_size.entry(unit.k).or_default().push(unit);
    }
    if sizes.len() > 1 && sizes.contains_key(&None) {
        return Err(Error::request_with_hint(
            "some records have a size (`n`) and others do not",
            "give `n` to all of them, or to none",
        ));
    }
    // Positive numbers sort like their bits.
    let groups = |levels: BTreeMap<u32, Vec<_>>| levels.into_iter().map(|(k, units)| Group { k, units }).collect();
    Ok(sizes.into_iter().map(|(size, levels)| (size.map(f64::from_bits), groups(levels))).collect())
}

fn chosen_size(by_size: &BySize<'_>, asked: Option<f64>) -> Result<Option<f64>, Error> {
    let known = || by_size.iter().map(|(size, _)| *size);
    let Some(asked) = asked else { return Ok(known().next_back().flatten()) };
    let found = known().flatten().find(|size| (size - asked).abs() <= 1e-9 * asked.abs());
    found.map(Some).ok_or_else(|| {
        let known: Vec<String> = known().flatten().map(|size| format!("{size}")).collect();
        let hint = if known.is_empty() {
            "leave out `--size`: the records have no `n`".to_owned()
        } else {
            format!("the sizes are {}, in billions of parameters", known.join(", "))
        };
        Error::request_with_hint(format!("the curve has no models of size {asked}"), hint)
    })
}

fn check_groups(groups: &[Group<'_>], form: Form) -> Result<(), Error> {
    let needed = form.n_parameters();
    if groups.len() >= needed {
        return Ok(());
    }
    let known: Vec<String> = groups.iter().map(|group| group.k.to_string()).collect();
    let wanted: Vec<String> = (0..needed).map(|i| (1_u64 << i).to_string()).collect();
    let wanted = wanted.join(", ");
    let hint =
        format!("score merges of other numbers of models too, such as k = {wanted}; `thalweg law curve` makes them");
    let what = match groups {
        [] => "the curve has only the base, no merges".to_owned(),
        [only] => format!("all losses are for k = {}, but a law needs {needed} different k", only.k),
        _ => format!("the curve has losses for k = {}, but a law needs {needed} different k", known.join(", ")),
    };
    Err(Error::request_with_hint(what, hint))
}

fn levels_of(groups: &[Group<'_>], loss: impl Fn(&Unit) -> f64) -> Levels {
    let mean = |group: &Group<'_>| mean(&group.units.iter().map(|unit| loss(unit)).collect::<Vec<_>>());
    Levels { k: groups.iter().map(|group| f64::from(group.k)).collect(), losses: groups.iter().map(mean).collect() }
}

fn competitors(axis: Axis) -> Vec<Form> {
    let mut forms = vec![Form::Reciprocal, Form::Inverse, Form::Power, Form::Exponential];
    if axis == Axis::Checkpoints {
        forms.insert(0, Form::Drift);
    }
    forms
}

/// The law's parameters and points, with all else left empty.
fn begin(axis: Axis, fit: &Fitted, groups: &[Group<'_>], n_billions: Option<f64>) -> MergeLaw {
    let point = |group: &Group<'_>| {
        let losses: Vec<f64> = group.units.iter().map(|unit| unit.macro_loss()).collect();
        let loss = mean(&losses);
        let squares: f64 = losses.iter().map(|one| (one - loss).powi(2)).sum();
        let sd = (losses.len() > 1).then(|| (squares / (losses.len() - 1) as f64).sqrt());
        LevelRow { k: group.k, loss, n_merges: losses.len(), sd, fitted: fit.predict(f64::from(group.k)) }
    };
    let optimum = fit.d().filter(|d| *d > 0.0 && fit.a() > 0.0).map(|d| ((fit.a() / d).sqrt() - fit.b()).max(1.0));
    MergeLaw {
        axis,
        form: fit.form,
        formula: fit.form.formula(),
        l_inf: fit.l_inf(),
        a: fit.a(),
        b: fit.b(),
        d: fit.d(),
        r2: fit.r2,
        n_billions,
        points: groups.iter().map(point).collect(),
        optimum,
        ..MergeLaw::default()
    }
}

/// The k at which the law is drawn: from the least to the largest of those measured and predicted, as powers.
fn ks_to_draw(groups: &[Group<'_>], predict: &[u32]) -> Vec<f64> {
    const N: u32 = 48;
    let ks = || groups.iter().map(|group| group.k).chain(predict.iter().copied()).map(f64::from);
    let (low, high) = (ks().fold(f64::INFINITY, f64::min), ks().fold(0.0, f64::max));
    (0..=N).map(|i| low * (high / low).powf(f64::from(i) / f64::from(N))).collect()
}

fn curve_points(fit: &Fitted, drawn: Option<&Drawn>, along: &[f64]) -> Vec<CurvePoint> {
    let point = |&k: &f64| {
        let interval_95 = drawn.and_then(|drawn| drawn.interval(|one| one.predict(k)));
        CurvePoint { k, loss: fit.predict(k), interval_95 }
    };
    along.iter().map(point).collect()
}

/// Laws of resampled losses.
struct Drawn {
    fits: Vec<Fitted>,
    row: BootstrapRow,
}

impl Drawn {
    fn interval(&self, value: impl Fn(&Fitted) -> f64) -> Option<[f64; 2]> {
        let mut values: Vec<f64> = self.fits.iter().map(value).filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        (values.len() > 1).then(|| [quantile(&values, 0.025), quantile(&values, 0.975)])
    }
}

/// Fits the law again to losses of subsets that are drawn again within each k, or, where each k has one loss, to the
/// law with its residuals drawn again. `None` where neither says anything.
fn bootstrap(groups: &[Group<'_>], levels: &Levels, fit: &Fitted, question: &LawQuestion) -> Option<Drawn> {
    let has_subsets = groups.iter().any(|group| group.units.len() > 1);
    let (n, p) = (groups.len(), fit.form.n_parameters());
    if question.n_resamples == 0 || (!has_subsets && n <= p) {
        return None;
    }
    let losses: Vec<Vec<f64>> =
        groups.iter().map(|group| group.units.iter().map(|unit| unit.macro_loss()).collect()).collect();
    // Residuals as they would be with weight 1, widened for the parameters that were fitted to them.
    let widening = (n as f64 / n.saturating_sub(p).max(1) as f64).sqrt();
    let residuals: Vec<f64> =
        levels.k.iter().zip(&levels.losses).map(|(k, loss)| widening * k.sqrt() * (loss - fit.predict(*k))).collect();
    let mut random = SplitMix::new(question.seed);
    let mut fits = Vec::new();
    for _ in 0..question.n_resamples {
        let drawn: Vec<f64> = if has_subsets {
            let draw = |random: &mut SplitMix, losses: &[f64]| {
                mean(&losses.iter().map(|_| losses[random.below(losses.len())]).collect::<Vec<_>>())
            };
            losses.iter().map(|losses| draw(&mut random, losses)).collect()
        } else {
            levels.k.iter().map(|k| fit.predict(*k) + residuals[random.below(n)] / k.sqrt()).collect()
        };
        fits.extend(fit.form.fit(&Levels { k: levels.k.clone(), losses: drawn }));
    }
    let n_at_bound = u32::try_from(fits.iter().filter(|fit| fit.at_bound.is_some()).count()).unwrap_or(u32::MAX);
    let over = if has_subsets { "subsets" } else { "residuals" };
    let row = BootstrapRow { over, n_resamples: question.n_resamples, n_at_bound, seed: question.seed };
    Some(Drawn { fits, row })
}

/// Why a fit is not a law.
fn refusal_of(fit: &Fitted) -> Option<String> {
    if fit.a() <= 0.0 {
        return Some("the loss does not fall as more models are merged".to_owned());
    }
    match fit.at_bound {
        Some(end) if end > 0.0 => Some(format!(
            "b is at the end of its range, {end}: the losses fall so evenly that the floor cannot be determined"
        )),
        Some(end) => {
            Some(format!("b is at the end of its range, {end}: the losses fall faster at first than the law allows"))
        }
        None => None,
    }
}

fn predictions(
    fit: &Fitted,
    (points, drawn): (&[LevelRow], Option<&Drawn>),
    (pool, refusal): (Option<u32>, Option<&str>),
    predict: &[u32],
) -> Vec<PredictionRow> {
    let (first, last) = (points.first().map_or(0, |point| point.k), points.last().map_or(0, |point| point.k));
    let row = |&k: &u32| {
        let measured = points.iter().find(|point| point.k == k).map(|point| point.loss);
        let is_outside = k < first || k > last;
        if let Some(refusal) = refusal.filter(|_| is_outside) {
            let reason = Some(format!("outside k = {first} to {last}, and {refusal}"));
            return PredictionRow { k, loss: None, interval_95: None, measured, reason };
        }
        let reason = pool
            .filter(|pool| k > *pool)
            .map(|pool| format!("the pool has {}: this assumes more of the same kind", counted(pool, "model")));
        let interval_95 = drawn.and_then(|drawn| drawn.interval(|one| one.predict(f64::from(k))));
        PredictionRow { k, loss: Some(fit.predict(f64::from(k))), interval_95, measured, reason }
    };
    predict.iter().map(row).collect()
}

/// The three points of the closed form: those asked for, else k, 2k and 4k, else the first three.
fn three_points(measured: &[LevelRow], question: &LawQuestion) -> Result<Option<ThreePointRow>, Error> {
    let known: Vec<(u32, f64)> = measured.iter().map(|point| (point.k, point.loss)).collect();
    let has = |k: u32| known.iter().any(|(known, _)| *known == k);
    if let Some(points) = question.points {
        let is_ascending = points[0] < points[1] && points[1] < points[2];
        if !is_ascending || !points.iter().all(|k| has(*k)) {
            let list: Vec<String> = known.iter().map(|(k, _)| k.to_string()).collect();
            return Err(Error::request_with_hint(
                format!(
                    "`--points {},{},{}` are not three measured k in ascending order",
                    points[0], points[1], points[2]
                ),
                format!("the curve has k = {}", list.join(", ")),
            ));
        }
        return Ok(three_point_row(points, &known, &question.predict));
    }
    if question.axis == Axis::Checkpoints {
        return Ok(None);
    }
    let doubling = known.iter().map(|(k, _)| *k).find(|&k| has(k.saturating_mul(2)) && has(k.saturating_mul(4)));
    let points = match (doubling, known.as_slice()) {
        (Some(k), _) => [k, 2 * k, 4 * k],
        (None, [a, b, c, ..]) => [a.0, b.0, c.0],
        _ => return Ok(None),
    };
    Ok(three_point_row(points, &known, &question.predict))
}

fn add_outlook(law: &mut MergeLaw, question: &LawQuestion, pool: Option<u32>) {
    /// Rows of the table of gains.
    const MAX_ROWS: u32 = 64;
    if law.axis == Axis::Checkpoints {
        return;
    }
    let numbers = (law.l_inf, law.a, law.b);
    law.reach = pool.map(|pool| reach_row(numbers, pool));
    let losses = question.target.into_iter().chain(question.within.map(|within| law.l_inf + within));
    law.targets = losses.map(|target| target_row(numbers, target, pool)).collect();
    law.stop = question.least_gain.map(|least| stop_row(law.a, law.b, least));
    let last = law.points.iter().map(|point| point.k).max().unwrap_or(1);
    let marginal = |k: u32| MarginalRow { k, gain: marginal_gain(law.a, law.b, k) };
    law.marginal = (1..=last.min(MAX_ROWS)).map(marginal).collect();
}

fn domain_rows(curve: &Curve, groups: &[Group<'_>], form: Form) -> Vec<DomainRow> {
    let row = |(i, name): (usize, &String)| {
        let fit = form.fit(&levels_of(groups, |unit| unit.losses[i]))?;
        let domain = name.clone();
        Some(DomainRow { domain, l_inf: fit.l_inf(), a: fit.a(), b: fit.b(), r2: fit.r2, at_bound: fit.at_bound })
    };
    curve.domains.iter().enumerate().filter_map(row).collect()
}

/// What a reader must know beside the numbers.
fn warnings(law: &MergeLaw, base: Option<f64>, pool: Option<u32>) -> Vec<String> {
    /// A difference in AICc that says something.
    const TELLING: f64 = 2.0;
    /// A share of resamples at a bound that says something.
    const MANY: f64 = 0.05;
    let mut warnings = Vec::new();
    // Means of equal losses differ by their rounding.
    let is_rise = |pair: &&[LevelRow]| pair[1].loss - pair[0].loss > 1e-12 * pair[0].loss.abs();
    let rise = law.points.windows(2).find(is_rise);
    if let Some([before, after]) = rise {
        let hint = if law.axis == Axis::Experts { "; for checkpoints of one run add `--checkpoints`" } else { "" };
        warnings.push(format!(
            "the mean loss rises from k = {} ({:.4}) to k = {} ({:.4}){hint}",
            before.k, before.loss, after.k, after.loss
        ));
    }
    if let Some((base, worst)) = base.zip(law.points.first()).filter(|(base, first)| first.loss > *base) {
        warnings.push(format!("k = {} scores {:.4}, worse than the base ({base:.4})", worst.k, worst.loss));
    }
    let own = law.forms.iter().find(|row| row.form == law.form).and_then(|row| row.aicc);
    let best = law
        .forms
        .iter()
        .filter(|row| row.aicc.is_some())
        .min_by(|a, b| a.aicc.partial_cmp(&b.aicc).unwrap_or(std::cmp::Ordering::Equal));
    if let (Some(own), Some(best)) = (own, best) {
        let ahead = own - best.aicc.unwrap_or(own);
        if ahead > TELLING {
            warnings.push(format!("`{}` fits better than the law (AICc lower by {ahead:.1})", best.formula));
        }
    }
    if let Some(bootstrap) = &law.bootstrap {
        let share = f64::from(bootstrap.n_at_bound) / f64::from(bootstrap.n_resamples.max(1));
        if share > MANY {
            warnings.push(format!(
                "b is at an end of its range in {:.0} % of the resamples: the floor is poorly determined",
                share * 100.0
            ));
        }
        if bootstrap.over == "residuals" {
            warnings.push(
                "each k has one loss, so the intervals show how far the law is off, not how subsets differ".to_owned(),
            );
        }
    }
    if let Some(reason) = law.three_point.as_ref().and_then(|row| row.reason.as_ref()) {
        warnings.push(format!("no forecast from three points: {reason}"));
    }
    if law.axis == Axis::Experts && pool.is_some_and(|pool| law.points.iter().any(|point| point.k == pool)) {
        warnings.push(
            "the floor is for infinitely many models of this kind; these reach only the loss of merging all of them"
                .to_owned(),
        );
    }
    if law.axis == Axis::Checkpoints && law.optimum.is_none() {
        warnings.push("no drift found: more checkpoints are not worse over these k".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::read_curve;
    use super::*;
    use crate::least_squares::Observed;

    /// Macro cross-entropy of 16 domains, LLaMA 3B (Wang et al. 2025, arXiv 2509.24244).
    const SIXTEEN_DOMAINS: [(u32, f64); 8] =
        [(2, 0.7774), (4, 0.7331), (6, 0.7051), (8, 0.6874), (10, 0.6685), (12, 0.6603), (14, 0.6509), (16, 0.6437)];

    fn curve_of(losses: &[(u32, f64)]) -> Curve {
        let lines: String = losses.iter().map(|(k, loss)| format!("{{\"k\": {k}, \"loss\": {loss}}}\n")).collect();
        read_curve(&lines).unwrap()
    }

    fn fit(losses: &[(u32, f64)], question: LawQuestion) -> MergeLaw {
        fit_merge_law(&curve_of(losses), &question).unwrap()
    }

    /// As the command asks.
    fn asked() -> LawQuestion {
        LawQuestion { n_resamples: 1000, ..LawQuestion::default() }
    }

    #[test]
    fn the_published_curve_of_sixteen_domains_has_a_large_offset() {
        let law = fit(&SIXTEEN_DOMAINS, LawQuestion { predict: vec![16], ..asked() });
        let (first, last) = (law.curve[0], law.curve[law.curve.len() - 1]);
        assert!((first.k - 2.0).abs() < 1e-12 && (last.k - 16.0).abs() < 1e-9, "{first:?} {last:?}");
        assert!(
            (last.loss - law.points[7].fitted).abs() < 1e-9 && last.interval_95.is_some_and(|[low, high]| low < high)
        );
        assert!(law.forms.iter().all(|form| (form.curve[48] - form.predictions[0]).abs() < 1e-9));
        assert!((law.b - 5.2).abs() < 0.1 && (law.l_inf - 0.575).abs() < 1e-3, "{} {}", law.b, law.l_inf);
        assert!((law.a - 1.46).abs() < 0.02 && (law.r2 - 0.9993).abs() < 5e-5, "{} {}", law.a, law.r2);
        assert_eq!(law.refusal, None);
        // From 2, 4 and 8 alone, 16 is 0.650; it was 0.6437. With b = 0 it would be 0.680.
        let three = law.three_point.unwrap();
        assert_eq!(three.k, [2, 4, 8]);
        let at = three.predictions.iter().find(|one| one.k == 16).unwrap();
        assert!((at.loss - 0.650).abs() < 5e-4 && (at.measured.unwrap() - 0.6437).abs() < 1e-12, "{at:?}");
        let thirds = Observed { values: &[0.7774, 0.7331, 0.6874], weights: &[1.0; 3] };
        let without = thirds.fit(&[vec![0.5, 0.25, 0.125]]).unwrap().coefficients;
        assert!((without[0] + without[1] / 16.0 - 0.680).abs() < 5e-4, "{without:?}");
        let inverse = law.forms.iter().find(|row| row.form == Form::Inverse).unwrap();
        assert!(inverse.delta_aicc.unwrap() > 20.0 && inverse.r2 < 0.93, "{inverse:?}");
    }

    #[test]
    fn other_published_curves_keep_their_fits() {
        // LLaMA 3.2 3B: L 0.7137, A 0.0783, b 0.6875, with L(1) = 0.7599 and L(9) = 0.7221.
        let loss = |k: u32| 0.7137 + 0.0783 / (f64::from(k) + 0.6875);
        assert!((loss(1) - 0.7599).abs() < 5e-4 && (loss(9) - 0.7221).abs() < 5e-4);
        let losses: Vec<(u32, f64)> = (1..=9).map(|k| (k, loss(k))).collect();
        let law = fit(&losses, asked());
        assert!((law.b - 0.6875).abs() < 1e-5 && (law.a - 0.0783).abs() < 1e-7 && (law.l_inf - 0.7137).abs() < 1e-8);
        // Eight experts, all subsets: the closed form of 1, 2, 4 has b = -0.11 and gives k = 8 to the last digit.
        let eight = [2.2788, 2.1471, 2.1064, 2.0866, 2.0749, 2.0671, 2.0617, 2.0576];
        let losses: Vec<(u32, f64)> = (1..=8).zip(eight).collect();
        let law = fit(&losses, asked());
        let three = law.three_point.unwrap();
        assert!((three.law.unwrap().b + 0.11).abs() < 0.01);
        let at = three.predictions.iter().find(|one| one.k == 8).unwrap();
        assert!(at.error.unwrap().abs() < 1e-4, "{at:?}");
    }

    #[test]
    fn means_that_differ_by_rounding_do_not_rise() {
        // The mean of six times 1.142 is below 1.142, the mean of four is not.
        let subsets = [(1, 4, 1.4), (2, 6, 1.142), (3, 4, 1.142), (4, 1, 1.142)];
        let line = |k: u32, i: u32, loss: f64| format!("{{\"k\": {k}, \"subset\": \"{i}\", \"loss\": {loss}}}\n");
        let lines: String = subsets.iter().flat_map(|&(k, n, loss)| (0..n).map(move |i| line(k, i, loss))).collect();
        let law = fit_merge_law(&read_curve(&lines).unwrap(), &LawQuestion::default()).unwrap();
        assert!(law.points[1].loss < law.points[2].loss, "{:?}", law.points);
        assert!(!law.warnings.iter().any(|warning| warning.contains("rises")), "{:?}", law.warnings);
    }

    fn curve_with_subsets() -> Curve {
        let noise = |i: u32| f64::from((i * 37) % 11) / 11.0 - 0.45;
        let mut lines = String::new();
        for k in 1..=6_u32 {
            for i in 0..12 {
                let loss = 2.0 + 0.5 / (f64::from(k) + 1.0) + 0.02 * noise(i + 5 * k) / f64::from(k);
                lines.push_str(&format!("{{\"k\": {k}, \"subset\": \"{i}\", \"loss\": {loss}}}\n"));
            }
        }
        read_curve(&lines).unwrap()
    }

    #[test]
    fn intervals_over_subsets_hold_the_planted_law_and_repeat_their_bits() {
        let curve = curve_with_subsets();
        let question = LawQuestion { predict: vec![12], n_resamples: 200, ..asked() };
        let law = fit_merge_law(&curve, &question).unwrap();
        assert_eq!(law.bootstrap.as_ref().unwrap().over, "subsets");
        let holds =
            |interval: Option<[f64; 2]>, value: f64| interval.is_some_and(|[low, high]| low < value && value < high);
        assert!(
            holds(law.l_inf_interval_95, 2.0) && holds(law.a_interval_95, 0.5) && holds(law.b_interval_95, 1.0),
            "{law:?}"
        );
        assert!(holds(law.predictions[0].interval_95, 2.0 + 0.5 / 13.0));
        assert_eq!(fit_merge_law(&curve, &question).unwrap(), law);
        let other = fit_merge_law(&curve, &LawQuestion { seed: 1, ..question }).unwrap();
        assert_ne!(other.b_interval_95, law.b_interval_95);
        assert_eq!(other.b.to_bits(), law.b.to_bits());
    }

    #[test]
    fn a_finite_pool_a_target_and_a_stop_follow_from_the_law() {
        let losses: Vec<(u32, f64)> = (1..=8).map(|k| (k, 2.0 + 0.4 / (f64::from(k) + 0.5))).collect();
        let question = LawQuestion {
            pool: Some(8),
            target: Some(2.05),
            within: Some(0.1),
            least_gain: Some(0.01),
            predict: vec![8, 20],
            ..asked()
        };
        let law = fit(&losses, question);
        let reach = law.reach.unwrap();
        assert!((reach.loss - (2.0 + 0.4 / 8.5)).abs() < 1e-6 && reach.k80 <= reach.k90);
        // 0.4 / 0.05 - 0.5 = 7.5; 0.4 / 0.1 - 0.5 = 3.5.
        assert_eq!((law.targets[0].k, law.targets[1].k), (Some(8.0), Some(4.0)));
        // 0.4 / ((k + 0.5)(k + 1.5)) is 0.0112 at 5 and 0.0082 at 6.
        assert_eq!(law.stop.unwrap().k, 6);
        assert!(law.predictions[1].reason.as_ref().unwrap().contains("the pool has 8 models"));
        assert!(law.warnings.iter().any(|warning| warning.contains("infinitely many")));
    }

    #[test]
    fn checkpoints_of_one_run_have_a_best_number() {
        let losses: Vec<(u32, f64)> =
            [1, 2, 3, 4, 6, 8, 12, 16].map(|k| (k, 2.0 + 0.3 / f64::from(k) + 0.003 * (f64::from(k) - 1.0))).to_vec();
        let law = fit(&losses, LawQuestion { axis: Axis::Checkpoints, ..asked() });
        // sqrt(0.3 / 0.003) - 0.
        assert!((law.optimum.unwrap() - 10.0).abs() < 1e-3, "{:?}", law.optimum);
        assert!((law.d.unwrap() - 0.003).abs() < 1e-7);
        // As experts they are told apart.
        let law = fit(&losses, asked());
        assert!(law.warnings.iter().any(|warning| warning.contains("`--checkpoints`")), "{:?}", law.warnings);
    }

    #[test]
    fn curves_without_a_law_say_why_and_extrapolate_nothing() {
        let predict = LawQuestion { predict: vec![2, 50], ..asked() };
        let line: Vec<(u32, f64)> = (1..=6).map(|k| (k, 3.0 - 0.1 * f64::from(k))).collect();
        let law = fit(&line, predict.clone());
        assert!(law.refusal.unwrap().contains("b is at the end of its range, 30"));
        assert!(law.predictions[0].loss.is_some() && law.predictions[1].loss.is_none());
        let cliff = [(1, 3.0), (2, 2.0), (3, 2.0), (4, 2.0)];
        assert!(fit(&cliff, predict.clone()).refusal.unwrap().contains("-0.5"));
        let rising: Vec<(u32, f64)> = (1..=6).map(|k| (k, 3.0 - 0.5 / f64::from(k))).collect();
        assert!(fit(&rising, predict).refusal.unwrap().contains("does not fall"));
    }

    #[test]
    fn too_little_is_an_error_with_a_way_on() {
        let error = |losses: &[(u32, f64)], question: LawQuestion| {
            let error = fit_merge_law(&curve_of(losses), &question).unwrap_err();
            assert!(error.hint().is_some(), "{error}");
            error.to_string()
        };
        let plain = asked();
        assert_eq!(
            error(&[(4, 2.0), (4, 2.1)], plain.clone()),
            "all losses are for k = 4, but a law needs 3 different k"
        );
        assert!(error(&[(1, 2.0), (2, 1.9)], plain.clone()).contains("losses for k = 1, 2, but a law needs 3"));
        assert!(error(&[(0, 2.0)], plain.clone()).contains("only the base"));
        let three = [(1, 2.0), (2, 1.9), (3, 1.85)];
        assert!(error(&three, LawQuestion { axis: Axis::Checkpoints, ..plain.clone() }).contains("needs 4"));
        assert!(error(&three, LawQuestion { points: Some([1, 2, 4]), ..plain.clone() }).contains("--points"));
        assert!(error(&three, LawQuestion { n_billions: Some(7.0), ..plain }).contains("no models of size 7"));
    }

    #[test]
    fn sizes_have_a_law_each_and_one_together() {
        let planted = JointLaw { l_star: 0.2, b_size: 0.2, beta: 0.4, a0: 0.08, gamma: 0.14, b: 0.4, r2: 1.0 };
        let mut lines = String::new();
        for n in [0.5, 1.5, 3.0, 7.0, 14.0] {
            for k in 1..=8_u32 {
                let loss = planted.predict(n, f64::from(k));
                lines.push_str(&format!("{{\"k\": {k}, \"n\": {n}, \"loss\": {loss}}}\n"));
            }
        }
        let question = LawQuestion { target: Some(0.3), n_resamples: 0, ..asked() };
        let law = fit_merge_law(&read_curve(&lines).unwrap(), &question).unwrap();
        assert_eq!((law.n_billions, law.sizes.len()), (Some(14.0), 5));
        assert!((law.b - 0.4).abs() < 1e-5);
        let joint = law.joint.unwrap();
        assert!((joint.beta - 0.4).abs() < 1e-3 && (joint.gamma - 0.14).abs() < 1e-3, "{joint:?}");
        // The smallest never gets there; of those that do, the larger need fewer.
        let needed: Vec<Option<f64>> = law.sizes.iter().map(|size| size.k_for_target).collect();
        assert_eq!(needed[0], None);
        assert!(needed[3].unwrap() > needed[4].unwrap(), "{needed:?}");
        let of_three = LawQuestion { n_billions: Some(3.0), ..asked() };
        assert_eq!(fit_merge_law(&read_curve(&lines).unwrap(), &of_three).unwrap().n_billions, Some(3.0));
    }
}
