//! What every record of a study says about its run: phases, log, checkpoints, spikes.

use thalweg_trajectory::{LogEntry, PhaseSegment, Trajectory, back_at};

use crate::record::{CheckpointRow, PhaseSpan, SpikeRow, StudyRecord, TrainingPoint};
use crate::recover::{plan_recovery, spike_row, spikes_of_run, unhealed_spike};

/// A record with what the run's folder and log tell. `command` is what made it, to type again.
pub fn begin_record(title: String, command: String, trajectory: &Trajectory) -> StudyRecord {
    let mut record = StudyRecord::new(title, trajectory.path().display().to_string(), command);
    let last = trajectory.finished().next_back().map_or(0, |newest| newest.step.0);
    let segments = trajectory.phases().map(|phases| phases.segments()).unwrap_or_default();
    let span = |segment: &PhaseSegment| PhaseSpan {
        phase: segment.phase,
        from_step: segment.from.0,
        to_step: segment.to.0.min(last.max(segment.from.0)),
    };
    record.phases = segments.iter().map(span).collect();
    record.training = training_points(trajectory);
    let finished = trajectory.finished();
    record.checkpoints = finished
        .map(|one| CheckpointRow { step: one.step.0, tokens: one.tokens.map(|tokens| tokens.0), seconds: None })
        .collect();
    if let (Some(log), Some(search)) = (trajectory.log(), spikes_of_run(trajectory)) {
        let row = |spike| SpikeRow { end: back_at(log, spike).map(|step| step.0), ..spike_row(spike) };
        record.spikes = search.spikes.iter().map(row).collect();
        // A run that recovered by itself needs no advice.
        if unhealed_spike(trajectory).is_some() {
            let plan = plan_recovery(trajectory, &search);
            record.recovery = plan.map(|plan| plan.sources.iter().map(|one| one.step.0).collect()).unwrap_or_default();
        }
    }
    record
}

/// The step log of a run: loss and learning rate.
pub(crate) fn training_points(trajectory: &Trajectory) -> Vec<TrainingPoint> {
    let entries = trajectory.log().map(|log| log.entries()).unwrap_or_default();
    let point = |entry: &LogEntry| {
        let nll_nats = entry.loss.filter(|loss| loss.is_finite())?;
        Some(TrainingPoint { step: entry.step.0, nll_nats, learning_rate: entry.learning_rate.unwrap_or(0.0) })
    };
    entries.iter().filter_map(point).collect()
}
