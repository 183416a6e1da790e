//! Spikes in made logs of all four kinds, and the checkpoints that are proposed to resume from.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use thalweg_lab::config::{MomentsPolicy, StartState, TrainConfig};
use thalweg_lab::event_file::{event_record, file_version_record};
use thalweg_merge::output_format::OptimizerPolicy;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_study::Error;
use thalweg_study::recover::{RecoveryNote, RecoveryPlan, plan_recovery, search_spikes};
use thalweg_study::start_policy::{DataPolicy, StartPurpose, StatePolicy, start_sources};
use thalweg_study::start_window::default_start_window;
use thalweg_trajectory::{
    ColumnMap, SpikeOptions, Step, StepLog, Trajectory, TrajectoryOptions, parse_csv, parse_event_file,
    parse_json_lines, parse_trainer_state,
};

const RATE: f64 = 0.003;

/// Noise of standard deviation 1, the same on each call: sums of twelve uniform numbers.
fn noise(n: usize, seed: usize) -> Vec<f64> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
}

/// A falling loss with noise, an entry every ten steps from step 10 on.
fn quiet(n: usize, sigma: f64, seed: usize) -> Vec<f64> {
    noise(n, seed).iter().enumerate().map(|(i, x)| 2.0 + 2.0 * (10.0 / (i as f64 + 10.0)).sqrt() + sigma * x).collect()
}

fn step_of(i: usize) -> u64 {
    10 * (i as u64 + 1)
}

fn json_lines(losses: &[f64]) -> String {
    let mut text = String::new();
    for (i, loss) in losses.iter().enumerate() {
        let _ = writeln!(text, "{{\"step\": {}, \"loss\": {loss}, \"learning_rate\": {RATE}}}", step_of(i));
    }
    text
}

/// The same log as JSON lines, CSV, `trainer_state.json` and event file.
fn all_kinds(losses: &[f64]) -> [StepLog; 4] {
    let columns = ColumnMap::default();
    let mut csv = "step,loss,learning_rate\n".to_owned();
    let mut state = Vec::new();
    let mut events = file_version_record();
    for (i, loss) in losses.iter().enumerate() {
        let step = step_of(i);
        let _ = writeln!(csv, "{step},{loss},{RATE}");
        state.push(format!("{{\"step\": {step}, \"loss\": {loss}, \"learning_rate\": {RATE}}}"));
        events.extend(event_record(step, &[("loss", *loss), ("learning_rate", RATE)]));
    }
    let state = format!("{{\"global_step\": {}, \"log_history\": [{}]}}", step_of(losses.len()), state.join(", "));
    [
        parse_json_lines(json_lines(losses).as_bytes(), &columns).unwrap(),
        parse_csv(csv.as_bytes(), &columns).unwrap(),
        parse_trainer_state(state.as_bytes(), &columns).unwrap(),
        parse_event_file(&events, &columns).unwrap(),
    ]
}

#[test]
fn spikes_of_ten_standard_deviations_are_found_in_logs_of_every_kind() {
    let mut n_made = 0;
    for seed in 1..=24 {
        let sigma = [0.01, 0.03, 0.1][seed % 3];
        let height = [10.5, 15.0, 40.0][seed / 3 % 3];
        let mut losses = quiet(600, sigma, seed);
        let onsets = [200 + 3 * seed, 400 + 5 * seed];
        for (n, &onset) in onsets.iter().enumerate() {
            // One entry, or up at once and down over ten. Noise must not make the peak lower than it is said to be.
            let length = [1, 10][(seed + n) % 2];
            for i in 0..length {
                let share = 1.0 - i as f64 / length as f64;
                losses[onset + i] = losses[onset + i].max(2.0 + 2.0 * (10.0 / ((onset + i) as f64 + 10.0)).sqrt());
                losses[onset + i] += height * sigma * share;
            }
        }
        n_made += onsets.len();
        for (kind, log) in all_kinds(&losses).iter().enumerate() {
            let found = search_spikes(log, &SpikeOptions::default());
            assert_eq!((found.n_losses, found.range), (600, Some((Step(10), Step(6000)))));
            let off: Vec<u64> =
                found.spikes.iter().zip(onsets).map(|(spike, at)| spike.onset.0.abs_diff(step_of(at))).collect();
            let are_near = found.spikes.len() == onsets.len() && off.iter().all(|off| *off <= 30);
            assert!(are_near, "kind {kind}, seed {seed}: made at {onsets:?}, found {:?}", found.spikes);
        }
    }
    assert_eq!(n_made, 48);
}

