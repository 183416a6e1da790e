//! `--to-huggingface`: a Llama of torchtitan becomes a folder that transformers loads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use thalweg_tensor::Dtype;
use thalweg_testkit::{TinyCheckpoint, copy_folder};

use crate::hints::{follow, follow_sentence};
use crate::kill::{signal, wait_for_journal};
use crate::selection::Scene;
use crate::support::{program, root};
use crate::torch::{assert_same, tensors};

/// The model of `fixtures/make/make_torchtitan.py`, as a model's page on the hub states it.
fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 41, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16"
    })
}

/// A scene with torchtitan's run of two steps, its last step in BF16, and assets.
fn scene() -> Scene {
    let scene = Scene::new(&[]);
    for (name, from) in [("titan", "trainers/torchtitan"), ("final", "trainers/torchtitan-final/step-40")] {
        copy_folder(&root().join("fixtures").join(from), &scene.path(name));
    }
    fs::remove_dir_all(scene.path("titan/expected")).unwrap();
    scene.write("assets/config.json", config().to_string());
    scene.write("assets/tokenizer.json", "{}");
    scene.write("assets/generation_config.json", "{\"eos_token_id\": 2}");
    scene.write("assets/model-00001-of-00004.safetensors", "");
    scene
}

/// Runs a command that must succeed; what it said.
fn done(scene: &Scene, command: &str) -> String {
    let answer = scene.run(command);
    assert_eq!(answer.code, 0, "{command}: {answer:?}");
    answer.stdout + &answer.stderr
}

fn refused(scene: &Scene, command: &str, facts: &[&str]) {
    let answer = scene.run(command);
    assert_eq!(answer.code, 2, "{command}: {answer:?}");
    facts.iter().for_each(|fact| assert!(answer.stderr.contains(fact), "`{fact}` is not in {answer:?}"));
    assert!(!scene.path("out").exists());
}

const TO_HF: &str = "--to-huggingface --hf-assets assets";

#[test]
fn convert_writes_what_torchtitan_exports_with_the_assets() {
    let scene = scene();
    let said = done(&scene, &format!("convert final -o out {TO_HF}"));
    assert!(said.contains("rows of 4 heads of queries and 2 of keys, of 4 rows each"), "{said}");
    assert_same(&scene.path("out"), &root().join("fixtures/trainers/torchtitan-final-hf/step-40"));
    let config_of = |name: &str| fs::read(scene.path(name).join("config.json")).unwrap();
    assert_eq!(config_of("out"), config_of("assets"));
    let mut names: Vec<_> = fs::read_dir(scene.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected =
        ["README.md", "config.json", "generation_config.json", "model.safetensors", "thalweg.json", "tokenizer.json"];
    assert_eq!(names, expected);
    done(&scene, "verify out --inputs");
    // The receipt says how the source was read.
    let receipt: Value = serde_json::from_slice(&fs::read(scene.path("out/thalweg.json")).unwrap()).unwrap();
    let heads = json!({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4});
    assert_eq!(receipt["plan"]["reading"]["to_huggingface"], heads);
    assert!(receipt["plan"]["policy"]["hf_assets"].as_str().unwrap().ends_with("assets"));
    assert!(done(&scene, &format!("convert final -o out {TO_HF}")).contains("already holds the result"));
}

#[test]
fn the_config_states_the_dtype_of_the_output() {
    let scene = scene();
    for (dtype, word) in [("same", "float32"), ("bf16", "bfloat16"), ("f16", "float16")] {
        done(&scene, &format!("convert titan/step-30 -o out-{dtype} --dtype {dtype} {TO_HF}"));
        let config = fs::read(scene.path(&format!("out-{dtype}/config.json"))).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&config).unwrap()["torch_dtype"], word);
    }
    // Each element is rounded after the rows have their order, so this is the conversion of what was rounded.
    done(&scene, "convert titan/step-30 -o rounded --dtype bf16");
    done(&scene, &format!("convert rounded -o out {TO_HF}"));
    assert_same(&scene.path("out"), &scene.path("out-bf16"));
}

