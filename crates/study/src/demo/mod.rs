//! The whole story on the embedded corpus: train, fork a real anneal, sweep windows with two suites, compare, report.
//!
//! Everything is decided in `spec` before anything is seen: sizes, learning rate, windows, documents. Which merge is
//! shown is decided by validation text; what is said about it comes from test text. An interrupted demo resumes.

mod meter;
mod spec;
mod suites;
mod tell;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::ReadOptions;
use thalweg_eval::EvalContext;
use thalweg_lab::run_folder::{check_run_folder, checkpoint_name};
use thalweg_lab::{TrainConfig, TrainData, TrainJob, train};
use thalweg_merge::context::RunContext;
use thalweg_storage::guard::{OwnKind, Place, check_place, foreign_entries, look_at, shown_names};
use thalweg_storage::publish::{is_stage_name, publish_file};
use thalweg_storage::{Storage, Unwatched};
use thalweg_trajectory::Trajectory;

use self::meter::Meter;
pub use self::spec::{DemoSize, DemoSpec};
use self::suites::{DECIDES, write_suites};
use crate::Error;
use crate::begin_record::begin_record;
use crate::engine_evaluator::EngineEvaluator;
use crate::evaluator::{Evaluator, ModelScores, TaskScore};
use crate::record::{RawRow, StageSeconds, StudyRecord};
use crate::request::{Resolver, RunOptions};
use crate::sweep::{ScoredTrial, Sweep, SweepFindings, score_sweep};
use crate::write_study::{check_study_folder, write_study};

/// Receives the progress of a demo.
pub trait DemoWatcher: Sync {
    /// So much of all the work is done, 0 to 1.
    fn on_progress(&self, stage: &str, share_done: f64, detail: &str);
    /// A note for the user.
    fn on_note(&self, text: &str);
}

/// Runs the demo, or resumes an interrupted one, and writes record and page. `command` made it, for the record.
///
/// # Errors
/// `Lab` and `Eval` where they were interrupted (what was done is kept), and whatever [`Error`] says.
pub fn run_demo(
    spec: &DemoSpec,
    command: String,
    watcher: &dyn DemoWatcher,
    cx: &RunContext<'_>,
) -> Result<StudyRecord, Error> {
    check_place(&*cx.storage, &spec.path(RUN_CONFIG))?;
    check_demo_folder(&*cx.storage, spec)?;
    // Checked now, because minutes of training come before these files are written.
    check_study_folder(&cx.storage, &spec.folder)?;
    cx.storage.create_folder(&spec.folder)?;
    let meter = Meter::new(watcher, all_work(spec));
    let configs = write_configs(spec, cx)?;
    let clock = || cx.host.elapsed_seconds();
    let began = clock();
    let n_params = train_both(spec, &configs, &meter, cx)?;
    let trained = clock();
    let mut record = find_out(spec, command, &meter, cx)?;
    let stage = |stage: &str, seconds: f64| StageSeconds { stage: stage.to_owned(), seconds };
    record.stages =
        vec![stage("training and annealing", trained - began), stage("merging and scoring", clock() - trained)];
    record.cost.seconds = clock() - began;
    record.caution = tell::caution(spec);
    record.facts = tell::facts(spec, &configs, n_params, cx.limits.n_threads.get());
    write_study(&*cx.storage, &spec.folder, &record)?;
    watcher.on_progress("done", 1.0, "");
    Ok(record)
}

/// The first file of a demo.
const RUN_CONFIG: &str = "run.toml";

/// Checks that the folder is missing, empty or that of a demo: it may not mix its files with those of something else.
fn check_demo_folder(storage: &dyn Storage, spec: &DemoSpec) -> Result<(), Error> {
    if look_at(storage, &spec.folder)? != Place::Folder || look_at(storage, &spec.path(RUN_CONFIG))? != Place::Free {
        return Ok(());
    }
    let mut foreign = foreign_entries(storage, &spec.folder, &BTreeSet::new())?;
    foreign.retain(|name| !is_stage_name(name));
    if foreign.is_empty() {
        return Ok(());
    }
    let holds = format!("is a folder that holds {}, not a demo", shown_names(&foreign));
    let hint = "name another folder with `-o`";
    Err(thalweg_storage::Error::MayNotReplace { path: spec.folder.clone(), holds, hint }.into())
}

