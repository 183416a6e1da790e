//! Runs that start from other runs: forks, anneals, merged checkpoints with a policy for the moments.

use crate::support::{TINY, World};

fn fork(more: &str) -> String {
    format!("{TINY}\n[start]\n{more}")
}

#[test]
fn a_full_fork_with_the_same_settings_is_the_run_itself() {
    let world = World::new();
    world.train(TINY, "run");
    let outcome = world.train(&fork("from = \"run/step-6\"\nstate = \"full\"\n"), "fork");
    assert_eq!((outcome.n_steps, outcome.tokens, outcome.n_checkpoints), (12, 768, 2));
    for name in ["step-9/model.safetensors", "step-12/model.safetensors"] {
        assert!(world.bytes(&format!("run/{name}")) == world.bytes(&format!("fork/{name}")), "{name}");
    }
    let losses = world.column("run/steps.jsonl", "loss");
    assert_eq!(losses[6..], world.column("fork/steps.jsonl", "loss"));
    assert_eq!(world.column("fork/steps.jsonl", "step"), [7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
}

#[test]
fn a_fork_takes_another_schedule_data_or_seed_and_resumes_like_any_run() {
    let world = World::new();
    world.train(TINY, "run");
    let other = fork("from = \"run/step-6\"\nstate = \"full\"\nskip_data_steps = 3\n")
        .replace("anneal_steps = 4", "anneal_steps = 0")
        .replace("seed = 7", "seed = 8");
    world.train(&other, "whole");
    let _ = world.train_until(&other, "stopped", 8).unwrap_err();
    world.train(&other, "stopped");
    world.assert_same_files("whole", "stopped");
    let rates = world.column("whole/steps.jsonl", "learning_rate");
    assert!(rates.iter().all(|rate| rate.total_cmp(&0.01).is_eq()), "{rates:?}");
    assert_ne!(world.column("run/steps.jsonl", "loss")[6], world.column("whole/steps.jsonl", "loss")[0]);
}

#[test]
fn params_alone_begin_at_step_0_with_the_loss_of_the_checkpoint() {
    let world = World::new();
    world.train(TINY, "run");
    let text = fork("from = \"run/step-12\"\nstate = \"params-only\"\n").replace("steps = 12", "steps = 4");
    let text = text.replace("anneal_steps = 4", "anneal_steps = 0");
    world.train(&text, "fork");
    assert_eq!(world.column("fork/steps.jsonl", "step"), [1.0, 2.0, 3.0, 4.0]);
    let fresh = world.column("run/steps.jsonl", "loss");
    let forked = world.column("fork/steps.jsonl", "loss");
    assert!(forked[0] < fresh[0] - 0.5, "the same batch, trained parameters: {} and {}", forked[0], fresh[0]);
}

#[test]
fn a_merged_checkpoint_starts_with_the_moments_that_the_policy_says() {
    let world = World::new();
    world.train(TINY, "run");
    world.merge("merged", &[(3, "1"), (6, "1"), (9, "2")], "4");
    let start = |moments: &str| fork(&format!("from = \"merged\"\nstate = \"full\"\n{moments}"));
    let error = world.train_until(&start(""), "none", 0).unwrap_err();
    assert!(error.to_string().contains("does not say what to do with the optimizer's moments"), "{error}");
    let mut losses = Vec::new();
    for policy in ["reset", "newest", "average"] {
        let text = start(&format!("moments = \"{policy}\"\n"));
        assert_eq!(world.train(&text, policy).n_steps, 12);
        losses.push(world.column(&format!("{policy}/steps.jsonl"), "loss"));
    }
    // The first step is taken from the same parameters on the same batch; what follows depends on the moments.
    assert_eq!((losses[0][0], losses[1][0]), (losses[2][0], losses[2][0]));
    assert!(losses[0][2] != losses[1][2] && losses[1][2] != losses[2][2]);
    world.merge("negative", &[(6, "-1"), (9, "2")], "1");
    let text = start("moments = \"average\"\n").replace("\"merged\"", "\"negative\"");
    let error = world.train_until(&text, "refused", 0).unwrap_err();
    assert!(error.to_string().contains("a coefficient is negative"), "{error}");
}

#[test]
fn averaged_moments_of_equal_sources_are_those_of_the_source() {
    let world = World::new();
    world.train(TINY, "run");
    world.merge("same", &[(9, "1")], "1");
    let start = |from: &str, moments: &str| fork(&format!("from = \"{from}\"\nstate = \"full\"\n{moments}"));
    world.train(&start("run/step-9", ""), "plain");
    world.train(&start("same", "moments = \"average\"\n"), "averaged");
    let name = "step-12/model.safetensors";
    assert!(world.bytes(&format!("plain/{name}")) == world.bytes(&format!("averaged/{name}")));
}

#[test]
fn a_checkpoint_of_a_run_starts_with_its_moments_reset_where_that_is_said() {
    let world = World::new();
    world.train(TINY, "run");
    world.merge("same", &[(9, "1")], "1");
    let start = |from: &str, moments: &str| fork(&format!("from = \"{from}\"\nstate = \"full\"\n{moments}"));
    for policy in ["reset", "newest"] {
        let moments = format!("moments = \"{policy}\"\n");
        world.train(&start("run/step-9", &moments), &format!("run-{policy}"));
        world.train(&start("same", &moments), &format!("same-{policy}"));
        let bytes = |from: &str| world.bytes(&format!("{from}-{policy}/step-12/model.safetensors"));
        assert!(bytes("run") == bytes("same"), "{policy}");
    }
    let bytes = |policy: &str| world.bytes(&format!("run-{policy}/step-12/model.safetensors"));
    assert!(bytes("reset") != bytes("newest"));
    let error = world.train_until(&start("run/step-9", "moments = \"average\"\n"), "refused", 0).unwrap_err();
    assert!(error.to_string().contains("no receipt that names its sources"), "{error}");
}

#[test]
fn a_start_without_a_state_says_what_to_do() {
    let world = World::new();
    world.train(&TINY.replace("keep_states = 0", "keep_states = 1"), "run");
    let text = fork("from = \"run/step-6\"\nstate = \"full\"\n");
    let error = world.train_until(&text, "fork", 0).unwrap_err();
    assert!(error.to_string().contains("there is no training state `/disk/run/state/step-6`"), "{error}");
    assert!(error.hint().unwrap().contains("keep_states = 0"));
    let other = text.replace("hidden = 16", "hidden = 32");
    let error = world.train_until(&other, "fork-2", 0).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight"), "{error}");
}