#[test]
fn a_merge_of_a_run_goes_straight_to_hugging_face() {
    let scene = scene();
    for scheme in ["sma", "wma"] {
        let out = format!("merged-{scheme}");
        done(&scene, &format!("merge titan --last 2 --scheme {scheme} -o {out} {TO_HF}"));
        done(&scene, &format!("verify {out} --inputs"));
        let expected = root().join(format!("fixtures/trainers/torchtitan/expected/{scheme}.safetensors"));
        done(&scene, &format!("convert {} -o expected-{scheme} {TO_HF}", expected.display()));
        assert_same(&scene.path(&out), &scene.path(&format!("expected-{scheme}")));
    }
    // A plan holds everything: neither option is needed to execute it.
    done(&scene, &format!("plan titan --last 2 -o plan.json --merged planned {TO_HF}"));
    done(&scene, "merge --plan plan.json");
    assert_same(&scene.path("planned"), &scene.path("merged-sma"));
    scene.write("recipe.yml", "run: titan\nlast: 2\n");
    done(&scene, &format!("merge recipe.yml from-recipe {TO_HF}"));
    assert_same(&scene.path("from-recipe"), &scene.path("merged-sma"));
    let said = done(&scene, &format!("merge titan --last 2 -o again {TO_HF} --against merged-sma"));
    assert!(said.contains("distance 0.0000 from the merge"), "{said}");
}

#[test]
fn the_bytes_do_not_depend_on_threads_memory_or_the_form_of_the_source() {
    let scene = scene();
    done(&scene, &format!("convert final -o one -j 1 {TO_HF}"));
    done(&scene, &format!("convert final -o four -j 4 --memory 64MB {TO_HF}"));
    for format in ["safetensors", "torch", "dcp"] {
        done(&scene, &format!("convert final -o {format} --format {format}"));
        done(&scene, &format!("convert {format} -o from-{format} {TO_HF}"));
    }
    let file = |name: &str| fs::read(scene.path(name).join("model.safetensors")).unwrap();
    for name in ["four", "from-safetensors", "from-torch", "from-dcp"] {
        assert!(file(name) == file("one"), "{name}");
    }
}

/// A shape from its text.
fn sizes(shape: &str) -> Vec<u64> {
    shape.trim_matches(['[', ']']).split(", ").map(|size| size.parse().unwrap()).collect()
}

/// A Llama of Hugging Face under torchtitan's names: row 2 j + s of a head there is row s d/2 + j here.
fn to_torchtitan(path: &Path, n_heads: usize, n_kv_heads: usize) -> TinyCheckpoint {
    let names: BTreeMap<&str, &str> = [
        ("self_attn.q_proj.weight", "attention.wq.weight"),
        ("self_attn.k_proj.weight", "attention.wk.weight"),
        ("self_attn.v_proj.weight", "attention.wv.weight"),
        ("self_attn.o_proj.weight", "attention.wo.weight"),
        ("mlp.gate_proj.weight", "feed_forward.w1.weight"),
        ("mlp.down_proj.weight", "feed_forward.w2.weight"),
        ("mlp.up_proj.weight", "feed_forward.w3.weight"),
        ("input_layernorm.weight", "attention_norm.weight"),
        ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ]
    .into();
    tensors(path).into_iter().fold(TinyCheckpoint::new(), |tiny, (name, (_, shape, bytes))| {
        let shape = sizes(&shape);
        let n_heads = if name.contains("q_proj") { n_heads } else { n_kv_heads };
        let is_rotated = name.contains("q_proj") || name.contains("k_proj");
        let n_rows = usize::try_from(shape[0]).unwrap();
        let (d, row_bytes) = (n_rows / n_heads, bytes.len() / n_rows);
        let from = |row: usize| if is_rotated { row / d * d + row % d % 2 * (d / 2) + row % d / 2 } else { row };
        let rows = (0..n_rows).flat_map(|row| &bytes[from(row) * row_bytes..(from(row) + 1) * row_bytes]);
        let bytes: Vec<u8> = rows.copied().collect();
        let renamed = match name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, inner)) => format!("layers.{layer}.{}", names[inner]),
            None => match name.as_str() {
                "model.embed_tokens.weight" => "tok_embeddings.weight".to_owned(),
                "model.norm.weight" => "norm.weight".to_owned(),
                _ => "output.weight".to_owned(),
            },
        };
        tiny.raw_tensor(&renamed, Dtype::F32, &shape, &bytes)
    })
}