/// The run and the anneal that leaves it.
pub(crate) struct Configs {
    pub(crate) run: TrainConfig,
    pub(crate) anneal: TrainConfig,
}

fn write_configs(spec: &DemoSpec, cx: &RunContext<'_>) -> Result<Configs, Error> {
    let write = |name: &str, toml: &str| -> Result<TrainConfig, Error> {
        let config = spec.config(toml, name)?;
        publish_file(&*cx.storage, &spec.path(name), toml.as_bytes(), OwnKind::same_bytes("a config of this demo"))?;
        Ok(config)
    };
    Ok(Configs { run: write(RUN_CONFIG, &spec.run_toml())?, anneal: write("anneal.toml", &spec.anneal_toml())? })
}

fn train_both(spec: &DemoSpec, configs: &Configs, meter: &Meter<'_>, cx: &RunContext<'_>) -> Result<usize, Error> {
    let fork_step = spec.numbers().fork_step;
    let parts = [(&configs.run, "run", "training", 0), (&configs.anneal, "anneal", "annealing", fork_step)];
    for (config, name, ..) in parts {
        check_run_folder(&*cx.storage, &spec.path(name), config)?;
    }
    let data = TrainData::load(&configs.run, &spec.folder, &*cx.storage)?;
    let mut n_params = 0;
    for (config, name, stage, first_step) in parts {
        meter.begin_training(stage, first_step, config.tokens_per_step());
        let path = spec.path(name);
        let job = TrainJob { config, config_folder: &spec.folder, run_path: &path, data: &data };
        n_params = train(&job, meter, cx)?.n_params;
        meter.finish_part(training_work(config, first_step));
    }
    Ok(n_params)
}

fn training_work(config: &TrainConfig, first_step: u64) -> f64 {
    ((config.n_steps() - first_step) * config.tokens_per_step()) as f64
}

/// Tokens that a document has about, for the share of work that is done.
const TOKENS_PER_DOCUMENT: u64 = 380;

fn all_work(spec: &DemoSpec) -> f64 {
    let numbers = spec.numbers();
    let n_steps = 2 * numbers.last_step - numbers.fork_step;
    let n_candidates = spec::SCHEMES.len() * numbers.counts.len();
    let n_scored = (n_candidates + spec.raw_steps().len() + spec.annealed_steps().len() + 7) as u64;
    let scoring = Meter::work_of_scoring(2 * n_scored * numbers.n_documents * TOKENS_PER_DOCUMENT);
    (n_steps * numbers.batch_sequences * spec::SEQUENCE_LENGTH) as f64 + scoring
}

