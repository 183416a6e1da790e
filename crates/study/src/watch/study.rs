//! A watcher's record as a study, so that it has the same page, table and answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use thalweg_merge::scheme::Scheme;
use thalweg_storage::Storage;
use thalweg_trajectory::Trajectory;

use super::checkpoints::{KnownCheckpoints, UnwrittenFile};
use super::forecast::add_forecasts;
use super::notice::new_spikes;
use super::record::{ANNEALED_SCHEME, RAW_SCHEME, WatchEvent, WatchRow};
use crate::Error;
use crate::begin_record::begin_record;
use crate::record::{CheckpointRow, MergeSource, STUDY, ScoreRow, SpikeRow, StudyRecord, TrainingPoint, TrialRow};
use crate::request::parse_scheme_word;
use crate::select::even_interval;
use crate::text::file_name;

/// Name of what a watcher writes down about its run: phases, log, checkpoints and spikes, as a study without scores.
pub(crate) const RUN_FACTS_NAME: &str = "watch-run.json";
/// Points of training loss that are kept; a page shows fewer.
const MAX_TRAINING: usize = 8_000;
/// The file has about a hundred bytes for each point and each checkpoint.
const MAX_FACTS_BYTES: u64 = 256 << 20;

/// What a run's folder and log tell, as last taken to be written.
#[derive(Debug, Default)]
pub(super) struct RunFacts {
    taken: Option<String>,
    /// Spikes that were known before; `None` where nothing was.
    spikes: Option<Vec<SpikeRow>>,
    /// Spikes that were not known.
    pub(super) new_spikes: Vec<SpikeRow>,
    /// Checkpoints that are proposed to resume from.
    pub(super) recovery: Vec<u64>,
}

impl RunFacts {
    /// What an earlier watcher wrote down. What cannot be read is written again.
    pub(super) fn open(storage: &dyn Storage, folder: &Path) -> Self {
        let text = storage.read_file(&folder.join(RUN_FACTS_NAME), MAX_FACTS_BYTES).ok();
        let record = text.and_then(|bytes| StudyRecord::from_json(&String::from_utf8(bytes).ok()?).ok());
        Self { spikes: record.map(|record| record.spikes), ..Self::default() }
    }

    /// What is known about the run as a file, if it changed since it was last taken.
    pub(super) fn take_file(
        &mut self,
        folder: &Path,
        (trajectory, known): (&Trajectory, &KnownCheckpoints),
        command: &str,
    ) -> Result<Option<UnwrittenFile>, Error> {
        let name = file_name(trajectory.path());
        let mut record = begin_record(format!("{name}, watched"), command.to_owned(), trajectory);
        record.is_watched = true;
        let written: BTreeMap<u64, f64> =
            trajectory.finished().filter_map(|one| Some((one.step.0, known.written_seconds(&one.path)?))).collect();
        add_times(&mut record.checkpoints, &written);
        record.training = thin_training(record.training);
        // Spikes that were there before the first watcher are not news.
        let found = self.spikes.as_ref().map(|before| new_spikes(before, &record.spikes));
        self.new_spikes.extend(found.unwrap_or_default());
        self.spikes = Some(record.spikes.clone());
        self.recovery.clone_from(&record.recovery);
        let text = record.to_json()?;
        if self.taken.as_ref() == Some(&text) {
            return Ok(None);
        }
        let bytes = text.as_bytes().to_vec();
        self.taken = Some(text);
        Ok(Some(UnwrittenFile { path: folder.join(RUN_FACTS_NAME), bytes, kind: STUDY.file() }))
    }

    /// Takes the file again next time: it could not be written.
    pub(super) fn forget_file(&mut self) {
        self.taken = None;
    }
}

/// Times since training began, by when checkpoints were written, if every one was written after the one before it.
fn add_times(checkpoints: &mut [CheckpointRow], written: &BTreeMap<u64, f64>) {
    let times: Option<Vec<f64>> = checkpoints.iter().map(|row| written.get(&row.step).copied()).collect();
    let Some(times) = times.filter(|times| times.windows(2).all(|pair| pair[0] < pair[1])) else { return };
    let (&[first, second, ..], [one, two, ..]) = (times.as_slice(), &*checkpoints) else { return };
    let (one, two) = (one.clone(), two.clone());
    if one.step == 0 || two.step <= one.step {
        return;
    }
    // Training began before the first checkpoint by its steps, at the pace to the second.
    let lead = (second - first) * one.step as f64 / (two.step - one.step) as f64;
    for (row, time) in checkpoints.iter_mut().zip(times) {
        row.seconds = Some(time - first + lead);
    }
}

/// Fewer points of a long log: the lowest and the highest of each stretch.
fn thin_training(points: Vec<TrainingPoint>) -> Vec<TrainingPoint> {
    if points.len() <= MAX_TRAINING {
        return points;
    }
    let n_stretches = points.len().div_ceil(MAX_TRAINING / 2);
    let by_loss = |a: &&TrainingPoint, b: &&TrainingPoint| a.nll_nats.total_cmp(&b.nll_nats);
    let ends = |stretch: &[TrainingPoint]| {
        let mut kept: Vec<TrainingPoint> =
            stretch.iter().min_by(by_loss).into_iter().chain(stretch.iter().max_by(by_loss)).copied().collect();
        kept.sort_by_key(|point| point.step);
        kept.dedup_by_key(|point| point.step);
        kept
    };
    points.chunks(n_stretches).flat_map(ends).collect()
}

