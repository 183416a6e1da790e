//! From what the demo found to the record of its report.

use std::path::Path;

use serde::Deserialize;
use thalweg_lab::run_folder::digest_config;
use thalweg_lab::step_log::STEP_LOG_NAME;
use thalweg_merge::context::RunContext;

use super::spec::{ANNEAL_CURVE, DemoSize, DemoSpec, LEARNING_RATE, SEQUENCE_LENGTH};
use super::{Configs, Entry, Findings};
use crate::Error;
use crate::compare::{held_out, paired_gain};
use crate::report::{
    AnnealRun, Choice, Fact, Gain, PhaseName, PhaseSpan, REPORT_KIND, REPORT_VERSION, Report, Role, ScoredModel,
    ShellCommand, Split, StageSeconds, TrainingPoint,
};
use crate::text::show_whole;

/// The largest step log that is read.
const MAX_LOG_BYTES: u64 = 256 << 20;

/// One line of a step log.
#[derive(Deserialize)]
struct LogLine {
    step: u64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    seconds: Option<f64>,
}

/// The record of a demo.
pub(super) fn assemble(
    spec: &DemoSpec,
    configs: &Configs,
    findings: &Findings,
    run: &RunContext<'_>,
) -> Result<Report, Error> {
    let numbers = spec.numbers();
    let training = read_log(&spec.path("run"), run)?;
    let annealing = read_log(&spec.path("anneal"), run)?;
    let baseline = format!("raw, step {}", numbers.last_step);
    let scored = findings.entries.iter().flat_map(|entry| &entry.scored.splits);
    let seconds = |stage: &str, seconds: f64| StageSeconds { stage: stage.to_owned(), seconds };
    let phase = |phase, from_step, to_step| PhaseSpan { phase, from_step, to_step };
    Ok(Report {
        kind: REPORT_KIND.to_owned(),
        version: REPORT_VERSION,
        tool: run.tool.to_owned(),
        title: "Merging instead of annealing: a small real run".to_owned(),
        caution: caution(spec),
        seed: spec.seed,
        tokens_per_step: configs.run.tokens_per_step(),
        phases: vec![
            phase(PhaseName::Warmup, 0, numbers.warmup_steps),
            phase(PhaseName::Stable, numbers.warmup_steps, numbers.last_step),
        ],
        checkpoints: spec.checkpoint_steps(),
        training: points(&training),
        anneal: Some(AnnealRun {
            fork_step: numbers.fork_step,
            end_step: numbers.last_step,
            curve: ANNEAL_CURVE.to_owned(),
            floor: 0.0,
            training: points(&annealing),
        }),
        models: findings.entries.iter().map(scored_model).collect::<Result<_, Error>>()?,
        gains: gains(findings, &baseline, numbers.last_step)?,
        choice: Some(Choice {
            model: findings.chosen.clone(),
            by: Split::Validation,
            n_candidates: findings.n_candidates,
        }),
        baseline,
        facts: facts(spec, configs, findings, run),
        seconds: vec![
            seconds("training", training.iter().filter_map(|line| line.seconds).sum()),
            seconds("annealing", annealing.iter().filter_map(|line| line.seconds).sum()),
            seconds("merging", findings.merge_seconds),
            seconds("scoring", scored.map(|split| split.scores.seconds).sum()),
        ],
        commands: commands(spec, findings),
    })
}

fn caution(spec: &DemoSpec) -> Option<String> {
    (spec.size != DemoSize::Full).then(|| {
        "This is the quick demo: a model so small, trained so briefly, that it shows how things are done and not what \
         merging is worth. Run it without --quick for a run of a million parameters."
            .to_owned()
    })
}

fn read_log(folder: &Path, run: &RunContext<'_>) -> Result<Vec<LogLine>, Error> {
    let bytes = run.storage.read_file(&folder.join(STEP_LOG_NAME), MAX_LOG_BYTES)?;
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|source| Error::ReportForm { source })).collect()
}

fn points(lines: &[LogLine]) -> Vec<TrainingPoint> {
    let point = |line: &LogLine| {
        Some(TrainingPoint { step: line.step, nll_nats: line.loss?, learning_rate: line.learning_rate? })
    };
    lines.iter().filter_map(point).collect()
}

fn scored_model(entry: &Entry) -> Result<ScoredModel, Error> {
    Ok(ScoredModel {
        name: entry.name.clone(),
        role: entry.role,
        step: entry.step,
        merge: entry.merge.clone(),
        scores: entry.scored.splits.iter().map(held_out).collect::<Result<_, Error>>()?,
        digest: Some(entry.scored.digest.clone()),
    })
}

