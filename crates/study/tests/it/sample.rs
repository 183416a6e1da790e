//! A made-up study, marked as such: round numbers and a fixed noise, in the shape that real ones have.

use thalweg_study::report::*;

/// Steps between checkpoints.
const EVERY: u64 = 40;
const LAST: u64 = 2_000;
const FORK: u64 = 1_600;

/// A fixed sequence in -1..1.
fn noise(i: u64) -> f64 {
    let bits = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    f64::from(u32::try_from(bits >> 32).unwrap()) / f64::from(u32::MAX) * 2.0 - 1.0
}

fn smooth(step: u64) -> f64 {
    1.9 + 4.0 * (-(step as f64) / 120.0).exp() + 0.6 * (-(step as f64) / 900.0).exp()
}

fn held_out(nll_nats: f64) -> Vec<HeldOut> {
    let score = |split, shift| HeldOut {
        split,
        nll_nats: nll_nats + shift,
        standard_error: 0.012,
        bits_per_byte: (nll_nats + shift) * 0.44,
        n_documents: 240,
        n_tokens: 61_440,
    };
    vec![score(Split::Validation, 0.012), score(Split::Test, 0.0)]
}

fn raw(step: u64) -> ScoredModel {
    let nll = smooth(step) + 0.02 * noise(step) + 0.05;
    ScoredModel {
        name: format!("raw, step {step}"),
        role: Role::Raw,
        step,
        merge: None,
        scores: held_out(nll),
        digest: Some(format!("blake3:{step:064x}")),
    }
}

fn merged(scheme: &str, n: u64, end: u64) -> ScoredModel {
    let coefficient = |i: u64| match scheme {
        "wma" => 2.0 * i as f64 / (n * (n + 1)) as f64,
        "ema:0.2" if i == 1 => 0.8f64.powf((n - 1) as f64),
        "ema:0.2" => 0.2 * 0.8f64.powf((n - i) as f64),
        _ => 1.0 / n as f64,
    };
    let sources = (1..=n).map(|i| MergeSource { step: end - (n - i) * EVERY, coefficient: coefficient(i) });
    let lag = match scheme {
        "wma" => n as f64 / 3.0,
        _ => n as f64 / 2.0,
    };
    let nll = smooth(end) + 0.06 / n as f64 + 0.0011 * lag + 0.002;
    ScoredModel {
        name: format!("{scheme} of {n}, step {end}"),
        role: Role::Merged,
        step: end,
        merge: Some(MergeOf {
            scheme: scheme.to_owned(),
            interval_steps: EVERY,
            sources: sources.collect(),
            plan_digest: Some("0".repeat(64)),
        }),
        scores: held_out(nll),
        digest: None,
    }
}

fn training(from: u64, to: u64, rate: impl Fn(u64) -> f64, gain: f64) -> Vec<TrainingPoint> {
    let point = |step: u64| {
        let done = (step - from) as f64 / (to - from) as f64;
        let nll_nats = smooth(step) + 0.05 - gain * done + 0.16 * noise(step + 7 * from);
        TrainingPoint { step, nll_nats, learning_rate: rate(step) }
    };
    (from.max(1)..=to).map(point).collect()
}

/// The made-up study.
pub(crate) fn sample() -> Report {
    let mut models: Vec<ScoredModel> = (1..=LAST / EVERY).map(|i| raw(i * EVERY)).collect();
    for (n, end) in (1..=5).map(|i| (8, i * 360)) {
        models.push(merged("sma", n, end));
    }
    for scheme in ["sma", "wma", "ema:0.2"] {
        models.extend([2, 4, 8, 12, 16, 24].map(|n| merged(scheme, n, LAST)));
    }
    for step in (1..=(LAST - FORK) / EVERY).map(|i| FORK + i * EVERY) {
        let done = (step - FORK) as f64 / (LAST - FORK) as f64;
        let nll = smooth(step) + 0.05 - 0.09 * done;
        let name = format!("annealed, step {step}");
        models.push(ScoredModel { name, role: Role::Annealed, step, merge: None, scores: held_out(nll), digest: None });
    }
    let baseline = format!("raw, step {LAST}");
    let loss = |models: &[ScoredModel], name: &str| {
        models.iter().find(|model| model.name == name).unwrap().score(Split::Test).unwrap().nll_nats
    };
    let gain = |models: &[ScoredModel], model: &str, over: &str| {
        let gain_nats = loss(models, over) - loss(models, model);
        let interval_95 = [gain_nats - 0.004, gain_nats + 0.004];
        let (model, over) = (model.to_owned(), over.to_owned());
        Gain { model, over, split: Split::Test, gain_nats, interval_95, n_documents: 240 }
    };
    let at_end = |model: &&ScoredModel| model.step == LAST && model.role != Role::Raw;
    let mut gains: Vec<Gain> =
        models.iter().filter(at_end).map(|model| gain(&models, &model.name, &baseline)).collect();
    let annealed = format!("annealed, step {LAST}");
    gains.push(gain(&models, &annealed, "sma of 8, step 2000"));
    let fact = |name: &str, value: &str| Fact { name: name.to_owned(), value: value.to_owned() };
    let command = |what: &str, line: &str| ShellCommand { what: what.to_owned(), line: line.to_owned() };
    Report {
        kind: REPORT_KIND.to_owned(),
        version: REPORT_VERSION,
        tool: "thalweg test".to_owned(),
        title: "A made-up study of merging <before> annealing & after".to_owned(),
        caution: Some("Every number on this page is made up, for a test of the page.".to_owned()),
        seed: 0,
        tokens_per_step: 2_048,
        phases: vec![
            PhaseSpan { phase: PhaseName::Warmup, from_step: 0, to_step: 100 },
            PhaseSpan { phase: PhaseName::Stable, from_step: 100, to_step: LAST },
        ],
        checkpoints: (1..=LAST / EVERY).map(|i| i * EVERY).collect(),
        training: training(0, LAST, |step| 3e-3 * (step as f64 / 100.0).min(1.0), 0.0),
        anneal: Some(AnnealRun {
            fork_step: FORK,
            end_step: LAST,
            curve: "linear".to_owned(),
            floor: 0.0,
            training: training(FORK, LAST, |step| 3e-3 * (LAST - step) as f64 / (LAST - FORK) as f64, 0.09),
        }),
        models,
        gains,
        choice: Some(Choice { model: "sma of 8, step 2000".to_owned(), by: Split::Validation, n_candidates: 18 }),
        baseline,
        facts: vec![fact("model", "made up"), fact("optimizer", "none: <nothing> was trained")],
        seconds: vec![StageSeconds { stage: "training".to_owned(), seconds: 100.0 }],
        commands: vec![
            command("Merge the newest eight checkpoints of a run", "thalweg merge runs/my-run --last 8 -o merged"),
            command("See what each part is", "thalweg inspect \"runs/my run\" && echo '<done>'"),
        ],
    }
}
