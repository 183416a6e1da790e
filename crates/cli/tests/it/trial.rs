//! What an adversarial trial found: each ends in a refusal that is true, or in an output that verifies.

use serde_json::json;
use thalweg_tensor::Dtype;
use thalweg_testkit::{Scratch, TinyCheckpoint};

use crate::selection::Scene;

#[test]
fn an_output_with_values_that_are_not_finite_verifies_and_is_known_again() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let scene = Scene::two(|checkpoint, _| checkpoint.tensor("model.mask", Dtype::F32, &[2], &[0.0, value]));
        for command in ["convert b -o c", "merge a b -o m", "merge a b --allow-non-finite -o n"] {
            scene.run(command).done(&[]);
            scene.run(command).done(&["already holds the result"]);
        }
        for output in ["c", "m", "n"] {
            scene.run(&format!("verify {output} --inputs")).done(&[]);
        }
    }
    // Squares that leave the doubles.
    let large = Scene::two(|checkpoint, value| checkpoint.tensor("model.big", Dtype::F64, &[2], &[value / 3.0, 1e300]));
    large.run("merge a b -o m").done(&[]);
    large.run("merge a b -o m").done(&["already holds the result"]);
    large.run("verify m").done(&[]);
}

#[test]
fn only_known_buffers_are_offered_to_be_left_out() {
    let parameters = [
        "mixer.A_log",
        "mlp.experts.gate_up_proj",
        "self_attn.sinks",
        "attn.kernel",
        "cls_token",
        "mlp.gate.e_score_correction_bias",
    ];
    for name in parameters {
        let name = format!("model.layers.0.{name}");
        let scene =
            Scene::two(
                |checkpoint, value| {
                    if value > 2.0 { checkpoint.tensor(&name, Dtype::F32, &[2], &[value; 2]) } else { checkpoint }
                },
            );
        let answer = scene.run("merge a b -o m");
        answer.refused(&["is not in every source"]);
        assert!(!answer.stderr.contains("--drop") && !answer.stderr.contains("--take-newest"), "{answer:?}");
    }
    let buffer = Scene::two(|checkpoint, value| {
        let name = "model.rotary_emb.inv_freq";
        if value > 2.0 { checkpoint.tensor(name, Dtype::F32, &[2], &[value; 2]) } else { checkpoint }
    });
    buffer.run("merge a b -o m").refused(&["--drop", "--take-newest"]);
}

#[test]
fn tables_of_whole_numbers_that_change_are_codes_whatever_their_names() {
    let names = [("q.weight._data", "q.weight._scale"), ("q.weight_int8", "q.weight_s"), ("q.tensor_q", "q.meta")];
    for (codes, scale) in names {
        let scene = Scene::two(|checkpoint, value| {
            let codes_bytes = vec![if value > 2.0 { 7 } else { 3 }; 64];
            checkpoint.raw_tensor(&format!("model.layers.0.{codes}"), Dtype::I8, &[8, 8], &codes_bytes).tensor(
                &format!("model.layers.0.{scale}"),
                Dtype::F32,
                &[8],
                &[value; 8],
            )
        });
        for more in ["", " --non-float newest"] {
            let answer = scene.run(&format!("merge a b{more} -o m"));
            answer.refused(&["I8"]);
            assert!(!answer.stderr.contains("newest source's"), "{answer:?}");
            assert!(!scene.path("m").exists());
        }
    }
    // Counters are lists, and tables that do not change are copied.
    let counters = Scene::two(|checkpoint, value| {
        let n = if value > 2.0 { 9 } else { 5 };
        checkpoint.raw_tensor("model.layers.0.mlp.counts", Dtype::I8, &[4], &[n; 4]).raw_tensor(
            "model.layers.0.attn.table",
            Dtype::I8,
            &[2, 2],
            &[1, 0, 1, 1],
        )
    });
    counters.run("merge a b -o m").refused(&["--non-float newest"]);
    counters.run("merge a b --non-float newest -o m").done(&[]);
}

#[test]
fn a_plan_notices_a_byte_that_changed_behind_its_time() {
    let scene = Scene::two(|checkpoint, _| checkpoint);
    scene.run("plan a b -o plan.json").done(&[]);
    let path = scene.path("a/model.safetensors");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    scene.run("merge --plan plan.json -o m").refused(&["changed since the plan was made", "--allow-changed"]);
    scene.run("merge --plan plan.json --allow-changed -o m").done(&[]);
    let text = std::fs::read_to_string(scene.path("plan.json")).unwrap();
    let mut plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    plan["seen_sources"] = json!([]);
    // The first key of our documents is their kind.
    let rest = plan.as_object().unwrap().iter().filter(|(key, _)| *key != "kind");
    let rest: Vec<String> = rest.map(|(key, value)| format!("\"{key}\": {value}")).collect();
    scene.write("blind.json", format!("{{\"kind\": \"thalweg-plan\", {}}}", rest.join(", ")));
    let blind = scene.run("merge --plan blind.json -o blind");
    assert!(blind.code == 0 && blind.stderr.contains("changes since then cannot be detected"), "{blind:?}");
}

#[test]
fn tokenizers_that_prepare_a_text_differently_are_refused() {
    let vocab = json!({"<s>": 0, "a": 1, "b": 2});
    let write = |scratch: &Scratch, name: &str, key: &str, step: serde_json::Value| {
        let mut tokenizer =
            json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"}});
        tokenizer[key] = step;
        let checkpoint = TinyCheckpoint::llama(Dtype::F32, 1.0);
        checkpoint.side_file("tokenizer.json", tokenizer.to_string().as_bytes()).write_to_disk(&scratch.join(name));
    };
    for key in ["normalizer", "pre_tokenizer", "post_processor"] {
        let scratch = Scratch::new();
        write(&scratch, "a", key, json!({"type": "NFC", "x": 1}));
        write(&scratch, "b", key, json!({"type": "Lowercase", "x": 1}));
        write(&scratch, "c", key, json!({"x": 1, "type": "NFC"}));
        let run = |words: &[&str]| {
            let output = crate::support::program().current_dir(scratch.path()).args(words).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, text) = run(&["merge", "a", "b", "-o", "m"]);
        assert!(code == Some(2) && text.contains(&format!("`tokenizer.{key}`")), "{text}");
        let (code, text) = run(&["merge", "a", "c", "-o", "m"]);
        assert_eq!(code, Some(0), "the order of keys means nothing: {text}");
    }
}
