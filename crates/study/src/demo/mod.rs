//! The whole story on the embedded corpus: train, fork a real anneal, merge windows in memory, score, compare, report.
//!
//! Everything is decided in `spec` before anything is seen: sizes, learning rate, windows, documents. Which merge is
//! shown is decided by validation text; what is said about it comes from test text. An interrupted demo resumes.

mod merges;
mod meter;
mod scorer;
mod spec;
mod tell;

use std::collections::BTreeSet;

use thalweg_lab::run_folder::{check_run_folder, checkpoint_name};
use thalweg_lab::{TrainConfig, TrainData, TrainJob, train};
use thalweg_merge::context::RunContext;
use thalweg_storage::Storage;
use thalweg_storage::guard::{OwnKind, Place, check_file, foreign_entries, look_at, shown_names};
use thalweg_storage::publish::{is_stage_name, publish_file};

use self::merges::{Merged, merge_all, model_config};
use self::meter::Meter;
use self::scorer::{Scored, Scorer};
use self::spec::DemoMerge;
pub use self::spec::{DemoSize, DemoSpec};
use crate::Error;
use crate::page::render_page;
use crate::report::{MergeOf, REPORT_FILE, Report, Role, Split};
use crate::write_study::PAGE_FILE;

/// The record, in the demo's folder.
pub const REPORT_NAME: &str = "report.json";
/// The page, in the demo's folder.
pub const PAGE_NAME: &str = "report.html";

/// Who wants to know how the demo goes.
pub trait DemoWatcher: Sync {
    /// So much of all the work is done, 0 to 1.
    fn on_progress(&self, stage: &str, share_done: f64, detail: &str);
    /// A note for the user.
    fn on_note(&self, text: &str);
}

/// A model that was scored, before it becomes a row of the report.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) step: u64,
    pub(crate) merge: Option<MergeOf>,
    pub(crate) scored: Scored,
}

/// Everything that the demo found out.
pub(crate) struct Findings {
    pub(crate) entries: Vec<Entry>,
    pub(crate) chosen: String,
    pub(crate) n_candidates: u64,
    pub(crate) n_params: usize,
    pub(crate) suite_digests: [String; 2],
    pub(crate) merge_seconds: f64,
}

/// Runs the demo, or resumes an interrupted one, and writes record and page.
///
/// # Errors
/// `Lab` and `Eval` where they were interrupted (what was done is kept), and whatever [`Error`] says.
pub fn run_demo(spec: &DemoSpec, watcher: &dyn DemoWatcher, run: &RunContext<'_>) -> Result<Report, Error> {
    check_demo_folder(&*run.storage, spec)?;
    run.storage.create_folder(&spec.folder)?;
    // Checked now, because minutes of training come before these files are written.
    check_file(&*run.storage, &spec.path(REPORT_NAME), REPORT_FILE, &[])?;
    check_file(&*run.storage, &spec.path(PAGE_NAME), PAGE_FILE, &[])?;
    let meter = Meter::new(watcher, all_work(spec));
    let configs = write_configs(spec, run)?;
    let n_params = train_both(spec, &configs, &meter, run)?;
    let findings = find_out(spec, n_params, &meter, run)?;
    let report = tell::assemble(spec, &configs, &findings, run)?;
    publish_file(&*run.storage, &spec.path(REPORT_NAME), report.to_json()?.as_bytes(), REPORT_FILE)?;
    publish_file(&*run.storage, &spec.path(PAGE_NAME), render_page(&report).as_bytes(), PAGE_FILE)?;
    watcher.on_progress("done", 1.0, "");
    Ok(report)
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
    let holds = format!("is a folder with {} in it, and not a demo", shown_names(&foreign));
    let hint = "name another folder with `-o`";
    Err(thalweg_storage::Error::MayNotReplace { path: spec.folder.clone(), holds, hint }.into())
}

/// The run and the anneal that leaves it.
pub(crate) struct Configs {
    pub(crate) run: TrainConfig,
    pub(crate) anneal: TrainConfig,
}

fn write_configs(spec: &DemoSpec, run: &RunContext<'_>) -> Result<Configs, Error> {
    let write = |name: &str, toml: &str| -> Result<TrainConfig, Error> {
        let config = spec.config(toml, name)?;
        publish_file(&*run.storage, &spec.path(name), toml.as_bytes(), OwnKind::same_bytes("a config of this demo"))?;
        Ok(config)
    };
    Ok(Configs { run: write(RUN_CONFIG, &spec.run_toml())?, anneal: write("anneal.toml", &spec.anneal_toml())? })
}

