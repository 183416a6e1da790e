//! A made-up record with every part, and one with thousands of trials.

use thalweg_study::record::*;
use thalweg_trajectory::Phase;

const LAST: u64 = 2_000;
const EVERY: u64 = 40;

/// A fixed sequence in -1..1.
fn noise(i: u64) -> f64 {
    let bits = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    f64::from(u32::try_from(bits >> 32).unwrap()) / f64::from(u32::MAX) * 2.0 - 1.0
}

fn smooth(step: u64) -> f64 {
    1.9 + 4.0 * (-(step as f64) / 120.0).exp() + 0.6 * (-(step as f64) / 900.0).exp()
}

fn scores(nll: f64, gain: Option<f64>) -> Vec<ScoreRow> {
    let row = |suite: &str, task: &str, measure: &str, value: f64, scale: f64| ScoreRow {
        suite: suite.to_owned(),
        task: task.to_owned(),
        measure: measure.to_owned(),
        value,
        standard_error: Some(0.012),
        n: 240,
        higher_is_better: measure == "acc",
        gain: gain.map(|gain| GainRow {
            value: gain * scale,
            interval_95: Some([(gain - 0.006) * scale, (gain + 0.006) * scale]),
        }),
        gain_over_chosen: None,
    };
    vec![
        row("choose", "text", "nats_per_token", nll + 0.012, 1.0),
        row("choose", "text", "bits_per_byte", (nll + 0.012) * 0.44, 0.44),
        row("report", "text", "nats_per_token", nll, 1.0),
        row("report", "questions", "acc", 0.9 - nll * 0.2, 0.2),
    ]
}

fn raw_nll(step: u64) -> f64 {
    smooth(step) + 0.02 * noise(step) + 0.05
}

fn raw(step: u64) -> RawRow {
    RawRow {
        step,
        path: format!("runs/made-up/step-{step}"),
        params_digest: Some(format!("blake3:{step:064x}")),
        scores: scores(raw_nll(step), None),
    }
}

fn trial(scheme: &str, n: u64, interval: u64, end: u64) -> TrialRow {
    let coefficient = |i: u64| match scheme {
        "wma" => 2.0 * i as f64 / (n * (n + 1)) as f64,
        "ema:0.2" if i == 1 => 0.8f64.powf((n - 1) as f64),
        "ema:0.2" => 0.2 * 0.8f64.powf((n - i) as f64),
        _ => 1.0 / n as f64,
    };
    let sources = (1..=n).map(|i| MergeSource { step: end - (n - i) * interval, coefficient: coefficient(i) });
    let lag = if scheme == "wma" { n as f64 / 3.0 } else { n as f64 / 2.0 } * interval as f64 / EVERY as f64;
    let nll = smooth(end) + 0.08 / n as f64 + 0.0016 * lag + 0.002 * noise(n * 31 + interval + end);
    TrialRow {
        name: format!("{}-n{n}-v{interval}-step{end:07}", scheme.replace(':', "-")),
        plan_digest: format!("blake3:{:064x}", n * 1_000_003 + interval * 7 + end),
        end_step: end,
        n_checkpoints: usize::try_from(n).unwrap(),
        interval_steps: Some(interval),
        interval_tokens: None,
        scheme: scheme.to_owned(),
        path: None,
        params_digest: None,
        sources: sources.collect(),
        scores: scores(nll, Some(raw_nll(end) - nll)),
    }
}

fn forecast(anneal_steps: u64, truth: Option<f64>) -> ForecastRow {
    let value = 1.985 - anneal_steps as f64 * 2e-5;
    ForecastRow {
        task: "text".to_owned(),
        measure: "nats_per_token".to_owned(),
        higher_is_better: false,
        end_step: LAST + anneal_steps,
        anneal_steps,
        curve: "1-sqrt".to_owned(),
        floor: 0.0,
        raw: raw_nll(LAST),
        imitation: value + 0.011,
        value,
        interval_80: [value - 0.006, value + 0.006],
        interval_95: [value - 0.0105, value + 0.0105],
        truth,
        rests_on: "4 evaluations and the correction of 18 past anneals".to_owned(),
    }
}

fn geometry(n: u64) -> GeometryRow {
    let t = |i: u64| i as f64 / n as f64;
    let group = |name: String, i: u64| GroupRow {
        name,
        relative_displacement: 0.012 + 0.002 * noise(i),
        mean_cosine: (i != 3).then(|| -0.2 + 0.2 * noise(i + 50)),
    };
    GeometryRow {
        newest_norm: Some(40.0),
        mean_to_newest: Some(6.0),
        steps: (1..=n).map(|i| i * EVERY).collect(),
        displacements: (1..n).map(|i| 1.2 + (-4.0 * t(i)).exp() + 0.05 * noise(i)).collect(),
        displacement_cosines: (2..n).map(|i| Some(0.4 * (-5.0 * t(i)).exp() - 0.2 + 0.05 * noise(i))).collect(),
        component_shares: vec![0.61, 0.14, 0.06, 0.035, 0.02],
        random_walk_shares: vec![0.608, 0.152, 0.068, 0.038, 0.024],
        plane: (0..n).map(|i| [(t(i) * 3.1).cos() * 6.0, (t(i) * 6.2).sin() * 3.0 + 0.2 * noise(i)]).collect(),
        groups: ["embedding", "head"]
            .map(str::to_owned)
            .into_iter()
            .chain((0..6).map(|i| format!("layer {i}")))
            .zip(0..)
            .map(|(name, i)| group(name, i))
            .collect(),
    }
}

