//! Interrupted anywhere and run again, a run equals one that never was; and the number of threads changes nothing.

use thalweg_lab::Error;

use crate::support::{TINY, World};

/// Every kind of average, validation, a mixture of experts: everything that a state must carry.
pub(crate) const FULL: &str = r#"
[validation]
every_steps = 4
sequences = 8

[[average]]
name = "last-3"
scheme = "sma"
count = 3

[[average]]
name = "every-step"
scheme = "ema:0.2"
every_steps = 1

[[average]]
name = "blocks"
scheme = "sma"
every_steps = 2

[[fault]]
kind = "poison-batch"
at_step = 5
"#;

fn check_interrupted(text: &str) {
    let world = World::new();
    world.train(text, "whole");
    for stop in [1, 3, 4, 8, 11] {
        let name = format!("stopped-{stop}");
        let stopped = world.train_until(text, &name, stop).unwrap_err();
        assert!(matches!(stopped, Error::Interrupted { step } if step == stop), "{stopped}");
        let outcome = world.train(text, &name);
        assert_eq!(outcome.resumed_from, Some(stop));
        world.assert_same_files("whole", &name);
    }
}

#[test]
fn an_interrupted_run_leaves_the_bytes_of_one_that_was_not() {
    check_interrupted(&format!("{TINY}{FULL}"));
}

#[test]
fn so_does_one_with_muon_and_experts() {
    let text = format!("{TINY}{FULL}")
        .replace("kv_heads = 1", "n_experts = 4\ntop_k = 2\nbalance = \"bias:0.01\"")
        .replace("learning_rate = 0.01", "kind = \"muon\"\nlearning_rate = 0.01");
    check_interrupted(&text);
}

#[test]
fn threads_and_micro_batches_of_the_same_step_change_nothing_that_they_should_not() {
    let mut world = World::new();
    world.train(&format!("{TINY}{FULL}"), "two");
    world.n_threads = 1;
    world.train(&format!("{TINY}{FULL}"), "one");
    world.assert_same_files("two", "one");
    world.train(&TINY.replace("micro_batches = 2", "micro_batches = 1"), "whole-batch");
    world.train(TINY, "halves");
    let (whole, halves) = (world.column("whole-batch/steps.jsonl", "loss"), world.column("halves/steps.jsonl", "loss"));
    for (step, (a, b)) in whole.iter().zip(&halves).enumerate() {
        // Gradients of halves add up in another order: some units of the last place of f32, grown over twelve steps.
        assert!((a - b).abs() < 2e-5 * a, "step {}: {a} and {b}", step + 1);
    }
    assert!(whole[11] < whole[0] - 0.5, "it learns: {whole:?}");
}

#[test]
fn a_finished_run_is_left_as_it_is_and_another_config_is_refused() {
    let world = World::new();
    world.train(TINY, "run");
    let before = world.files("run");
    let outcome = world.train(TINY, "run");
    assert_eq!((outcome.resumed_from, outcome.last, outcome.n_checkpoints), (Some(12), None, 0));
    assert!(before == world.files("run"));
    let other = TINY.replace("learning_rate = 0.01", "learning_rate = 0.02");
    let error = world.train_until(&other, "run", 0).unwrap_err().to_string();
    assert_eq!(
        error,
        "`/disk/run` holds a run with a different config: `optimizer.learning_rate` is 0.01 there but 0.02 here"
    );
    world.write("corpus.jsonl", &"{\"text\": \"Something else altogether.\"}\n".repeat(20));
    let error = world.train_until(TINY, "run", 0).unwrap_err().to_string();
    assert!(error.contains("the data `corpus` have changed since it was trained"), "{error}");
}

#[test]
fn a_log_that_lost_lines_is_an_error_and_one_that_has_more_is_cut() {
    let world = World::new();
    world.train(TINY, "whole");
    let _ = world.train_until(TINY, "run", 7).unwrap_err();
    let log = String::from_utf8(world.bytes("run/steps.jsonl")).unwrap();
    world.write("run/steps.jsonl", &format!("{log}{{\"step\": 8, \"lo"));
    world.train(TINY, "run");
    world.assert_same_files("whole", "run");
    let _ = world.train_until(TINY, "short", 7).unwrap_err();
    world.write("short/steps.jsonl", &log[..log.len() - 1]);
    let error = world.train_until(TINY, "short", 0).unwrap_err();
    assert!(matches!(error, Error::LogTooShort { .. }), "{error}");
}