#[test]
fn a_trained_llama_comes_back_from_torchtitans_form() {
    let scene = scene();
    let stories = root().join("fixtures/stories260K");
    to_torchtitan(&stories, 8, 4).write_to_disk(&scene.path("stories"));
    done(&scene, "convert stories -o stories-dcp --format dcp");
    done(&scene, &format!("convert stories-dcp -o out --to-huggingface --hf-assets {}", stories.display()));
    assert_same(&scene.path("out"), &stories);
    for name in ["config.json", "tokenizer.json"] {
        assert_eq!(fs::read(scene.path("out").join(name)).unwrap(), fs::read(stories.join(name)).unwrap());
    }
    // In torchtitan's order of rows it is another model.
    let other = tensors(&scene.path("stories-dcp"));
    let queries = |of: &BTreeMap<String, (String, String, Vec<u8>)>, name: &str| of[name].2.clone();
    let name = "layers.0.attention.wq.weight";
    assert_ne!(queries(&other, name), queries(&tensors(&stories), "model.layers.0.self_attn.q_proj.weight"));
}

#[test]
fn a_config_beside_the_tensors_needs_no_assets_and_rename_comes_first() {
    let scene = scene();
    done(&scene, "convert final -o beside");
    scene.write("beside/config.json", config().to_string());
    done(&scene, "convert beside -o beside-hf --to-huggingface");
    assert_same(&scene.path("beside-hf"), &root().join("fixtures/trainers/torchtitan-final-hf/step-40"));
    scene.write("there", "* -> wrapped.*");
    scene.write("back", "wrapped.* -> *");
    done(&scene, "convert final -o wrapped --rename there");
    done(&scene, &format!("convert wrapped -o out-renamed --rename back {TO_HF}"));
    assert_same(&scene.path("out-renamed"), &scene.path("beside-hf"));
    // `--drop` counts in the new names.
    scene.write(
        "tied/config.json",
        config().to_string().replace("\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true"),
    );
    done(&scene, "convert final -o out-tied --to-huggingface --hf-assets tied --drop lm_head.weight");
    assert!(!tensors(&scene.path("out-tied")).contains_key("lm_head.weight"));
    refused(&scene, &format!("convert final -o out {TO_HF} --drop output.weight"), &["`--drop output.weight` matches"]);
}

#[test]
fn inspect_says_who_writes_hugging_face_names() {
    let scene = scene();
    let said = done(&scene, "inspect final");
    assert!(
        said.contains("names: torchtitan's Llama; `thalweg convert --to-huggingface` writes Hugging Face's"),
        "{said}"
    );
    let document: Value = serde_json::from_str(&scene.run("inspect final --json").stdout).unwrap();
    assert_eq!(document["naming"], "torchtitan-llama");
    let megatron = root().join("fixtures/megatron-torch_dist/iter_0000060");
    let said = done(&scene, &format!("inspect {}", megatron.display()));
    assert!(said.contains("names: megatron; after a merge, Megatron Bridge's `examples/conversion/"), "{said}");
    assert!(!done(&scene, "inspect assets/../titan/step-40").contains("Megatron"));
}

