//! Can averages of these components be trusted? Sizes and directions of their deltas, and losses between them.

use std::collections::BTreeMap;

use serde::Serialize;
use thalweg_checkpoint::ReadOptions;
use thalweg_merge::Coefficients;
use thalweg_merge::context::RunContext;
use thalweg_merge::plan::SourceRef;
use thalweg_model::{Model, ModelConfig};

use super::space::Component;
use crate::Error;
use crate::engine_evaluator::merge_models;
use crate::evaluator::Evaluator;
use crate::explain::measure_gram;
use crate::record::CostRow;
use crate::request::Resolver;
use crate::tensor_groups::tensor_class_of;

/// A delta that is larger is no longer small beside the parameters; the paper's are 0.1.
const RISKY_SIZE: f64 = 0.15;
/// Unrelated models of the same scale are at 0.7: such a component was not trained from this base.
const UNRELATED_SIZE: f64 = 0.5;

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRequest {
    /// What the components were trained from.
    pub base: SourceRef,
    /// The components.
    pub components: Vec<Component>,
}

/// Whether averages can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing speaks against it.
    Ok,
    /// Something does: compare with real runs first.
    Risky,
    /// They are not components of one base.
    Refuse,
}

/// One component beside the base.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentRow {
    /// Its name.
    pub name: String,
    /// Sum of |component - base| over the sum of |component| and |base|.
    pub size: f64,
    /// The same for each class of tensors.
    pub size_by_class: BTreeMap<String, f64>,
    /// Cosine of its delta with that of each other component; nothing where one has no length.
    pub cosines: BTreeMap<String, Option<f64>>,
}

/// The mean of two components.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MidpointRow {
    /// The two.
    pub between: [String; 2],
    /// `task/measure`.
    pub measure: String,
    /// What the mean scored.
    pub midpoint: f64,
    /// What the two scored.
    pub ends: [f64; 2],
    /// How much worse the mean is than the worse end; negative where it is better.
    pub barrier: f64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckOutcome {
    /// The verdict.
    pub verdict: Verdict,
    /// What speaks against it.
    pub reasons: Vec<String>,
    /// By component.
    pub components: Vec<ComponentRow>,
    /// Means of pairs; nothing without a suite.
    pub midpoints: Vec<MidpointRow>,
    /// What it took.
    pub cost: CostRow,
}

/// Compares components with their base, and means of pairs with the pairs where there is an evaluator.
///
/// Base and one component are in memory at a time.
///
/// # Errors
/// `Merge` for models that cannot be averaged; what opening and scoring give.
pub fn check_components(
    request: &CheckRequest,
    evaluator: Option<&mut dyn Evaluator>,
    (resolver, cx): (&Resolver<'_>, &RunContext<'_>),
) -> Result<CheckOutcome, Error> {
    let began = cx.host.elapsed_seconds();
    // The base is last: products are then of deltas.
    let sources: Vec<SourceRef> =
        request.components.iter().map(|one| &one.source).chain([&request.base]).cloned().collect();
    let gram = measure_gram(&resolver.geometry_plan(&sources)?, cx)?;
    let cosine = |i: usize, j: usize| {
        let length = (gram.relative(i, i) * gram.relative(j, j)).sqrt();
        (length > 0.0).then(|| gram.relative(i, j) / length)
    };
    let path = &request.base.path;
    let checkpoint = cx.pool.open(path, &ReadOptions::default())?;
    let config = checkpoint.config().ok_or_else(|| thalweg_eval::Error::ConfigMissing { path: path.clone() })?;
    let config = ModelConfig::from_json(config)?;
    let mut bytes_read = 0;
    let mut load = |source: &SourceRef| -> Result<Model, Error> {
        let output = resolver.unwritten("component", std::slice::from_ref(source), &Coefficients::new([1], 1)?);
        let (mut models, n_bytes) = merge_models(&[output], &config, &mut Vec::new(), cx)?;
        bytes_read += n_bytes;
        models.pop().ok_or(Error::Bug { what: "one output is one model" })
    };
    let base = load(&request.base)?;
    let mut components = Vec::new();
    for (i, one) in request.components.iter().enumerate() {
        let (size, size_by_class) = size_of(&load(&one.source)?, &base);
        let others = request.components.iter().enumerate().filter(|(j, _)| *j != i);
        let cosines = others.map(|(j, other)| (other.name.clone(), cosine(i, j))).collect();
        components.push(ComponentRow { name: one.name.clone(), size, size_by_class, cosines });
    }
    let mut cost = CostRow { bytes_read, ..CostRow::default() };
    let mut midpoints = Vec::new();
    if let Some(evaluator) = evaluator {
        midpoints = score_midpoints(request, evaluator, resolver)?;
        let scored = evaluator.cost();
        cost = CostRow { bytes_read: cost.bytes_read + scored.bytes_read, ..scored };
    }
    cost.seconds = cx.host.elapsed_seconds() - began;
    let (verdict, reasons) = judge(&components, &midpoints);
    Ok(CheckOutcome { verdict, reasons, components, midpoints, cost })
}

