//! A run of the lab is an ordinary run for the rest of thalweg.

use std::path::Path;

use thalweg_checkpoint::open_checkpoint;
use thalweg_lab::step_log::{EVENT_FILE_NAME, STEP_LOG_NAME};
use thalweg_model::{Model, ModelConfig};
use thalweg_trajectory::{ColumnMap, Phase, StepLog, Tokens, Trajectory, TrajectoryOptions};

use crate::support::{TINY, World};

#[test]
fn a_trajectory_sees_steps_tokens_phases_and_the_log() {
    let world = World::new();
    let outcome = world.train(TINY, "run");
    assert_eq!((outcome.n_steps, outcome.tokens, outcome.n_checkpoints), (12, 768, 4));
    let trajectory = Trajectory::open(&world.storage, Path::new("/disk/run"), &TrajectoryOptions::default()).unwrap();
    assert!(trajectory.notes().is_empty(), "{:?}", trajectory.notes());
    let found: Vec<_> = trajectory.checkpoints().iter().map(|one| (one.step.0, one.tokens)).collect();
    assert_eq!(found, [3, 6, 9, 12].map(|step| (step, Some(Tokens(64 * step)))));
    let phases: Vec<_> = trajectory.checkpoints().iter().map(|one| one.phase).collect();
    assert_eq!(phases, [Phase::Stable, Phase::Stable, Phase::Anneal, Phase::Anneal].map(Some));
    assert_eq!(trajectory.log().map(|log| log.entries().len()), Some(12));
}

#[test]
fn the_event_file_has_the_numbers_of_the_step_log() {
    let world = World::new();
    world.train(TINY, "run");
    let open =
        |name: &str| StepLog::open(&world.storage, &Path::new("/disk/run").join(name), &ColumnMap::default()).unwrap();
    let (lines, events) = (open(STEP_LOG_NAME), open(EVENT_FILE_NAME));
    assert_eq!(lines.entries().len(), events.entries().len());
    for (a, b) in lines.entries().iter().zip(events.entries()) {
        assert_eq!((a.step, a.tokens), (b.step, b.tokens));
        // The event file has single precision.
        assert_eq!(a.loss.map(|x| x as f32), b.loss.map(|x| x as f32));
        assert_eq!(a.learning_rate.map(|x| x as f32), b.learning_rate.map(|x| x as f32));
        assert_eq!(a.grad_norm.map(|x| x as f32), b.grad_norm.map(|x| x as f32));
    }
}

#[test]
fn a_checkpoint_is_a_hugging_face_folder_that_loads() {
    let world = World::new();
    world.train(TINY, "run");
    let path = Path::new("/disk/run/step-12");
    let checkpoint = open_checkpoint(&world.storage, path).unwrap();
    let config = ModelConfig::from_json(checkpoint.config().unwrap()).unwrap();
    let model = Model::load(config, &checkpoint).unwrap();
    assert!(model.params().iter().all(|param| param.is_finite()));
    let mut names: Vec<String> = world.storage.list_folder(path).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    let expected = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_foreign_folder_in_a_run_is_not_replaced() {
    for name in ["step-9", "state/step-9", "step-n9.thalweg-partial", "state/step-n9.thalweg-partial"] {
        let world = World::new();
        let _ = world.train_until(TINY, "run", 4).unwrap_err();
        let notes = format!("run/{name}/notes.md");
        world.storage.create_folder(&Path::new("/disk/run").join(name)).unwrap();
        world.write(&notes, "mine");
        assert!(world.train_until(TINY, "run", 0).is_err(), "{name}");
        assert_eq!(world.bytes(&notes), b"mine", "{name}");
    }
}