#[test]
fn quiet_logs_of_every_kind_have_no_spikes() {
    for seed in 1..=24 {
        for (kind, log) in all_kinds(&quiet(600, [0.01, 0.03, 0.1][seed % 3], seed)).iter().enumerate() {
            assert_eq!(search_spikes(log, &SpikeOptions::default()).spikes, [], "kind {kind}, seed {seed}");
        }
    }
}

/// A run with finished checkpoints at these steps and this log.
fn open_run(folder: &Path, steps: &[u64], log: &str) -> Trajectory {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(&1.5f32.to_le_bytes());
    for step in steps {
        let path = folder.join(format!("step-{step}"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("model.safetensors"), &bytes).unwrap();
    }
    std::fs::write(folder.join("log.jsonl"), log).unwrap();
    let disk: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    Trajectory::open(&disk, folder, &TrajectoryOptions::default()).unwrap()
}

fn recover(steps: &[u64], losses: &[f64]) -> Result<RecoveryPlan, Error> {
    let folder = tempfile::tempdir().unwrap();
    let trajectory = open_run(folder.path(), steps, &json_lines(losses));
    plan_recovery(&trajectory, &search_spikes(trajectory.log().unwrap(), &SpikeOptions::default()))
}

fn steps_of(plan: &RecoveryPlan) -> Vec<u64> {
    plan.sources.iter().map(|source| source.step.0).collect()
}

/// A quiet log of 400 entries that is lifted by 1 from entry to entry.
fn lifted(stretches: &[(usize, usize)]) -> Vec<f64> {
    let mut losses = quiet(400, 0.02, 7);
    for &(from, to) in stretches {
        losses[from..to].iter_mut().for_each(|loss| *loss += 1.0);
    }
    losses
}

#[test]
fn the_three_newest_before_a_lasting_spike_are_proposed() {
    // Onset at step 3010.
    let plan = recover(&[500, 1000, 1500, 2000, 2500, 3500, 4000], &lifted(&[(300, 400)])).unwrap();
    assert_eq!((plan.spike.onset, plan.spike.end), (Step(3010), None));
    assert_eq!(steps_of(&plan), [1500, 2000, 2500]);
    assert_eq!((plan.learning_rate, plan.notes.as_slice()), (Some(RATE), [].as_slice()));
    assert_eq!(plan.skip_data_steps(DataPolicy::Replay), 0);
    // Through the peak, since the loss did not recover.
    assert_eq!(plan.skip_data_steps(DataPolicy::Skip), plan.spike.peak.0 - 2500);
}

#[test]
fn a_spike_that_came_back_is_passed_over_to_its_end() {
    let plan = recover(&[1000, 2000, 2500, 4000], &lifted(&[(300, 305)])).unwrap();
    assert_eq!((plan.spike.onset, plan.spike.end), (Step(3010), Some(Step(3060))));
    assert_eq!(plan.notes, [RecoveryNote::CameBack { end: Step(3060) }]);
    assert_eq!(plan.skip_data_steps(DataPolicy::Skip), 3059 - 2500);
}

#[test]
fn fewer_are_said_and_none_is_an_error() {
    let losses = lifted(&[(300, 400)]);
    let plan = recover(&[1000, 2000, 4000], &losses).unwrap();
    assert_eq!((steps_of(&plan), plan.notes), (vec![1000, 2000], vec![RecoveryNote::Fewer { n: 2 }]));
    let plan = recover(&[2000, 4000], &losses).unwrap();
    assert_eq!((steps_of(&plan), plan.notes), (vec![2000], vec![RecoveryNote::Fewer { n: 1 }]));
    let error = recover(&[3500, 4000], &losses).unwrap_err();
    let oldest = Some(Step(3500));
    assert!(matches!(error, Error::NothingBeforeSpike { onset: Step(3010), oldest: found } if found == oldest));
    assert!(matches!(recover(&[1000, 2000], &lifted(&[])), Err(Error::NoSpike)));
}

#[test]
fn checkpoints_that_all_lie_within_spikes_are_not_called_missing() {
    // Each checkpoint before the last spike was saved while the loss was high.
    let losses = lifted(&[(98, 104), (198, 204), (300, 400)]);
    let error = recover(&[1000, 2000, 3500], &losses).unwrap_err();
    assert!(matches!(error, Error::AllWithinSpikes { onset: Step(3010), n_checkpoints: 2 }), "{error}");
    assert!(error.hint().unwrap().contains("--log-columns loss=NAME"));
}

#[test]
fn a_checkpoint_near_the_onset_is_noted_and_the_one_before_it_is_passed_over() {
    let losses = lifted(&[(300, 400)]);
    let plan = recover(&[1000, 2000, 2990], &losses).unwrap();
    let near = RecoveryNote::NewestMayBeDamaged { step: Step(2990), quiet_until: Step(2980) };
    assert_eq!((steps_of(&plan), plan.notes), (vec![1000, 2000, 2990], vec![near]));
    let plan = recover(&[1000, 1500, 2000, 3009], &losses).unwrap();
    assert_eq!(
        (steps_of(&plan), plan.notes),
        (vec![1000, 1500, 2000], vec![RecoveryNote::AtOnset { step: Step(3009) }])
    );
    // Better than nothing.
    let plan = recover(&[3009], &losses).unwrap();
    assert_eq!(steps_of(&plan), [3009]);
    assert!(plan.notes.contains(&RecoveryNote::NewestMayBeDamaged { step: Step(3009), quiet_until: Step(2980) }));
}

#[test]
fn checkpoints_within_an_earlier_spike_are_passed_over() {
    let plan = recover(&[500, 1000, 1500, 2000, 2500], &lifted(&[(195, 205), (300, 400)])).unwrap();
    assert_eq!(steps_of(&plan), [1000, 1500, 2500]);
    assert_eq!(plan.notes, [RecoveryNote::WithinSpike { steps: vec![Step(2000)] }]);
}

#[test]
fn on_a_plateau_that_a_spike_left_behind_that_spike_counts() {
    // Diverged for good at step 1010, and another rise on the plateau at step 3510.
    let mut losses = lifted(&[(100, 400)]);
    losses[350..353].iter_mut().for_each(|loss| *loss += 1.0);
    let steps = [300, 600, 900, 2000, 2500, 3000, 4000];
    let plan = recover(&steps, &losses).unwrap();
    assert_eq!((plan.spike.onset, steps_of(&plan)), (Step(1010), vec![300, 600, 900]));
    let earlier = RecoveryNote::EarlierSpikeLasts { onset: Step(1010), latest_onset: Step(3510) };
    assert_eq!(plan.notes, [earlier]);
    // Had the loss fallen back below the old level by then, the latest would count.
    losses[330..].iter_mut().for_each(|loss| *loss -= 1.2);
    let plan = recover(&steps, &losses).unwrap();
    assert_eq!((plan.spike.onset, steps_of(&plan)), (Step(3510), vec![2000, 2500, 3000]));
}

#[test]
fn a_raised_learning_rate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = json_lines(&lifted(&[(300, 400)]));
    let raise =
        |line: &str| if line.contains("\"step\": 3010,") { line.replace("0.003}", "0.09}") } else { line.to_owned() };
    let raised: String = text.lines().map(|line| raise(line) + "\n").collect();
    let trajectory = open_run(folder.path(), &[1000, 2000, 2500], &raised);
    let plan = plan_recovery(&trajectory, &search_spikes(trajectory.log().unwrap(), &SpikeOptions::default())).unwrap();
    assert_eq!(plan.notes, [RecoveryNote::RateWasRaised { before: RATE, at_onset: 0.09 }]);
}