fn training(spike: Option<u64>) -> Vec<TrainingPoint> {
    let point = |step: u64| {
        let height =
            spike.map_or(0.0, |onset| if step >= onset { 3.0 * (-((step - onset) as f64) / 12.0).exp() } else { 0.0 });
        TrainingPoint {
            step,
            nll_nats: smooth(step) + 0.05 + 0.16 * noise(step) + height,
            learning_rate: 3e-3 * (step as f64 / 100.0).min(1.0),
        }
    };
    (1..=LAST).map(point).collect()
}

/// A record without any part.
pub(crate) fn empty() -> StudyRecord {
    let mut record = StudyRecord::new("A made-up study", "runs/made-up", "thalweg sweep runs/made-up -o sweep");
    record.tool = "thalweg test".to_owned();
    record
}

/// A record with every part.
pub(crate) fn whole() -> StudyRecord {
    let mut record = empty();
    let suite = |name: &str, role: &str| SuiteRow {
        name: name.to_owned(),
        role: Some(role.to_owned()),
        digest: format!("blake3:{:064x}", name.len() * 0x00c0_ffee),
    };
    record.suites = vec![suite("choose", "selection"), suite("report", "report")];
    let span = |phase, from_step, to_step| PhaseSpan { phase, from_step, to_step };
    record.phases = vec![span(Phase::Warmup, 0, 100), span(Phase::Stable, 100, LAST)];
    record.training = training(Some(1_250));
    let checkpoint = |i: u64| CheckpointRow {
        step: i * EVERY,
        tokens: Some(i * EVERY * 2_048),
        // A slower second half, so that the axis of time is another picture.
        seconds: Some((i * EVERY) as f64 * 0.4 + (i * EVERY).saturating_sub(1_000) as f64 * 0.8),
    };
    record.checkpoints = (1..=LAST / EVERY).map(checkpoint).collect();
    record.raws = (1..=LAST / EVERY).map(|i| raw(i * EVERY)).collect();
    for end in [800, 1_200, 1_600, LAST] {
        for scheme in ["sma", "wma", "ema:0.2"] {
            for interval in [EVERY, 2 * EVERY] {
                record.trials.extend([2, 4, 6, 8].map(|n| trial(scheme, n, interval, end)));
            }
        }
    }
    let annealed = |step: u64| {
        let nll = raw_nll(LAST) - 0.06 * (step - LAST) as f64 / 200.0;
        let mut scores = scores(nll, Some(raw_nll(LAST) - nll));
        for score in scores.iter_mut().filter(|_| step == 2_200) {
            score.gain_over_chosen = Some(GainRow { value: 0.026, interval_95: Some([0.016, 0.036]) });
        }
        RawRow { step, path: "anneal".to_owned(), params_digest: None, scores }
    };
    record.annealed = [2_050, 2_100, 2_150, 2_200].map(annealed).to_vec();
    let rate = |step: u64| 3e-3 * (2_200 - step) as f64 / 200.0;
    let point = |step: u64| TrainingPoint { step, nll_nats: smooth(step) - 0.02, learning_rate: rate(step) };
    record.anneal = Some(AnnealRun {
        fork_step: LAST,
        end_step: 2_200,
        curve: "linear".to_owned(),
        floor: 0.0,
        training: (LAST..=2_200).map(point).collect(),
    });
    record.caution = Some("These numbers are made up.".to_owned());
    record.facts = vec![Fact { name: "model".to_owned(), value: "none".to_owned() }];
    let (what, line) = ("Look at a run:".to_owned(), "thalweg inspect runs/my-run".to_owned());
    record.commands = vec![ShellCommand { what, line }];
    record.stages = vec![StageSeconds { stage: "scoring".to_owned(), seconds: 80.0 }];
    record.choice = Some(ChoiceRow {
        trial: "wma-n8-v40-step0002000".to_owned(),
        suite: "choose".to_owned(),
        task: "text".to_owned(),
        measure: "nats_per_token".to_owned(),
        n_candidates: 24,
    });
    record.proposal = Some(ProposalRow {
        n_checkpoints: 8,
        n_interval_95: [6, 14],
        interval_steps: EVERY,
        scheme: "wma".to_owned(),
        rests_on: "3 scored windows and the Gram matrix of 50 checkpoints".to_owned(),
    });
    record.forecasts = vec![forecast(200, Some(1.978)), forecast(400, None)];
    let spike = |onset, end, signal: &str| SpikeRow { onset, peak: onset + 2, end, signal: signal.to_owned() };
    record.spikes = vec![spike(430, Some(470), "gradient norm"), spike(1_250, None, "loss and gradient norm")];
    record.recovery = vec![1_160, 1_200, 1_240];
    record.geometry = Some(geometry(50));
    record.cost = CostRow { bytes_read: 1_234_567_890, n_evaluations: 150, n_tokens: 9_200_000, seconds: 83.25 };
    record
}

/// Two thousand trials and as many scored checkpoints.
pub(crate) fn large() -> StudyRecord {
    let mut record = whole();
    record.trials.clear();
    let every = 1;
    record.raws = (1..=LAST).map(|i| raw(i * every)).collect();
    record.checkpoints = (1..=LAST)
        .map(|step| CheckpointRow { step, tokens: Some(step * 2_048), seconds: Some((step as f64).powf(1.1)) })
        .collect();
    for end in (1..=50).map(|i| i * 30 + 500) {
        for scheme in ["sma", "wma"] {
            record.trials.extend((1..=20).map(|n| trial(scheme, n + 1, 10, end)));
        }
    }
    record.choice.as_mut().unwrap().trial = record.trials[1_990].name.clone();
    record.geometry = Some(geometry(2_000));
    record
}