#[test]
fn what_cannot_be_translated_is_refused() {
    let scene = scene();
    let with = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        scene.write(&format!("other-{key}/config.json"), config.to_string());
        format!("convert final -o out --to-huggingface --hf-assets other-{key}")
    };
    for (key, value, words) in [
        ("num_attention_heads", json!(8), "wk.weight` has shape [8, 16], but 2 heads of 2 rows have 4 rows"),
        ("num_key_value_heads", json!(4), "wk.weight` has shape [8, 16], but 4 heads of 4 rows have 16 rows"),
        ("head_dim", json!(8), "has shape [8, 16], but 2 heads of 8 rows have 16 rows"),
        ("vocab_size", json!(40), "`vocab_size` is 40, but 41 by tensor `model.embed_tokens.weight`"),
        ("num_hidden_layers", json!(2), "`model.layers.1.self_attn.q_proj.weight`, which the checkpoint lacks"),
        ("model_type", json!("mixtral"), "`model_type` is \"mixtral\", `\"llama\"` expected"),
        ("attention_bias", json!(true), "`attention_bias` is true"),
    ] {
        let command = with(key, value);
        refused(&scene, &command, &[words, "hint: "]);
        refused(&scene, &format!("{command} --dry-run"), &[words]);
    }
    let megatron = root().join("fixtures/megatron-torch_dist/iter_0000060");
    let command = format!("convert {} -o out {TO_HF}", megatron.display());
    let facts = ["linear_qkv.weight` has one of Megatron's names", "convert_checkpoints.py export`"];
    refused(&scene, &command, &facts);
    // The names come first: a config would not help.
    refused(&scene, &command.replace("--hf-assets assets", ""), &facts);
    let stories = root().join("fixtures/stories260K");
    let command = format!("convert {} -o out --to-huggingface", stories.display());
    refused(&scene, &command, &["it already has Hugging Face names, such as `model.layers.0."]);
    refused(&scene, "convert final -o out --hf-assets assets", &["--to-huggingface"]);
    refused(&scene, "convert final -o out --to-huggingface --hf-assets titan", &["`config.json`"]);
    refused(&scene, "convert final -o out --to-huggingface --hf-assets nowhere", &["`nowhere` does not exist"]);
    scene.write("broken/config.json", "[1]");
    refused(&scene, "convert final -o out --to-huggingface --hf-assets broken", &["is not a JSON object"]);
}

#[test]
fn a_hugging_face_folder_merges_with_checkpoints_of_torchtitan_as_the_hints_say() {
    let scene = scene();
    done(&scene, &format!("convert titan/step-40 -o hf {TO_HF}"));
    done(&scene, &format!("merge titan --last 2 -o titan-alone {TO_HF}"));
    let assets = [
        ("--to-huggingface", "--to-huggingface --hf-assets assets"),
        ("--hf-assets DIR", "--to-huggingface --hf-assets assets"),
    ];
    // The names differ; the newest one is the Hugging Face folder, or the other.
    follow(&scene, "merge titan/step-30 hf -o mixed", &assets);
    done(&scene, "verify mixed --inputs");
    assert_same(&scene.path("mixed"), &scene.path("titan-alone"));
    done(&scene, "merge titan/step-30 hf -o by-config --to-huggingface");
    assert_same(&scene.path("by-config"), &scene.path("titan-alone"));
    done(&scene, "convert titan/step-30 -o hf-30 --to-huggingface --hf-assets hf");
    done(&scene, "merge hf-30 titan/step-40 -o other-way --to-huggingface --hf-assets hf-30");
    assert_same(&scene.path("other-way"), &scene.path("titan-alone"));
    refused(&scene, "merge hf-30 titan/step-40 -o out --to-huggingface", &["--hf-assets DIR"]);
    // Two obstacles at once: each hint leads on, and none back.
    done(&scene, "convert hf -o narrow --dtype bf16");
    follow(&scene, "merge titan/step-30 narrow -o of-two", &assets);
    let types = scene.run("merge titan/step-30 narrow -o of-two --to-huggingface");
    types.refused(&["`thalweg convert SOURCE -o OUT --dtype f32`", "not f32 yet: `"]);
    done(&scene, "convert narrow -o wide --dtype f32");
    done(&scene, "merge -m titan/step-30 -m wide -o of-two --to-huggingface");
    // Nothing to translate is still refused.
    refused(&scene, "merge hf-30 hf -o out --to-huggingface", &["it already has Hugging Face names"]);
}