const CONFIG: &str = r#"
kind = "thalweg-train"
version = 1
steps = 4000
sequence_length = 16
batch_sequences = 4
tokenizer = "bpe-512"
[model]
hidden = 16
layers = 1
heads = 2
intermediate = 24
[[data]]
from = "stories"
[optimizer]
learning_rate = 0.01
[schedule]
kind = "constant"
[checkpoints]
every_steps = 10
"#;

/// What the lab reads from the lines that a policy prints for it.
fn lab_reads(policy: &StatePolicy) -> thalweg_lab::config::StartSection {
    let lines = policy.instructions()[0].lines.join("\n");
    TrainConfig::from_toml(&format!("{CONFIG}{lines}\n"), Path::new("run.toml")).unwrap().start.unwrap()
}

#[test]
fn the_lab_reads_the_printed_start_and_the_policy_reads_back() {
    let plan = recover(&[1000, 2000, 2500, 4000], &lifted(&[(300, 305)])).unwrap();
    for moments in [MomentsPolicy::Reset, MomentsPolicy::Newest, MomentsPolicy::Average] {
        for data in [DataPolicy::Skip, DataPolicy::Replay] {
            let policy = StatePolicy::for_recovery(&plan, "/with \"quotes\"/out".into(), moments, data);
            assert_eq!(lab_reads(&policy), policy.start_section());
            assert_eq!(policy.start_section().skip_data_steps, if data == DataPolicy::Skip { 559 } else { 0 });
            assert_eq!(StatePolicy::from_json(&policy.to_json().unwrap()).unwrap(), policy);
            assert_eq!(policy.step(), Some(2500));
        }
    }
    let sources = start_sources(&plan.sources);
    let policy = StatePolicy::for_start(StartPurpose::Sft, sources, "/out".into(), None);
    assert_eq!(lab_reads(&policy), policy.start_section());
    assert_eq!((policy.step(), policy.start_section().state), (None, StartState::ParamsOnly));
    let other = policy.to_json().unwrap().replace("thalweg-start", "thalweg-study");
    assert!(matches!(StatePolicy::from_json(&other), Err(Error::ReportKind { .. })));
}

