//! Tables of how far forecasts of anneals are off, by run: `validate_forecast < CASES.jsonl`, cases as
//! `runs/forecast/cases.sh` makes them.
//!
//! A run is named `CONFIGURATION/seed-N/trunk`. Every case is forecast from cases of other runs only.

#![expect(clippy::print_stdout, reason = "an example that prints tables")]
#![expect(clippy::cast_precision_loss, reason = "counts of cases and steps")]

use std::collections::BTreeMap;
use std::error::Error;

use thalweg_study::forecast::calibrate::Calibration;
use thalweg_study::forecast::case::{Case, read_cases};

/// How one case came out.
struct Row {
    group: String,
    error: f64,
    gain: f64,
    /// Whether the truth was within 80 and 95 %.
    is_within: Option<[bool; 2]>,
}

fn configuration(case: &Case) -> &str {
    case.run.split('/').next().unwrap_or(&case.run)
}

/// Runs with the same configuration differ by seed; each shape of the anneal is a separate group.
fn group(case: &Case) -> String {
    let shape = if case.curve == "linear" { "" } else { ", 1-sqrt" };
    format!("{}{shape}", configuration(case))
}

fn main() -> Result<(), Box<dyn Error>> {
    let cases = read_cases(&std::io::read_to_string(std::io::stdin())?)?;
    let losses: Vec<Case> = cases.iter().filter(|case| !case.is_accuracy()).cloned().collect();
    let accuracies: Vec<Case> = cases.iter().filter(|case| case.is_accuracy()).cloned().collect();
    let runs: std::collections::BTreeSet<&str> = losses.iter().map(|case| case.run.as_str()).collect();
    println!(
        "{} anneals from {} runs; errors are shares of the true gain of the anneal over the newest checkpoint.\n",
        losses.len(),
        runs.len()
    );
    println!(
        "| forecast | n | refused | mean abs. error | bias | median | largest | summed error / summed gain | in 80 % | in 95 % |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let other_seeds = |case: &Case| keep(&cases, |c| configuration(c) == configuration(case) && c.run != case.run);
    let other_configurations = |case: &Case| keep(&cases, |c| configuration(c) != configuration(case));
    let same_seed_rows = learned(&losses, &other_seeds, &other_configurations);
    print("learned from other seeds, held towards other configurations", &losses, &same_seed_rows);
    print("learned from other seeds alone", &losses, &learned(&losses, &other_seeds, &|_| Vec::new()));
    let foreign = learned(&losses, &|_| Vec::new(), &other_configurations);
    print("learned from other configurations alone: no past anneal of this one", &losses, &foreign);
    let is_accepted = |case: &Case| case.merge_gain() > case.lag_cost().max(0.0);
    let accepted = keep(&losses, is_accepted);
    print("raw: the newest checkpoint", &accepted, &plain(&accepted, |case| Some(case.raw)));
    print("the mean over the anneal's span, as it is", &accepted, &plain(&accepted, |case| Some(case.full)));
    print(
        "the best of the three means",
        &accepted,
        &plain(&accepted, |case| Some(case.full.min(case.half).min(case.thin))),
    );
    let shifted = |case: &Case| Some(case.full - mean_lead(&other_configurations(case)) * case.merge_gain());
    print("the mean over the span and a mean correction (other configurations)", &accepted, &plain(&accepted, shifted));
    print(
        "raw losses of earlier ends, linear in the log of steps",
        &accepted,
        &plain(&accepted, |case| extrapolate(case, &losses)),
    );
    println!("\nBy configuration, learned from other seeds / from other configurations alone:\n");
    println!(
        "| configuration | n | mean abs. error | largest | mean abs. error | largest |\n|---|---|---|---|---|---|"
    );
    let (near, far) = (by_group(&same_seed_rows), by_group(&foreign));
    for (name, rows) in &near {
        let others = far.get(name).map(|rows| describe(rows)).unwrap_or_default();
        let own = describe(rows);
        println!("| {name} | {} | {:.3} | {:.3} | {:.3} | {:.3} |", rows.len(), own.0, own.1, others.0, others.1);
    }
    print_accuracies(&accuracies, &cases);
    let all = Calibration::fit(&[], &cases).ok_or("no cases")?;
    println!("\nAll cases together: {}; coefficients {:?}.", all.describe(), all.coefficients());
    Ok(())
}

fn keep(cases: &[Case], is_kept: impl Fn(&Case) -> bool) -> Vec<Case> {
    cases.iter().filter(|case| is_kept(case)).cloned().collect()
}

fn learned(cases: &[Case], own: &dyn Fn(&Case) -> Vec<Case>, others: &dyn Fn(&Case) -> Vec<Case>) -> Vec<Row> {
    let forecast = |case: &Case| {
        let calibration = Calibration::fit(&own(case), &others(case))?;
        let predicted = calibration.predict(case).ok()?;
        let (truth, gain) = (case.truth?, case.anneal_gain()?);
        let holds = |[low, high]: [f64; 2]| low <= truth && truth <= high;
        let is_within = Some([holds(predicted.interval_80), holds(predicted.interval_95)]);
        Some(Row { group: group(case), error: predicted.value - truth, gain, is_within })
    };
    cases.iter().filter_map(forecast).collect()
}

fn plain(cases: &[Case], value: impl Fn(&Case) -> Option<f64>) -> Vec<Row> {
    let row = |case: &Case| {
        let (truth, gain) = (case.truth?, case.anneal_gain()?);
        Some(Row { group: group(case), error: value(case)? - truth, gain, is_within: None })
    };
    cases.iter().filter_map(row).collect()
}

fn mean_lead(cases: &[Case]) -> f64 {
    let useful = cases.iter().filter(|case| !case.is_accuracy() && case.merge_gain() > case.lag_cost().max(0.0));
    let leads: Vec<f64> = useful.filter_map(Case::lead).collect();
    leads.iter().sum::<f64>() / leads.len().max(1) as f64
}

/// Raw losses at earlier ends of the same run, as a line in the log of the step, carried on to this end.
fn extrapolate(case: &Case, all: &[Case]) -> Option<f64> {
    let earlier: BTreeMap<u64, f64> =
        all.iter().filter(|c| c.run == case.run && c.end_step < case.end_step).map(|c| (c.end_step, c.raw)).collect();
    let points: Vec<(f64, f64)> = earlier.into_iter().map(|(step, raw)| ((step as f64).ln(), raw)).collect();
    let n = points.len() as f64;
    if points.len() < 3 {
        return None;
    }
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let slope = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>()
        / points.iter().map(|p| (p.0 - mx).powi(2)).sum::<f64>();
    Some(my + slope * ((case.end_step as f64).ln() - mx))
}

fn print(name: &str, asked: &[Case], rows: &[Row]) {
    let n = rows.len().max(1) as f64;
    let mut shares: Vec<f64> = rows.iter().map(|row| (row.error / row.gain).abs()).collect();
    shares.sort_by(f64::total_cmp);
    let mean = shares.iter().sum::<f64>() / n;
    let bias = rows.iter().map(|row| row.error / row.gain).sum::<f64>() / n;
    let summed = rows.iter().map(|row| row.error.abs()).sum::<f64>() / rows.iter().map(|row| row.gain).sum::<f64>();
    let median = shares.get(shares.len() / 2).copied().unwrap_or(f64::NAN);
    let largest = shares.last().copied().unwrap_or(f64::NAN);
    let share = |k: usize| {
        let known: Vec<bool> = rows.iter().filter_map(|row| Some(row.is_within?[k])).collect();
        if known.is_empty() {
            return "-".to_owned();
        }
        format!("{:.1} %", 100.0 * known.iter().filter(|is| **is).count() as f64 / known.len() as f64)
    };
    println!(
        "| {name} | {} | {} | {mean:.3} | {bias:+.3} | {median:.3} | {largest:.3} | {summed:.3} | {} | {} |",
        rows.len(),
        asked.len() - rows.len(),
        share(0),
        share(1)
    );
}

fn by_group(rows: &[Row]) -> BTreeMap<String, Vec<&Row>> {
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry(row.group.clone()).or_default().push(row);
    }
    groups
}