#[test]
fn a_config_and_tokenizer_come_along_for_tensors_with_hugging_face_names() {
    let scene = scene();
    done(&scene, &format!("convert titan/step-40 -o hf {TO_HF}"));
    done(&scene, "convert hf -o dcp/step-40 --format dcp");
    fs::remove_file(scene.path("dcp/step-40/config.json")).unwrap();
    let command = "convert dcp/step-40 -o out --hf-assets assets";
    done(&scene, command);
    assert_same(&scene.path("out"), &scene.path("hf"));
    let config: Value = serde_json::from_slice(&fs::read(scene.path("out/config.json")).unwrap()).unwrap();
    assert_eq!((&config["vocab_size"], &config["torch_dtype"]), (&json!(41), &json!("float32")));
    assert!(scene.path("out/tokenizer.json").exists());
    done(&scene, "verify out --inputs");
    done(&scene, "merge -m dcp/step-40 -o merged --hf-assets assets");
    assert_same(&scene.path("merged"), &scene.path("hf"));
    // The names of a trainer under a config: transformers would start with random weights.
    fs::remove_dir_all(scene.path("out")).unwrap();
    let titan = "convert titan/step-40 -o out --hf-assets assets";
    refused(&scene, titan, &["have the names of its trainer", "add `--to-huggingface`"]);
    follow(&scene, titan, &[]);
    fs::remove_dir_all(scene.path("out")).unwrap();
    refused(&scene, &format!("{command} --format dcp"), &["`--hf-assets` writes safetensors", "leave out `--format`"]);
    let mut other = config;
    other["hidden_size"] = json!(32);
    scene.write("other/config.json", other.to_string());
    refused(&scene, &command.replace("assets assets", "assets other"), &["`hidden_size` is 32, but 16 by tensor"]);
}

#[test]
fn a_config_that_changes_after_the_plan_is_noticed() {
    let scene = scene();
    done(&scene, &format!("plan titan --last 2 -o plan.json --merged out {TO_HF}"));
    let mut other = config();
    (other["num_attention_heads"], other["head_dim"]) = (json!(8), json!(2));
    other["num_key_value_heads"] = json!(4);
    scene.write("assets/config.json", other.to_string());
    refused(&scene, "merge --plan plan.json", &["states different attention heads than the plan"]);
}

