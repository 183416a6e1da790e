//! `thalweg train`: one small pre-training run, or a grid of them, from one file.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_lab::grid::{Grid, GridWatcher, TrainFile, parse_train_file, train_grid};
use thalweg_lab::run_folder::check_run_folder;
use thalweg_lab::step_log::{StepRecord, ValidationRecord};
use thalweg_lab::{TrainConfig, TrainData, TrainJob, TrainOutcome, TrainWatcher, train};
use thalweg_tensor::counted;

use crate::args::TrainArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World};
use crate::messages::Messages;
use crate::meter::{Meter, Urgency};
use crate::options::show_count;
use crate::train_config::read_config_text;

pub(crate) fn run(args: &TrainArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let text = read_config_text(&args.config, world)?;
    let folder = args.config.parent().unwrap_or(Path::new("")).to_owned();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(args.config.file_stem().unwrap_or_default()));
    if out.as_os_str().is_empty() {
        return Err(Error::usage_with_hint("where should the run go?", "name a folder with `-o DIR`"));
    }
    let outcomes = match parse_train_file(&text, &args.config)? {
        TrainFile::Run(mut config) => {
            find_start(&mut config, &folder, world)?;
            vec![train_one(&config, &folder, &out, world)?]
        }
        TrainFile::Grid(grid) => train_many(&grid, &folder, &out, world)?,
    };
    Ok(world.answer(&document(&outcomes), &outcomes.iter().map(describe).collect::<String>()))
}

/// Resolves the checkpoint that a run starts from. Like any checkpoint, it may be a revision, also in the local Hugging
/// Face cache.
fn find_start(config: &mut TrainConfig, folder: &Path, world: &World<'_>) -> Result<(), Error> {
    let Some(start) = &mut config.start else { return Ok(()) };
    if world.storage.file_info(&folder.join(&start.from)).is_err() && start.from.to_string_lossy().contains('@') {
        let beside = world.find_checkpoint(&folder.join(&start.from));
        start.from = world.storage.canonical_path(&beside.or_else(|_| world.find_checkpoint(&start.from))?)?;
    }
    Ok(())
}

fn train_one(config: &TrainConfig, folder: &Path, out: &Path, world: &World<'_>) -> Result<TrainOutcome, Error> {
    check_run_folder(&*world.storage, out, config)?;
    let data = TrainData::load(config, folder, &*world.storage)?;
    for domain in &data.domains {
        let (name, documents) = (domain.name(), counted(domain.n_documents(), "document"));
        world.messages.detail(format!("data `{name}`: {documents}, {} tokens", show_count(domain.n_tokens())));
    }
    let job = TrainJob { config, config_folder: folder, run_path: out, data: &data };
    let watcher = RunWatcher::new("{wide_bar} {msg}", world);
    Ok(train(&job, &watcher, &world.context(SUMMING_MEMORY_BYTES))?)
}

fn train_many(grid: &Grid, folder: &Path, out: &Path, world: &World<'_>) -> Result<Vec<TrainOutcome>, Error> {
    let watcher = RunWatcher::new("{spinner} {msg}", world);
    Ok(train_grid(grid, folder, out, &watcher, &world.context(SUMMING_MEMORY_BYTES))?)
}

/// Tells a person how a run goes, or many at once, each with its name.
struct RunWatcher<'a> {
    messages: &'a Messages,
    meter: Meter<'a>,
}

impl<'a> RunWatcher<'a> {
    fn new(template: &'static str, world: &World<'a>) -> Self {
        Self { messages: world.messages, meter: Meter::new(world.messages, template) }
    }
}

fn step_text(record: &StepRecord, n_steps: u64, seconds_left: f64) -> String {
    let (step, loss, speed) = (record.step, record.loss, record.tokens_per_second);
    format!("step {step} of {n_steps}, loss {loss:.4}, {speed:.0} tokens/s, {} left", show_seconds(seconds_left))
}

/// `42 s`, `3 min`, `2.5 h`.
fn show_seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 100.0 => format!("{seconds:.0} s"),
        seconds if seconds < 6000.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

impl TrainWatcher for RunWatcher<'_> {
    fn on_step(&self, record: &StepRecord, n_steps: u64, seconds_left: f64) {
        self.meter.show([record.step, n_steps], Urgency::InTurn, || step_text(record, n_steps, seconds_left));
    }

    fn on_validation(&self, record: &ValidationRecord) {
        let (step, domain, nats) = (record.step, &record.domain, record.nll_nats);
        let bits = record.bits_per_byte;
        self.messages
            .detail(format!("step {step}, `{domain}` held out: {nats:.4} nats per token, {bits:.4} bits per byte"));
    }

    fn on_checkpoint(&self, step: u64, path: &Path) {
        self.messages.detail(format!("step {step}: wrote `{}`", path.display()));
    }

    fn on_note(&self, text: &str) {
        self.messages.note(text);
    }
}

impl GridWatcher for RunWatcher<'_> {
    fn on_step(&self, cell: &str, record: &StepRecord, n_steps: u64, seconds_left: f64) {
        let text = || format!("{cell}: {}", step_text(record, n_steps, seconds_left));
        self.meter.show([record.step, n_steps], Urgency::InTurn, text);
    }

    fn on_end(&self, cell: &str, outcome: &Result<TrainOutcome, thalweg_lab::Error>) {
        match outcome {
            Ok(_) => self.messages.detail(format!("{cell}: done")),
            Err(error) => self.messages.note(format!("{cell}: {error}")),
        }
    }

    fn on_note(&self, cell: &str, text: &str) {
        self.messages.note(format!("{cell}: {text}"));
    }
}

fn document(outcomes: &[TrainOutcome]) -> serde_json::Value {
    let row = |outcome: &TrainOutcome| {
        json!({
            "path": outcome.run_path,
            "checkpoint": outcome.checkpoint,
            "n_params": outcome.n_params,
            "steps": outcome.n_steps,
            "tokens": outcome.tokens,
            "loss": outcome.last.map(|last| last.loss),
            "validation": outcome.validation,
            "n_checkpoints": outcome.n_checkpoints,
            "resumed_from": outcome.resumed_from,
            "was_done": outcome.last.is_none(),
            "seconds": outcome.seconds,
        })
    };
    json!({"kind": "thalweg-train", "version": 1, "runs": outcomes.iter().map(row).collect::<Vec<_>>()})
}

fn describe(outcome: &TrainOutcome) -> String {
    let (path, steps) = (outcome.run_path.display(), outcome.n_steps);
    let Some(last) = outcome.last else {
        return format!("`{path}` already has all of its {}\n", counted(steps, "step"));
    };
    let (tokens, params) = (show_count(outcome.tokens), show_count(outcome.n_params as u64));
    let mut text = format!("trained {params} parameters to step {steps}, {tokens} tokens, loss {:.4}\n", last.loss);
    // Writing to a String cannot fail.
    for record in &outcome.validation {
        let (domain, nats, bits) = (&record.domain, record.nll_nats, record.bits_per_byte);
        let _ = writeln!(text, "`{domain}` held out: {nats:.4} nats per token, {bits:.4} bits per byte");
    }
    if let Some(step) = outcome.resumed_from {
        let _ = writeln!(text, "resumed from step {step}");
    }
    let (checkpoints, last_path) = (counted(outcome.n_checkpoints, "checkpoint"), outcome.checkpoint.display());
    let _ = writeln!(text, "{checkpoints} in `{path}`, the last one `{last_path}`");
    let _ = writeln!(text, "{:.1} s, {:.0} tokens/s at the last step", outcome.seconds, last.tokens_per_second);
    text
}