fn describe(rows: &[&Row]) -> (f64, f64) {
    let shares = || rows.iter().map(|row| (row.error / row.gain).abs());
    (shares().sum::<f64>() / rows.len().max(1) as f64, shares().fold(0.0, f64::max))
}

fn print_accuracies(accuracies: &[Case], cases: &[Case]) {
    println!(
        "\nAccuracies ({} anneals), in points of a hundred; learned from other configurations:\n",
        accuracies.len()
    );
    println!("| forecast | n | mean abs. error | bias | in 80 % | in 95 % |\n|---|---|---|---|---|---|");
    let others = |case: &Case| keep(cases, |c| configuration(c) != configuration(case));
    let rows = learned(accuracies, &|_| Vec::new(), &others);
    let raw = plain(accuracies, |case| Some(case.raw));
    for (name, rows) in [("the mean over the span, with its interval", &rows), ("raw: the newest checkpoint", &raw)] {
        let n = rows.len().max(1) as f64;
        let error = 100.0 * rows.iter().map(|row| row.error.abs()).sum::<f64>() / n;
        let bias = 100.0 * rows.iter().map(|row| row.error).sum::<f64>() / n;
        let share = |k: usize| {
            let known: Vec<bool> = rows.iter().filter_map(|row| Some(row.is_within?[k])).collect();
            if known.is_empty() {
                "-".to_owned()
            } else {
                format!("{:.1} %", 100.0 * known.iter().filter(|is| **is).count() as f64 / known.len() as f64)
            }
        };
        println!("| {name} | {} | {error:.2} | {bias:+.2} | {} | {} |", rows.len(), share(0), share(1));
    }
}