/// A Llama of torchtitan of 29 MB, whose elements are their numbers.
fn write_large(scene: &Scene) {
    const SIDE: u64 = 1024;
    let numbers = |n: u64| (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>();
    let square = numbers(SIDE * SIDE);
    let tiny = ["wq", "wk", "wv", "wo"].iter().fold(TinyCheckpoint::new(), |tiny, name| {
        tiny.raw_tensor(&format!("layers.0.attention.{name}.weight"), Dtype::F32, &[SIDE, SIDE], &square)
    });
    let tiny = ["w1", "w2", "w3"].iter().fold(tiny, |tiny, name| {
        tiny.raw_tensor(&format!("layers.0.feed_forward.{name}.weight"), Dtype::F32, &[SIDE, SIDE], &square)
    });
    let norms = ["norm", "layers.0.attention_norm", "layers.0.ffn_norm"];
    let tiny = norms
        .iter()
        .fold(tiny, |tiny, name| tiny.raw_tensor(&format!("{name}.weight"), Dtype::F32, &[SIDE], &numbers(SIDE)));
    let tiny = ["tok_embeddings", "output"].iter().fold(tiny, |tiny, name| {
        tiny.raw_tensor(&format!("{name}.weight"), Dtype::F32, &[8, SIDE], &numbers(8 * SIDE))
    });
    let sizes = json!({
        "vocab_size": 8, "hidden_size": SIDE, "intermediate_size": SIDE, "num_attention_heads": 8, "num_key_value_heads": 8
    });
    let mut large = config();
    large.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
    tiny.config(&large).write_to_disk(&scene.path("large"));
}

#[test]
fn a_conversion_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one() {
    let scene = scene();
    write_large(&scene);
    done(&scene, "convert large -o expected --to-huggingface");
    let out = scene.path("out");
    let file = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    for n_bytes in [1, 300, 700] {
        let mut command = program();
        command.args(["convert", "-q", "-j", "2", "--to-huggingface"]).arg(scene.path("large")).arg("-o").arg(&out);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        wait_for_journal(&mut child, &out, n_bytes);
        signal(&child, Signal::KILL);
        child.wait().unwrap();
        assert!(!out.exists() || file(&out) == file(&scene.path("expected")));
    }
    done(&scene, "convert large -o out --to-huggingface");
    assert!(file(&out) == file(&scene.path("expected")), "the same bytes");
    done(&scene, "verify out --inputs");
}

#[test]
fn hints_are_followed() {
    let scene = scene();
    let assets = [("--hf-assets DIR", "--hf-assets assets"), ("config.json", "--hf-assets assets")];
    follow(&scene, "convert final -o out --to-huggingface", &assets);
    let to_hf = |rest: &str| format!("convert final -o out-2 {TO_HF} {rest}");
    follow_sentence(&scene, &to_hf("--format dcp"), "leave out `--format`", &to_hf(""));
    let merge = |rest: &str| format!("merge titan --last 2 -o out-3 {TO_HF} {rest}");
    follow_sentence(&scene, &merge("--optimizer newest"), "leave out `--optimizer`", &merge(""));
    follow_sentence(&scene, &merge("--format same"), "leave out `--format`", &merge(""));
    scene.write("other/config.json", config().to_string().replace("41", "42"));
    let other = "convert final -o out-4 --to-huggingface --hf-assets other";
    follow(&scene, other, &[("config.json", "--hf-assets assets"), ("--hf-assets", "--hf-assets assets")]);
    let megatron = root().join("fixtures/megatron-torch_dist/iter_0000060");
    let plain = format!("convert {} -o out-6", megatron.display());
    let sentence = "leave out `--to-huggingface`, write the checkpoint in its trainer's format (`--format same`)";
    follow_sentence(&scene, &format!("{plain} --to-huggingface"), sentence, &format!("{plain} --format same"));
    let both =
        tensors(&scene.path("final")).into_iter().fold(TinyCheckpoint::new(), |tiny, (name, (_, shape, bytes))| {
            let shape = sizes(&shape);
            let tiny = if name == "lm_head.weight" {
                tiny.raw_tensor("output.weight", Dtype::Bf16, &shape, &bytes)
            } else {
                tiny
            };
            tiny.raw_tensor(&name, Dtype::Bf16, &shape, &bytes)
        });
    both.write_to_disk(&scene.path("both"));
    let twice = format!("convert both -o out-7 {TO_HF}");
    let first = "leave one of them out first, with `thalweg convert SRC -o OUT --drop NAME`";
    follow_sentence(&scene, &twice, first, "convert both -o one --drop output.weight");
    done(&scene, &format!("convert one -o out-7 {TO_HF}"));
    let stories = root().join("fixtures/stories260K");
    let plain = format!("convert {} -o out-5", stories.display());
    let sentence = "leave out `--to-huggingface`";
    follow_sentence(&scene, &format!("{plain} --to-huggingface"), sentence, &plain);
}