/// The size of a delta, whole and by class of tensors.
fn size_of(model: &Model, base: &Model) -> (f64, BTreeMap<String, f64>) {
    let mut sums: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for spec in model.layout().specs() {
        let sum = sums.entry(tensor_class_of(&spec.name)).or_default();
        let pairs = model.params()[spec.range.clone()].iter().zip(&base.params()[spec.range.clone()]);
        for (own, base) in pairs {
            let (own, base) = (f64::from(*own), f64::from(*base));
            sum[0] += (own - base).abs();
            sum[1] += own.abs() + base.abs();
        }
    }
    let share = |[delta, both]: [f64; 2]| if both > 0.0 { delta / both } else { 0.0 };
    let whole = sums.values().fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d]);
    (share(whole), sums.into_iter().map(|(class, sum)| (class, share(sum))).collect())
}

fn score_midpoints(
    request: &CheckRequest,
    evaluator: &mut dyn Evaluator,
    resolver: &Resolver<'_>,
) -> Result<Vec<MidpointRow>, Error> {
    let n = request.components.len();
    let one = Coefficients::new([1], 1)?;
    let point = |one_of: &Component| resolver.unwritten(&one_of.name, std::slice::from_ref(&one_of.source), &one);
    let points: Vec<_> = request.components.iter().map(point).collect();
    let pairs: Vec<[usize; 2]> = (0..n).flat_map(|i| (i + 1..n).map(move |j| [i, j])).collect();
    let alone = (0..n).map(|i| vec![i]);
    let subsets: Vec<Vec<usize>> = alone.chain(pairs.iter().map(|pair| pair.to_vec())).collect();
    let mut scores = Vec::new();
    for subset in &subsets {
        let mean = Coefficients::new((0..n).map(|i| i64::from(subset.contains(&i))), subset.len() as u64)?;
        scores.extend(evaluator.score_combinations(&points, &[mean], &mut |_, _| {})?);
    }
    let mut rows = Vec::new();
    for (pair, mean) in pairs.iter().zip(&scores[n..]) {
        for task in &mean.tasks {
            let [Some(a), Some(b)] = pair.map(|i| scores[i].find(task)) else { continue };
            rows.push(MidpointRow {
                between: pair.map(|i| request.components[i].name.clone()),
                measure: task.name(),
                midpoint: task.value,
                ends: [a.value, b.value],
                barrier: task.cost() - a.cost().max(b.cost()),
            });
        }
    }
    Ok(rows)
}

fn judge(components: &[ComponentRow], midpoints: &[MidpointRow]) -> (Verdict, Vec<String>) {
    let (mut verdict, mut reasons) = (Verdict::Ok, Vec::new());
    let mut say = |how: Verdict, reason: String| {
        verdict = verdict.max(how);
        reasons.push(reason);
    };
    for one in components {
        let name = &one.name;
        match one.size {
            size if size.is_nan() => say(Verdict::Refuse, format!("`{name}` holds values that are not finite")),
            0.0 => say(Verdict::Refuse, format!("`{name}` is the base itself: it was not trained")),
            size if size > UNRELATED_SIZE => say(
                Verdict::Refuse,
                format!("the delta of `{name}` is {size:.2} of the parameters: it was not trained from this base"),
            ),
            size if size > RISKY_SIZE => say(
                Verdict::Risky,
                format!("the delta of `{name}` is {size:.2} of the parameters, more than {RISKY_SIZE}"),
            ),
            _ => {}
        }
    }
    for row in midpoints.iter().filter(|row| row.barrier > 0.0) {
        let [a, b] = &row.between;
        say(
            Verdict::Risky,
            format!("the mean of `{a}` and `{b}` is {:.4} worse than both on {}", row.barrier, row.measure),
        );
    }
    (verdict, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_sizes_and_barriers() {
        let component = |size: f64| ComponentRow {
            name: "code".to_owned(),
            size,
            size_by_class: BTreeMap::new(),
            cosines: BTreeMap::new(),
        };
        let midpoint = |barrier: f64| MidpointRow {
            between: ["code".to_owned(), "math".to_owned()],
            measure: "a/loss".to_owned(),
            midpoint: 2.0 + barrier,
            ends: [1.0, 2.0],
            barrier,
        };
        let verdict = |size: f64, barrier: f64| judge(&[component(size)], &[midpoint(barrier)]).0;
        assert_eq!(verdict(0.1, -0.1), Verdict::Ok);
        assert_eq!(verdict(0.15, 0.0), Verdict::Ok);
        assert_eq!(verdict(0.16, -0.1), Verdict::Risky);
        assert_eq!(verdict(0.1, 0.01), Verdict::Risky);
        assert_eq!(verdict(0.6, -0.1), Verdict::Refuse);
        assert_eq!(verdict(0.0, -0.1), Verdict::Refuse);
        assert_eq!(verdict(f64::NAN, -0.1), Verdict::Refuse);
        assert!(judge(&[component(0.7)], &[]).1[0].contains("not trained from this base"));
    }
}
