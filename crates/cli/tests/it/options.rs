//! Options that no other test exercises: each does what its help says.

use std::time::{Duration, Instant};

use thalweg_tensor::Dtype;
use thalweg_testkit::{RunLayout, TinyCheckpoint, TinyRun};

use crate::selection::Scene;
use crate::support::program;

#[test]
fn a_range_of_steps_and_an_end_in_tokens_select() {
    let scene = Scene::new(&[1000, 2000, 3000, 4000]);
    let steps =
        |words: &str| -> Vec<Option<u64>> { scene.run(words).sources().into_iter().map(|(step, _)| step).collect() };
    assert_eq!(steps("plan run --from-step 2000 --to-step 3000 --json"), [Some(2000), Some(3000)]);
    assert_eq!(steps("plan run --from-step 3000 --json"), [Some(3000), Some(4000)]);
    let tokens = "plan run --last 2 --end-tokens 3B --tokens-per-step 1M --json";
    assert_eq!(steps(tokens), [Some(2000), Some(3000)]);
}

#[test]
fn parameters_of_schemes_are_taken_as_options_and_after_the_name() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    let coefficients = |words: &str| -> Vec<String> {
        let sources = scene.run(&format!("plan run --last 3 --json {words}")).sources();
        sources.into_iter().map(|(_, coefficient)| coefficient).collect()
    };
    let power = coefficients("--scheme power-ema --sigma-rel 0.1");
    assert_eq!(power, coefficients("--scheme power-ema:0.1"));
    assert_ne!(power, coefficients("--scheme power-ema --sigma-rel 0.2"));
    // A learning rate that never falls leaves the newest checkpoint as it is.
    assert_eq!(coefficients("--scheme decay:linear --floor 1"), ["0/1", "0/1", "1/1"]);
    assert_ne!(coefficients("--scheme decay:linear --floor 0.5"), coefficients("--scheme decay:linear"));
}

#[test]
fn routers_are_averaged_or_taken_from_the_newest() {
    let scene = Scene::new(&[1000]);
    for (name, value) in [("a", 1.0), ("b", 3.0)] {
        let gate = "model.layers.0.mlp.gate.weight";
        let checkpoint = TinyCheckpoint::llama(Dtype::F32, value).tensor(gate, Dtype::F32, &[2, 2], &[value; 4]);
        checkpoint.write_to_disk(&scene.path(name));
    }
    for (policy, distance) in [("average", 2.0), ("newest", 0.0)] {
        scene.run(&format!("merge a b --router {policy} -o {policy}")).done(&[]);
        let receipt = std::fs::read(scene.path(policy).join("thalweg.json")).unwrap();
        let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
        let tensors = receipt["tensors"].as_array().unwrap();
        let gate = tensors.iter().find(|tensor| tensor["name"].as_str().unwrap().ends_with("gate.weight")).unwrap();
        assert_eq!((gate["router"].as_str(), gate["distance_to_newest"].as_f64()), (Some(policy), Some(distance)));
    }
}

#[test]
fn columns_of_a_log_can_be_named() {
    let scene = Scene::new(&[1000, 2000]);
    let rows: String = (1..=400).map(|step| format!("{},{}\n", step * 5, 3.0 - f64::from(step) * 1e-3)).collect();
    scene.write("log.csv", format!("where,how_bad\n{rows}"));
    scene.run("recover run --log log.csv").refused(&["log.csv"]);
    let named = scene.run("recover run --log log.csv --log-columns step=where,loss=how_bad");
    assert_eq!(named.code, 1, "a smooth log has no spike: {named:?}");
}

#[test]
fn a_sweep_reads_no_more_than_its_budget() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    let refused = scene.run("sweep run --counts 2 -o sweep --budget-bytes 10");
    refused.refused(&["this sweep reads ", "more than the 10 B of `--budget-bytes`"]);
    assert!(!scene.path("sweep").exists());
    scene.run("sweep run --counts 2 -o sweep --budget-bytes 1GB").done(&[]);
}

#[test]
fn the_instruction_set_changes_no_byte() {
    let scene = Scene::new(&[]);
    let run = TinyRun::new(RunLayout::Checkpoint, &[1, 2, 3]).dtype(Dtype::Bf16);
    run.write_to_disk(&scene.path("bf16"));
    scene.run("merge bf16 --last 3 --scheme wma -o a").done(&[]);
    scene.run("merge bf16 --last 3 --scheme wma --simd portable -o b").done(&[]);
    let weights = |name: &str| std::fs::read(scene.path(name).join("model.safetensors")).unwrap();
    assert!(weights("a") == weights("b"));
}

#[test]
fn a_demo_has_the_seed_that_is_given() {
    let scene = Scene::new(&[]);
    let mut demo = program()
        .current_dir(scene.path(""))
        .args(["demo", "--quick", "-q", "--seed", "7", "-o", "demo"])
        .spawn()
        .unwrap();
    let (config, began) = (scene.path("demo/run.toml"), Instant::now());
    while !config.exists() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    demo.kill().unwrap();
    demo.wait().unwrap();
    assert!(std::fs::read_to_string(config).unwrap().contains("\nseed = 7\n"));
}
