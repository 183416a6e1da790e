//! Five steps of each rule against those of `torch.optim` (fixtures/optim, made by its make.py).

use std::path::Path;

use serde_json::Value;
use thalweg_lab::config::{OptimizerKind, OptimizerSection};
use thalweg_lab::optimizer::{Arenas, Decay, GlobalNorm, Optimizer, Rule, RuledRange, StepScale, clip_scale};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/optim/expected.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The numbers of nested lists, row by row.
fn flatten(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flatten).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn singles(value: &Value) -> Vec<f32> {
    flatten(value).into_iter().map(|x| x as f32).collect()
}

fn section(kind: OptimizerKind) -> OptimizerSection {
    OptimizerSection {
        kind,
        learning_rate: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        momentum: 0.95,
        clip_norm: 0.0,
    }
}

/// The largest difference from `after` over all steps.
fn largest_error(kind: OptimizerKind, rule: Rule, case: &Value, after: &Value, gradient_factor: f32) -> f64 {
    let mut params = singles(&case["initial"]);
    let n = params.len();
    let mut optimizer = Optimizer::new(&section(kind), vec![RuledRange { range: 0..n, rule }]);
    let (mut first_moments, mut second_moments) = (vec![0.0; n], vec![0.0; n]);
    let rates = flatten(&fixture()["learning_rates"]);
    let mut largest = 0.0_f64;
    for (i, learning_rate) in rates.into_iter().enumerate() {
        let gradients: Vec<f32> = singles(&case["gradients"][i]).iter().map(|g| g * gradient_factor).collect();
        let arenas = Arenas {
            params: &mut params,
            gradients: &gradients,
            first_moments: &mut first_moments,
            second_moments: &mut second_moments,
        };
        let scale = StepScale { learning_rate, gradient_scale: 1.0 / gradient_factor, n_updates: i as u64 + 1 };
        optimizer.step(arenas, scale);
        let pairs = params.iter().zip(flatten(&after[i]));
        largest = pairs.map(|(&a, b)| (f64::from(a) - b).abs()).fold(largest, f64::max);
    }
    largest
}

#[test]
fn adamw_is_that_of_torch_to_the_rounding_of_f32() {
    let fixture = fixture();
    for name in ["matrix", "vector"] {
        let case = &fixture["adamw"][name];
        let rule = Rule::Adamw { decay: Decay::Yes };
        // Five steps, each with two roundings of params below 2: ten times half of 2^-23.
        assert!(largest_error(OptimizerKind::Adamw, rule, case, &case["after"], 1.0) < 6e-7, "{name}");
        // Clipping scales the gradient first; powers of two scale exactly.
        assert!(largest_error(OptimizerKind::Adamw, rule, case, &case["after"], 4.0) < 6e-7, "{name}");
    }
}

#[test]
fn muon_is_that_of_torch_in_doubles_far_closer_than_the_bfloat16_that_torch_iterates_in() {
    let fixture = fixture();
    for (name, shape) in [("tall", [6, 4]), ("wide", [4, 6])] {
        let case = &fixture["muon"][name];
        let expected = &case["match_rms_adamw"];
        let error = largest_error(OptimizerKind::Muon, Rule::Muon { shape }, case, &expected["after_float64"], 1.0);
        let bf16_error = expected["largest_bf16_error"].as_f64().unwrap();
        // f32 has 2^-16 of the rounding of bfloat16; five iterations and the sums leave a hundredth to be sure of.
        assert!(error < bf16_error / 100.0, "{name}: {error:e}, torch's own {bf16_error:e}");
    }
}

#[test]
fn what_has_no_rule_of_gradients_is_not_moved_and_norms_are_not_decayed() {
    let rules = vec![
        RuledRange { range: 0..2, rule: Rule::Adamw { decay: Decay::No } },
        RuledRange { range: 2..4, rule: Rule::Adamw { decay: Decay::Yes } },
        RuledRange { range: 4..6, rule: Rule::Fixed },
    ];
    let mut optimizer = Optimizer::new(&section(OptimizerKind::Adamw), rules);
    let mut params = [1.0_f32; 6];
    let arenas = Arenas {
        params: &mut params,
        gradients: &[0.0; 6],
        first_moments: &mut [0.0; 6],
        second_moments: &mut [0.0; 6],
    };
    optimizer.step(arenas, StepScale { learning_rate: 0.5, gradient_scale: 1.0, n_updates: 1 });
    assert_eq!(params, [1.0, 1.0, 0.95, 0.95, 1.0, 1.0]);
}

#[test]
fn blocks_and_threads_change_no_bit() {
    let n = 100_003;
    let values =
        |factor: u64| -> Vec<f32> { (0..n as u64).map(|i| ((i * factor) % 1009) as f32 / 1009.0 - 0.5).collect() };
    let run = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            let rules = vec![
                RuledRange { range: 0..30_000, rule: Rule::Adamw { decay: Decay::Yes } },
                RuledRange { range: 30_000..90_000, rule: Rule::Muon { shape: [200, 300] } },
                RuledRange { range: 90_000..n, rule: Rule::Adamw { decay: Decay::No } },
            ];
            let mut optimizer = Optimizer::new(&section(OptimizerKind::Muon), rules);
            let (mut params, gradients) = (values(31), values(97));
            let (mut first_moments, mut second_moments) = (vec![0.0; n], vec![0.0; n]);
            for n_updates in 1..4 {
                let arenas = Arenas {
                    params: &mut params,
                    gradients: &gradients,
                    first_moments: &mut first_moments,
                    second_moments: &mut second_moments,
                };
                optimizer.step(arenas, StepScale { learning_rate: 0.01, gradient_scale: 0.5, n_updates });
            }
            (params, GlobalNorm::default().of(&gradients).to_bits())
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn clipping_brings_the_norm_to_the_limit() {
    let gradients = [3.0_f32, 4.0];
    assert_eq!(GlobalNorm::for_len(2).of(&gradients), 5.0);
    assert_eq!(clip_scale(5.0, 0.0), 1.0);
    assert_eq!(clip_scale(0.5, 1.0), 1.0);
    assert!((f64::from(clip_scale(5.0, 1.0)) - 1.0 / 5.000001).abs() < 1e-8);
}