/// The sweep at the end of the run, the chosen form along it, and the anneal as the truth.
fn find_out(spec: &DemoSpec, command: String, meter: &Meter<'_>, cx: &RunContext<'_>) -> Result<StudyRecord, Error> {
    let suites = write_suites(spec, cx)?;
    // Models are counted; bars of single merges would be in the way.
    let quiet = RunContext { progress: &Unwatched, ..cx.clone() };
    let eval = EvalContext {
        storage: Arc::clone(&cx.storage),
        host: cx.host,
        progress: meter,
        interrupt: cx.interrupt,
        memory_bytes: u64::MAX,
    };
    let resolver = Resolver::new(quiet.clone(), ReadOptions::default(), None);
    let open = |name: &str| resolver.open_run(&spec.path(name), &RunOptions::default());
    let (trajectory, annealed) = (open("run")?, open("anneal")?);
    let mut sweep = resolver.sweep(&spec.candidates(), &trajectory)?;
    sweep.raws = resolver.raw_trials(&spec.candidates(), &sources_at(&trajectory, &spec.raw_steps()))?;
    let like = sweep.any_checkpoint()?;
    let mut evaluator = EngineEvaluator::new(&suites, &like, None, Some(spec.path("scores")), eval, &quiet)?;
    let mut findings = score(&sweep, &mut evaluator, meter)?;
    let decides = findings.deciding(Some(DECIDES))?;
    let choice = findings.choose(&decides).ok_or(Error::Bug { what: "no merge of the demo was scored" })?;
    let chosen = findings.trials.iter().find(|one| one.trial.name == choice.trial).cloned();
    let chosen = chosen.ok_or(Error::Bug { what: "the chosen merge of the demo is not among its trials" })?;
    let rolling = spec.rolling(&chosen.trial.output.scheme, chosen.trial.output.sources.len());
    let rolling = Sweep { raws: Vec::new(), ..resolver.sweep(&rolling, &trajectory)? };
    findings.trials.extend(score(&rolling, &mut evaluator, meter)?.trials);
    let mut record = begin_record("Merging instead of annealing: a small real run".to_owned(), command, &trajectory);
    (record.raws, record.trials) = findings.rows()?;
    record.annealed = score_annealed(spec, &findings, &chosen, &mut evaluator, meter)?;
    record.anneal = Some(tell::anneal_run(spec, &annealed));
    record.suites = evaluator.suites();
    record.cost = evaluator.cost();
    if let Some(row) = record.trials.iter().find(|row| row.name == choice.trial) {
        record.commands = tell::commands(spec, row);
    }
    record.choice = Some(choice);
    Ok(record)
}

fn sources_at(trajectory: &Trajectory, steps: &[u64]) -> Vec<thalweg_merge::plan::SourceRef> {
    let is_wanted = |step: u64| steps.contains(&step);
    trajectory.finished().filter(|one| is_wanted(one.step.0)).map(crate::select::source_ref).collect()
}

fn score(sweep: &Sweep, evaluator: &mut EngineEvaluator<'_>, meter: &Meter<'_>) -> Result<SweepFindings, Error> {
    let work = Meter::work_of_scoring(evaluator.tokens_per_model().unwrap_or(0));
    meter.begin("scoring", String::new());
    score_sweep(sweep, evaluator, &mut |_, name| {
        meter.finish_part(work);
        meter.begin("scoring", name.to_owned());
    })
}

/// The annealed checkpoints, with gains over the newest raw one, and at its step over the chosen merge.
fn score_annealed(
    spec: &DemoSpec,
    findings: &SweepFindings,
    chosen: &ScoredTrial,
    evaluator: &mut EngineEvaluator<'_>,
    meter: &Meter<'_>,
) -> Result<Vec<RawRow>, Error> {
    let last_step = spec.numbers().last_step;
    let work = Meter::work_of_scoring(evaluator.tokens_per_model().unwrap_or(0));
    let mut rows = Vec::new();
    for step in spec.annealed_steps() {
        meter.begin("scoring", format!("annealed, step {step}"));
        let path = spec.path("anneal").join(checkpoint_name(step));
        let scores = evaluator.score_checkpoint(&path)?;
        meter.finish_part(work);
        let baseline = findings.raw_at(step).map(|raw| &raw.scores);
        let over_chosen = (step == last_step).then_some(&chosen.scores);
        rows.push(annealed_row(step, &path, &scores, (baseline, over_chosen)));
    }
    Ok(rows)
}

fn annealed_row(
    step: u64,
    path: &Path,
    scores: &ModelScores,
    (baseline, chosen): (Option<&ModelScores>, Option<&ModelScores>),
) -> RawRow {
    let mut rows = scores.rows(baseline);
    let lead = |task: &TaskScore| task.gain_over(chosen?.find(task)?);
    for (row, task) in rows.iter_mut().zip(&scores.tasks) {
        row.gain_over_chosen = lead(task);
    }
    RawRow { step, path: path.display().to_string(), params_digest: scores.params_digest.clone(), scores: rows }
}