fn train_both(spec: &DemoSpec, configs: &Configs, meter: &Meter<'_>, run: &RunContext<'_>) -> Result<usize, Error> {
    let fork_step = spec.numbers().fork_step;
    let parts = [(&configs.run, "run", "training", 0), (&configs.anneal, "anneal", "annealing", fork_step)];
    for (config, name, ..) in parts {
        check_run_folder(&*run.storage, &spec.path(name), config)?;
    }
    let data = TrainData::load(&configs.run, &spec.folder, &*run.storage)?;
    let mut n_params = 0;
    for (config, name, stage, first_step) in parts {
        meter.begin_training(stage, first_step, config.tokens_per_step());
        let path = spec.path(name);
        let job = TrainJob { config, config_folder: &spec.folder, run_path: &path, data: &data };
        n_params = train(&job, meter, run)?.n_params;
        meter.finish_part(training_work(config, first_step));
    }
    Ok(n_params)
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn training_work(config: &TrainConfig, first_step: u64) -> f64 {
    ((config.n_steps() - first_step) * config.tokens_per_step()) as f64
}

/// Tokens that a document has about, for the share of work that is done.
const TOKENS_PER_DOCUMENT: u64 = 380;

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn all_work(spec: &DemoSpec) -> f64 {
    let numbers = spec.numbers();
    let n_steps = 2 * numbers.last_step - numbers.fork_step;
    let n_candidates = spec::SCHEMES.len() * numbers.counts.len();
    let n_others = spec.raw_steps().len() + spec.annealed_steps().len() + 8;
    let n_scored = (2 * n_candidates + n_others) as u64;
    let scoring = Meter::work_of_scoring(n_scored * numbers.n_documents * TOKENS_PER_DOCUMENT);
    (n_steps * numbers.batch_sequences * spec::SEQUENCE_LENGTH) as f64 + scoring
}

fn find_out(spec: &DemoSpec, n_params: usize, meter: &Meter<'_>, run: &RunContext<'_>) -> Result<Findings, Error> {
    let config = model_config(spec, run)?;
    let scorer = Scorer::new(spec, &config, meter, run)?;
    let mut entries = Vec::new();
    for (folder, role, steps) in
        [("run", Role::Raw, spec.raw_steps()), ("anneal", Role::Annealed, spec.annealed_steps())]
    {
        for step in steps {
            let name = if role == Role::Raw { format!("raw, step {step}") } else { format!("annealed, step {step}") };
            meter.begin("scoring", name.clone());
            let scored = scorer.score_checkpoint(&spec.path(folder).join(checkpoint_name(step)), &[Split::Test])?;
            entries.push(Entry { name, role, step, merge: None, scored });
        }
    }
    meter.begin("merging", String::new());
    let candidates = spec.candidates()?;
    let began = run.host.elapsed_seconds();
    let merged = merge_all(spec, &config, &candidates, run)?;
    let merge_seconds = run.host.elapsed_seconds() - began;
    let first = entries.len();
    for merged in merged {
        entries.push(score_merge(merged, &scorer, &[Split::Validation, Split::Test], meter)?);
    }
    let chosen = choose(&entries[first..]).ok_or(Error::Bug { what: "no merge of the demo was scored" })?;
    let form: &DemoMerge = &candidates[chosen];
    let name = entries[first + chosen].name.clone();
    for merged in merge_all(spec, &config, &spec.rolling(form), run)? {
        entries.push(score_merge(merged, &scorer, &[Split::Test], meter)?);
    }
    let n_candidates = candidates.len() as u64;
    let suite_digests = scorer.suite_digests();
    Ok(Findings { entries, chosen: name, n_candidates, n_params, suite_digests, merge_seconds })
}

fn score_merge(merged: Merged, scorer: &Scorer<'_>, splits: &[Split], meter: &Meter<'_>) -> Result<Entry, Error> {
    let Merged { merge, model, record } = merged;
    let name = merge.name();
    meter.begin("scoring", name.clone());
    let scored = scorer.score_model(&name, model, splits)?;
    Ok(Entry { name, role: Role::Merged, step: merge.end_step, merge: Some(record), scored })
}

/// The merge with the lowest validation loss; the earlier one where two are equal. Test text is not looked at.
fn choose(entries: &[Entry]) -> Option<usize> {
    let loss = |entry: &Entry| {
        let scores = entry.scored.split(Split::Validation)?;
        crate::compare::held_out(scores).ok().map(|shown| shown.nll_nats)
    };
    let losses = entries.iter().enumerate().filter_map(|(i, entry)| Some((i, loss(entry)?)));
    losses.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}