/// Everything at the last step over the newest raw checkpoint, and the anneal over the chosen merge, on test text.
fn gains(findings: &Findings, baseline: &str, last_step: u64) -> Result<Vec<Gain>, Error> {
    let find = |name: &str| findings.entries.iter().find(|entry| entry.name == name);
    let mut gains = Vec::new();
    let mut compare = |model: &Entry, over: &Entry| -> Result<(), Error> {
        if let (Some(a), Some(b)) = (model.scored.split(Split::Test), over.scored.split(Split::Test)) {
            gains.push(paired_gain((&model.name, a), (&over.name, b))?);
        }
        Ok(())
    };
    let at_end = findings.entries.iter().filter(|entry| entry.step == last_step && entry.role != Role::Raw);
    for entry in at_end {
        if let Some(raw) = find(baseline) {
            compare(entry, raw)?;
        }
        if let Some(chosen) = find(&findings.chosen).filter(|_| entry.role == Role::Annealed) {
            compare(entry, chosen)?;
        }
    }
    Ok(gains)
}

fn facts(spec: &DemoSpec, configs: &Configs, findings: &Findings, run: &RunContext<'_>) -> Vec<Fact> {
    let numbers = spec.numbers();
    let fact = |name: &str, value: String| Fact { name: name.to_owned(), value };
    let (tokens_per_step, last_step, fork_step) = (configs.run.tokens_per_step(), numbers.last_step, numbers.fork_step);
    let [validation, test] = &findings.suite_digests;
    vec![
        fact(
            "model",
            format!(
                "Llama, {} layers of width {}, {} parameters",
                numbers.layers,
                numbers.hidden,
                show_whole(findings.n_params as u64)
            ),
        ),
        fact(
            "text",
            "very simple short stories (TinyStories, CDLA-Sharing-1.0; African Storybook, CC BY 4.0), byte-level BPE of 512 tokens"
                .to_owned(),
        ),
        fact(
            "run",
            format!(
                "{last_step} steps of {tokens_per_step} tokens ({}), sequences of {SEQUENCE_LENGTH}, seed {}",
                show_whole(last_step * tokens_per_step),
                spec.seed
            ),
        ),
        fact(
            "learning rate",
            format!(
                "AdamW, {LEARNING_RATE} after a warmup of {} steps, then constant; chosen beforehand, not tuned for merging",
                numbers.warmup_steps
            ),
        ),
        fact(
            "anneal",
            format!("from step {fork_step} to {last_step} with the same data, {ANNEAL_CURVE} to 0; same tokens as the run"),
        ),
        fact("checkpoints", format!("every {} steps; float32", numbers.every_steps)),
        fact(
            "held-out text",
            format!("{} documents for choosing and {} others for reporting", numbers.n_documents, numbers.n_documents),
        ),
        fact("threads", run.limits.n_threads.to_string()),
        fact("digest of the run's config", digest_config(&configs.run)),
        fact("digest of the anneal's config", digest_config(&configs.anneal)),
        fact("digest of the validation suite", validation.clone()),
        fact("digest of the test suite", test.clone()),
    ]
}

fn commands(spec: &DemoSpec, findings: &Findings) -> Vec<ShellCommand> {
    let chosen = findings.entries.iter().find(|entry| entry.name == findings.chosen);
    let merge = chosen.and_then(|entry| entry.merge.as_ref());
    let (n, scheme) = merge.map_or((10, "sma"), |merge| (merge.sources.len(), merge.scheme.as_str()));
    let run = spec.folder.join("run").display().to_string();
    let counts: Vec<String> = spec.numbers().counts.iter().map(ToString::to_string).collect();
    let command = |what: &str, line: String| ShellCommand { what: what.to_owned(), line };
    vec![
        command("See what a run holds, and what would block a merge:", "thalweg inspect runs/my-run".to_owned()),
        command(
            "Merge its newest checkpoints as the merge above was made:",
            format!("thalweg merge runs/my-run --last {n} --scheme {scheme} -o merged"),
        ),
        command(
            "Make every window of this page in one reading:",
            format!(
                "thalweg sweep runs/my-run --counts {} --schemes {} -o sweep",
                counts.join(","),
                super::spec::SCHEMES.join(",")
            ),
        ),
        command("The run of this page is an ordinary run folder:", format!("thalweg explain {run} --last {n}")),
    ]
}
