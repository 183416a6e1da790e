//! Configurations in and out, and those that must be refused.

use serde_json::{Value, json};
use thalweg_model::{BatchShape, Error, ModelConfig, Purpose, Workspace};

use crate::support::{fixture, read_json, tiny_configs};

fn llama(keys: Value) -> Value {
    let mut map = json!({
        "model_type": "llama", "vocab_size": 19, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2,
        "num_attention_heads": 3, "max_position_embeddings": 16,
    });
    map.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    map
}

fn refusal(keys: Value) -> String {
    match ModelConfig::from_json(&llama(keys.clone())) {
        Ok(_) => panic!("{keys} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_configuration_reads_back_as_it_was_written() {
    for (name, config) in tiny_configs() {
        assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        config.validate().unwrap();
    }
    for entry in std::fs::read_dir(fixture("architectures")).unwrap() {
        let path = entry.unwrap().path().join("config.json");
        if path.exists() {
            let config = ModelConfig::from_json(&read_json(&path)).unwrap();
            assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config, "{}", path.display());
        }
    }
}

/// As in transformers 5.24: for each of these families the logits with the factor equal those without it, bit for bit,
/// and with any scaling of frequencies it fails on mismatched head sizes.
#[test]
fn a_partial_rotary_factor_means_what_it_means_to_transformers() {
    for family in ["llama", "mixtral", "qwen2", "qwen3", "qwen3_moe", "olmo2", "olmoe"] {
        let experts = match family {
            "mixtral" => json!({"num_local_experts": 2, "num_experts_per_tok": 1}),
            "olmoe" => json!({"num_experts": 2, "num_experts_per_tok": 1}),
            "qwen3_moe" => json!({"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 4}),
            _ => json!({}),
        };
        let read = |keys: Value| {
            let mut config = llama(experts.clone());
            config["model_type"] = family.into();
            config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            ModelConfig::from_json(&config)
        };
        let whole = read(json!({})).unwrap();
        assert_eq!(read(json!({"partial_rotary_factor": 0.5})).unwrap(), whole, "{family}");
        let inner = json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}});
        assert_eq!(read(inner).unwrap(), whole, "{family}");
        let scaled = json!({"partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 2.0}});
        let said = read(scaled).unwrap_err().to_string();
        assert_eq!(said, "the configuration's `partial_rotary_factor` is 0.5, which is not supported", "{family}");
        assert!(read(json!({"partial_rotary_factor": 1.0, "rope_scaling": {"type": "linear", "factor": 2.0}})).is_ok());
    }
    let neox = |keys: Value| {
        let mut config = json!({
            "model_type": "gpt_neox", "vocab_size": 19, "hidden_size": 32, "intermediate_size": 10,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16,
        });
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        // In eighths, which are exact.
        (ModelConfig::from_json(&config).unwrap().rotary.unwrap().share * 8.0).to_string()
    };
    assert_eq!(neox(json!({})), "2");
    assert_eq!(neox(json!({"rotary_pct": 0.5})), "4");
    assert_eq!(neox(json!({"partial_rotary_factor": 0.5})), "2");
    assert_eq!(neox(json!({"rotary_pct": 0.25, "rope_parameters": {"partial_rotary_factor": 0.5}})), "4");
}

#[test]
fn switches_that_a_family_cannot_say_are_refused() {
    let (_, mut config) = tiny_configs().remove(0);
    config.rotary = None;
    assert!(matches!(config.validate(), Err(Error::InconsistentConfig { model_type: "llama" })));
}

#[test]
fn what_would_change_the_function_is_refused_by_name() {
    let cases = [
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "the configuration's `rope_type` is \"dynamic\", which is not supported",
        ),
        (
            json!({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}),
            "the configuration's `rope_type` is \"longrope\", which is not supported",
        ),
        (
            json!({"rope_parameters": {"rope_type": "default", "new": 2.0}}),
            "the configuration has `new`, whose effect on a `llama` is unknown",
        ),
        (
            json!({"quantization_config": {}}),
            "the configuration has `quantization_config`, whose effect on a `llama` is unknown",
        ),
        (
            json!({"hidden_act": "quick_gelu"}),
            "the configuration's `hidden_act` is \"quick_gelu\", which is not supported",
        ),
        (
            json!({"num_attention_heads": 5}),
            "the configuration's `num_attention_heads` is 5, which is not a divisor of `hidden_size`",
        ),
        (
            json!({"num_key_value_heads": 2}),
            "the configuration's `num_key_value_heads` is 2, which is not a divisor of the number of heads",
        ),
        (
            json!({"num_hidden_layers": 0}),
            "the configuration's `num_hidden_layers` is 0, which is not a size between 1 and 2^32 - 1",
        ),
        (json!({"vocab_size": null}), "the configuration has no `vocab_size`"),
        (json!({"model_type": "mamba"}), "the model type `mamba` is not supported"),
    ];
    for (keys, want) in cases {
        assert_eq!(refusal(keys), want);
    }
    assert_eq!(ModelConfig::from_json(&json!([])).unwrap_err().to_string(), "a configuration must be a JSON object");
    let mut olmoe = llama(json!({"model_type": "olmoe", "num_experts": 2, "num_experts_per_tok": 1, "clip_qkv": 8.0}));
    let error = ModelConfig::from_json(&olmoe).unwrap_err().to_string();
    assert_eq!(error, "the configuration's `clip_qkv` is 8.0, which is not supported");
    olmoe["clip_qkv"] = Value::Null;
    ModelConfig::from_json(&olmoe).unwrap();
}

/// None of these may panic, hang or fill memory.
#[test]
fn hostile_sizes_are_refused_before_anything_is_allocated() {
    for key in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "head_dim",
    ] {
        for value in [json!(0), json!(-1), json!(1.5), json!("x"), json!(u64::MAX), json!(1_u64 << 32)] {
            refusal(json!({key: value}));
        }
    }
    let refused = refusal(json!({"num_hidden_layers": 4_000_000_000_u64}));
    assert!(refused.contains("too large to hold in memory"), "{refused}");
    for (experts, active) in [(0, 0), (4, 5), (1 << 20, 1)] {
        refusal(json!({"model_type": "mixtral", "num_local_experts": experts, "num_experts_per_tok": active}));
    }
    refusal(json!({"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 4,
        "num_hidden_layers": 4_000_000_000_u64}));
}

#[test]
fn sliding_windows_and_learned_positions_bound_the_length() {
    let windowed =
        json!({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8});
    let config = ModelConfig::from_json(&llama(windowed)).unwrap();
    config.check_length(8).unwrap();
    assert_eq!(
        config.check_length(9).unwrap_err().to_string(),
        "a sequence of 9 is longer than 8, the sliding window of its attention"
    );
    let unused = json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": false});
    assert_eq!(ModelConfig::from_json(&llama(unused)).unwrap().sliding_window, None);
    let (_, gpt2) = tiny_configs().into_iter().find(|(name, _)| *name == "gpt2").unwrap();
    assert_eq!(
        gpt2.check_length(9).unwrap_err().to_string(),
        "a sequence of 9 is longer than 8, the number of its learned positions"
    );
}

#[test]
fn bytes_of_a_workspace_are_stated_before_they_are_taken() {
    let shape = BatchShape { n_sequences: usize::MAX, sequence_length: usize::MAX };
    let (_, config) = tiny_configs().remove(0);
    assert_eq!(Workspace::<f32>::bytes(&config, shape, Purpose::Train), u64::MAX);
}