/// The study of a watcher's record. `run` is what the watcher wrote down about its run, where it is known.
///
/// A merge that was made again counts once, as it is now. Coefficients follow from the scheme and the steps.
pub fn study_of_watch(rows: &[WatchRow], run: Option<StudyRecord>) -> StudyRecord {
    let empty = || StudyRecord::new("A run, watched", "", "thalweg watch");
    let mut study = run.unwrap_or_else(empty);
    study.is_watched = true;
    let mut coefficients = CoefficientsOf::default();
    add_forecasts(&mut study, rows);
    let latest = latest_rows(rows);
    for model in &latest {
        match model.merged.or(model.scored) {
            Some(row) if row.scheme == ANNEALED_SCHEME => {}
            Some(row) if row.scheme == RAW_SCHEME => study.raws.push(row.raw()),
            Some(row) => study.trials.push(trial_row(row, model.scores(), &mut coefficients)),
            None => {}
        }
    }
    study.raws.sort_by_key(|raw| raw.step);
    study.trials.sort_by_key(|trial| trial.end_step);
    if study.checkpoints.is_empty() {
        study.checkpoints = checkpoints_of(rows);
    }
    study
}

/// The lines about one model, as it is now.
#[derive(Debug, Default)]
struct Latest<'a> {
    merged: Option<&'a WatchRow>,
    scored: Option<&'a WatchRow>,
}

impl Latest<'_> {
    /// Its scores, unless they are of a model that was there before.
    fn scores(&self) -> &[ScoreRow] {
        let is_current = |scored: &&WatchRow| self.merged.is_none_or(|merged| merged.digest == scored.digest);
        self.scored.filter(is_current).map_or(&[], |scored| &scored.scores)
    }
}

fn latest_rows(rows: &[WatchRow]) -> Vec<Latest<'_>> {
    let mut latest: BTreeMap<&str, Latest<'_>> = BTreeMap::new();
    for row in rows {
        let model = latest.entry(&row.name).or_default();
        match row.event {
            WatchEvent::Merged => model.merged = Some(row),
            WatchEvent::Scored => model.scored = Some(row),
            WatchEvent::Forecast => {}
        }
    }
    latest.into_values().collect()
}

fn trial_row(row: &WatchRow, scores: &[ScoreRow], coefficients: &mut CoefficientsOf) -> TrialRow {
    let values = coefficients.of(row);
    let source = |(i, &step): (usize, &u64)| MergeSource { step, coefficient: values.get(i).copied().unwrap_or(0.0) };
    TrialRow {
        name: row.name.clone(),
        plan_digest: String::new(),
        end_step: row.end_step,
        n_checkpoints: row.n_checkpoints,
        interval_steps: even_interval(&row.steps),
        interval_tokens: None,
        scheme: row.scheme.clone(),
        path: Some(row.name.clone()),
        params_digest: row.digest.clone(),
        sources: row.steps.iter().enumerate().map(source).collect(),
        scores: scores.to_vec(),
    }
}

/// Longest window whose coefficients are computed: a record may say anything.
const MAX_WINDOW: usize = 4_096;

/// Coefficients by scheme and steps, or the number of steps where no more matters: most windows of a run are alike.
#[derive(Debug, Default)]
struct CoefficientsOf {
    known: BTreeMap<(String, Vec<u64>), Vec<f64>>,
}

impl CoefficientsOf {
    fn of(&mut self, row: &WatchRow) -> &[f64] {
        let steps = if row.steps.len() > MAX_WINDOW { &[] } else { row.steps.as_slice() };
        let scheme = parse_scheme_word(&row.scheme).ok();
        let follows = scheme.as_ref().is_some_and(Scheme::follows_positions);
        let key = if follows { steps.to_vec() } else { vec![steps.len() as u64] };
        self.known.entry((row.scheme.clone(), key)).or_insert_with(|| {
            let steps: Vec<Option<u64>> = steps.iter().copied().map(Some).collect();
            let found = scheme.and_then(|scheme| scheme.coefficients_for(&steps).ok());
            found.map(|found| found.as_f64()).unwrap_or_default()
        })
    }
}

/// Checkpoints that windows held, where nothing else is known about the run.
fn checkpoints_of(rows: &[WatchRow]) -> Vec<CheckpointRow> {
    let tokens: BTreeMap<u64, u64> = rows.iter().filter_map(|row| Some((row.end_step, row.end_tokens?))).collect();
    let steps: BTreeSet<u64> = rows.iter().flat_map(|row| &row.steps).copied().collect();
    let row = |step| CheckpointRow { step, tokens: tokens.get(&step).copied(), seconds: None };
    steps.into_iter().map(row).collect()
}