#[test]
fn a_start_point_with_a_trainers_own_files_is_for_that_trainer() {
    let plan = recover(&[1000, 2000, 2500, 4000], &lifted(&[(300, 305)])).unwrap();
    let policy = |moments, format: &str| {
        let policy = StatePolicy::for_recovery(&plan, "/runs/out".into(), moments, DataPolicy::Skip);
        let optimizer = if format == "safetensors" { OptimizerPolicy::Drop } else { OptimizerPolicy::Newest };
        policy.with_files(format, optimizer)
    };
    let kept = [
        ("dcp", "torchtitan", "--checkpoint.no_initial_load_model_only"),
        ("megatron-dist", "Megatron-LM", "DIR/iter_0002500"),
        ("deepspeed-zero", "DeepSpeed", "engine.load_checkpoint(\"/runs\", tag=\"out\")"),
        ("deepspeed-universal", "DeepSpeed", "\"load_universal\": true"),
        ("torch", "PyTorch", "`/runs/out`"),
    ];
    for (format, trainer, part) in kept {
        let newest = policy(MomentsPolicy::Newest, format);
        assert_eq!(StatePolicy::from_json(&newest.to_json().unwrap()).unwrap(), newest);
        let rows = newest.instructions();
        assert_eq!((rows.len(), rows[0].trainer), (1, trainer));
        let text = rows[0].lines.join("\n");
        assert!(text.contains(part) && text.contains("of the newest source"), "{format}: {text}");
        let reset = policy(MomentsPolicy::Reset, format).instructions()[0].lines.join("\n");
        assert!(!reset.contains("of the newest source"), "{format}: {reset}");
        let averaged = newest.with_files(format, OptimizerPolicy::Average).instructions()[0].lines.join("\n");
        assert!(averaged.contains("moments are averaged"), "{format}: {averaged}");
    }
    assert_eq!(policy(MomentsPolicy::Newest, "safetensors").instructions().len(), 4);
}

#[test]
fn the_default_window_is_ten_of_the_newest_phase_within_the_last_fifth() {
    let window = |steps: &[u64], log: &str| {
        let folder = tempfile::tempdir().unwrap();
        let trajectory = open_run(folder.path(), steps, log);
        default_start_window(&trajectory).map(|window| window.iter().map(|one| one.step.0).collect::<Vec<u64>>())
    };
    let dense: Vec<u64> = (1..=200).map(|i| 20 * i).collect();
    assert_eq!(window(&dense, &json_lines(&lifted(&[]))).unwrap(), dense[190..]);
    let sparse: Vec<u64> = (1..=20).map(|i| 200 * i).collect();
    assert_eq!(window(&sparse, &json_lines(&lifted(&[]))).unwrap(), [3200, 3400, 3600, 3800, 4000]);
    let annealed: String = (0..400)
        .map(|i| {
            let rate = RATE * (1.0 - (i as f64 - 349.0).max(0.0) / 50.0);
            format!("{{\"step\": {}, \"loss\": 2.5, \"learning_rate\": {rate}}}\n", step_of(i))
        })
        .collect();
    assert_eq!(window(&sparse, &annealed).unwrap(), [3600, 3800, 4000]);
    let error = window(&[1000, 4000], &json_lines(&lifted(&[]))).unwrap_err();
    assert!(matches!(error, Error::StartTooShort { newest: Step(4000) }), "{error}");
}
