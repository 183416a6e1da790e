//! What a second trial as a new user found: edits of a plan without effect, factors and moments under other names, rows
//! in another order, sources of one step, and hints that led in circles.

use std::fmt::Write;

use serde_json::Value;
use thalweg_tensor::Dtype;
use thalweg_testkit::TinyCheckpoint;

use crate::hints::{follow, follow_sentence};
use crate::selection::Scene;
use crate::support::root;

#[test]
fn an_edited_decimal_in_a_plan_is_refused_and_not_ignored() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    for (options, found) in [
        ("--last 2", "\"coefficient\": 0.5"),
        ("--last 3 --scheme wma", "\"coefficient\": 0.16666666666666666"),
        ("--last 2 --coefficients 1.5,-0.5", "\"coefficient\": -0.5"),
        ("--last 3 --coefficients 1,2,3 --allow-sum", "\"coefficient\": 2.0"),
    ] {
        scene.run(&format!("plan run {options} -o plan.json")).done(&[]);
        let plan = std::fs::read_to_string(scene.path("plan.json")).unwrap();
        assert!(plan.contains(found), "{plan}");
        scene.write("edited.json", plan.replacen(found, "\"coefficient\": 0.7", 1));
        scene.run("merge --plan edited.json -o out").refused(&["has the coefficient 0.7", "which is what counts"]);
        scene.run("merge --plan plan.json -o out --dry-run").done(&[]);
        // The default may be typed.
        scene.run("merge --plan plan.json -o out --dry-run --side-files-from newest").done(&[]);
        scene.run("merge --plan plan.json -o out --dry-run --side-files-from out").refused(&["would have no effect"]);
    }
}

#[test]
fn factors_and_moments_are_known_by_more_names() {
    for (names, what) in [
        (["l.linear_qkv.adapter.linear_in.weight", "l.linear_qkv.adapter.linear_out.weight"], "update (LoRA)"),
        (["l.q.hra_u", "l.k.hra_u"], "update (HRA)"),
        (["l.q.poly_lora_A", "l.q.poly_lora_B"], "update (Poly)"),
        (["exp_avg.model.norm.weight", "exp_avg_sq.model.norm.weight"], "training state"),
        (["model.norm.weight_exp_avg", "model.norm.weight_exp_avg_sq"], "training state"),
        (["max_exp_avg_sq.model.norm.weight", "momentum_buffer.model.norm.weight"], "training state"),
    ] {
        let scene = Scene::two(|checkpoint, value| {
            let add = |checkpoint: TinyCheckpoint, name: &&str| checkpoint.tensor(name, Dtype::F32, &[2], &[value; 2]);
            names.iter().fold(checkpoint, add)
        });
        scene.run("merge a b -o out").refused(&[what]);
        if what == "training state" {
            follow(&scene, "merge a b -o out", &[]);
            let header = std::fs::read(scene.path("out/model.safetensors")).unwrap();
            assert!(!header.windows(7).any(|window| window == b"exp_avg"), "{names:?}");
        }
    }
}

#[test]
fn rows_that_llama_cpp_permuted_are_not_averaged_with_others() {
    let scene = Scene::new(&[]);
    for step in [10, 20] {
        let name = format!("step-{step}.gguf");
        scene.write(&name, std::fs::read(root().join("fixtures/gguf").join(&name)).unwrap());
    }
    // The same names, as a rename would give them.
    scene.run("convert step-20.gguf -o plain").done(&["stay in the order of llama.cpp", "`llama`"]);
    scene.run("convert step-20.gguf -o arrays --format npz").done(&["stay in the order of llama.cpp"]);
    for other in ["plain", "arrays"] {
        let line = format!("merge step-10.gguf {other} -o out");
        scene.run(&line).refused(&["step 10: it is a GGUF file of `llama`", "GGUF files alone"]);
        follow_sentence(&scene, &line, "GGUF files alone", "merge step-10.gguf step-20.gguf -o of-gguf");
    }
    scene.run("merge step-10.gguf step-20.gguf -o wide --dtype f32").done(&["stay in the order of llama.cpp"]);
    let alone = scene.run("merge step-10.gguf step-20.gguf -o again");
    assert!(alone.code == 0 && !alone.stderr.contains("llama.cpp"), "{alone:?}");
}

#[test]
fn checkpoints_of_several_element_types_are_converted_and_merged_as_the_hint_says() {
    let scene = Scene::new(&[1000, 3000]);
    TinyCheckpoint::llama(Dtype::Bf16, 2000.0).write_to_disk(&scene.path("run/checkpoint-2000"));
    follow_sentence(
        &scene,
        "merge run --last 3 -o out",
        "`thalweg convert SOURCE -o OUT --dtype f32`, then name each of them",
        "convert run/checkpoint-2000 -o wide --dtype f32",
    );
    // The copy has no step in its name, and its receipt has one.
    let plan = scene.run("plan run/checkpoint-3000 wide run/checkpoint-1000 --scheme wma --json");
    let steps: Vec<Option<u64>> = plan.sources().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [Some(1000), Some(2000), Some(3000)], "{plan:?}");
    scene.run("merge run/checkpoint-1000 wide run/checkpoint-3000 -o out").done(&["steps 1000, 2000, 3000"]);
    scene.run("merge --append out -m wide -o more").refused(&["is already in the mean"]);
    scene.run("inspect wide").done(&["a copy of `"]);
    // All of them in one folder are copies, not a run, and the hint names each.
    for step in [1000, 2000, 3000] {
        scene.run(&format!("convert run/checkpoint-{step} -o copies/checkpoint-{step} --dtype f32")).done(&[]);
    }
    let refused = scene.run("merge copies --last 3 -o of-copies");
    refused.refused(&["copy of `checkpoint-2000`, not part of the run"]);
    follow(&scene, "merge copies --last 3 -o of-copies", &[]);
    scene.run("inspect copies").done(&["copy of `checkpoint-1000`"]);
}

#[test]
fn an_append_to_sums_prints_the_mean_that_it_makes() {
    let scene = Scene::new(&[1000, 2000, 3000, 4000]);
    scene.run("merge run --steps 1000,2000,3000 -o mean --keep-sums sums").done(&[]);
    let add = "merge --append mean -m run/checkpoint-4000 -o more";
    let from_sums = scene.run(&format!("{add} --sums sums --dry-run"));
    from_sums.done(&["sma of 4 checkpoints", "read instead of the older checkpoints: `"]);
    let rows = |text: &str| -> Vec<String> {
        let row = |line: &&str| line.contains("0.250000000") || line.trim_start().starts_with("sum");
        text.lines().filter(row).map(str::to_owned).collect()
    };
    let scratch = rows(&scene.run(&format!("{add} --dry-run")).stdout);
    assert_eq!((rows(&from_sums.stdout), scratch.len()), (scratch, 5), "{from_sums:?}");
    scene.run(&format!("{add} --allow-changed")).refused(&["other options would have no effect"]);
}

#[test]
fn a_plan_among_the_checkpoints_is_told_how_it_is_executed() {
    let scene = Scene::new(&[1000, 2000]);
    scene.run("plan run --last 2 -o plan.json").done(&[]);
    for line in
        ["merge plan.json", "merge plan.json out", "merge plan.json -o out", "inspect plan.json", "plan plan.json"]
    {
        scene.run(line).refused(&["a document of this program (`thalweg-plan`)", "`thalweg merge --plan FILE`"]);
        follow(&scene, line, &[("FILE", "plan.json")]);
        let _ = std::fs::remove_dir_all(scene.path("merged"));
    }
    scene.run("merge run --last 2 -o mean").done(&[]);
    scene.run("diff mean/thalweg.json mean").refused(&["a document of this program (`thalweg-receipt`)"]);
}

#[test]
fn names_that_are_almost_those_of_a_run_lead_to_a_pattern() {
    for (names, pattern) in [
        (["model_100M_step100", "model_100M_step200"], "model_100M_step{step}"),
        (["step_1000_loss_2.5", "step_2000_loss_2.3"], "step_{step}_loss_*"),
        (["2024-01-01_step100", "2024-01-02_step200"], "*_step{step}"),
        (["run7.checkpoint-100", "run7.checkpoint-200"], "run7.checkpoint-{step}"),
    ] {
        let scene = Scene::new(&[]);
        for name in names {
            TinyCheckpoint::llama(Dtype::F32, 1.0).write_to_disk(&scene.path("run").join(name));
        }
        for line in ["inspect run", "merge run --last 2 -o out"] {
            scene.run(line).refused(&["is not a run folder", "--checkpoint-pattern"]);
            scene.run(&format!("{line} --checkpoint-pattern {pattern}")).done(&[]);
            let _ = std::fs::remove_dir_all(scene.path("out"));
        }
    }
}

#[test]
fn checkpoints_of_several_stages_or_epochs_have_no_newest_until_some_are_chosen() {
    for names in [
        ["stage1-step100", "stage1-step300", "stage2-step200"],
        ["epoch=0-step=100", "epoch=1-step=300", "epoch=2-step=200"],
        ["epoch_1_step_100", "epoch_2_step_30", "epoch_3_step_50"],
    ] {
        let scene = Scene::new(&[]);
        for name in names {
            TinyCheckpoint::llama(Dtype::F32, 1.0).write_to_disk(&scene.path("run").join(name));
        }
        for line in
            ["merge run --last 1 -o out", "sweep run --counts 1 -o sweep", "plan run --every 1", "explain run --last 2"]
        {
            let answer = scene.run(line);
            assert!(answer.code == 2, "{answer:?}");
            follow(&scene, line, &[]);
        }
        scene.run("inspect run").done(&["3 finished"]);
    }
}

#[test]
fn sources_of_one_step_are_told_apart_in_a_refusal() {
    let scene = Scene::new(&[1000]);
    for (run, dtype) in [("x", Dtype::Bf16), ("y", Dtype::F32)] {
        let extra = TinyCheckpoint::llama(dtype, 1.0).tensor("extra.weight", dtype, &[1], &[1.0]);
        extra.write_to_disk(&scene.path(run).join("checkpoint-1000"));
    }
    let pair = "merge run/checkpoint-1000 y/checkpoint-1000 -o out";
    scene.run(pair).refused(&["run/checkpoint-1000` (step 1000)", "y/checkpoint-1000` (step 1000)"]);
    scene.run("merge x/checkpoint-1000 y/checkpoint-1000 -o out").refused(&["x/checkpoint-1000` (step 1000)  ["]);
    TinyCheckpoint::llama(Dtype::Bf16, 1.0).write_to_disk(&scene.path("x/checkpoint-2000"));
    scene.run("merge run/checkpoint-1000 x/checkpoint-2000 -o out").refused(&["  step 1000  [", "  step 2000  ["]);
}

#[test]
fn advice_of_the_parser_and_of_windows_can_be_followed() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    for line in [
        "explain run --last 3 --predict -3",
        "forecast run --predict -3",
        "merge run --lst 3 -o out",
        "plan run --laast -1",
    ] {
        let answer = scene.run(line);
        assert!(answer.code == 2 && !answer.stderr.contains("use '-- "), "{answer:?}");
    }
    for window in ["ema:2", "ema-normalised:2", "power-ema:2"] {
        let line = format!("watch run --windows {window} --once -o watched");
        let (scheme, n) = window.split_once(':').unwrap();
        scene.run(&line).refused(&["needs a parameter before the number", &format!("`{scheme}:0.1:{n}`")]);
        scene.run(&line.replace(window, &format!("{scheme}:0.1:{n}"))).done(&[]);
        std::fs::remove_dir_all(scene.path("watched")).unwrap();
    }
}

#[test]
fn an_output_below_a_file_says_so() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    scene.write("file", "mine");
    for line in [
        "explain run --last 3 -o file",
        "watch run --windows sma:2 --once -o file",
        "sweep run --counts 2 -o file",
        "demo --quick -o file",
        "merge run --last 2 -o file/out",
        "plan run --last 2 -o file/plan.json",
        "convert run/checkpoint-1000 -o file/out",
    ] {
        scene.run(line).refused(&["file", "hint: "]);
        let answer = scene.run(line);
        assert!(answer.stderr.contains("is a file") || answer.stderr.contains("not a folder"), "{answer:?}");
    }
    assert_eq!(std::fs::read_to_string(scene.path("file")).unwrap(), "mine");
}

#[test]
fn outputs_that_would_be_folders_named_like_a_place_elsewhere_are_refused() {
    let scene = Scene::new(&[1000, 2000]);
    for (out, what) in [
        ("~/out", "the shell did not expand `~`"),
        ("s3:/bucket/out", "`s3://`"),
        ("me@host:/out", "another machine"),
        ("https://host.invalid/out", "web servers are only read"),
    ] {
        for line in [
            "merge run --last 2 -o",
            "plan run --last 2 -o",
            "sweep run --counts 2 -o",
            "explain run --last 2 --svg",
            "explain run --last 2 -o",
            "init run --for cpt --last 2 -o",
            "demo --quick -o",
        ] {
            scene.run(&format!("{line} {out}")).refused(&[what, "hint: choose another place"]);
        }
    }
    let names: Vec<String> = std::fs::read_dir(scene.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["run"]);
}

/// Lines of litgpt's `metrics.csv` without tokens, one in four of whose micro-batches is a step.
fn litgpt() -> String {
    let line = |i: u64| format!("{},{:.3},{}\n", 40 * i, 2.5 + 0.01 * (i * 7 % 5) as f64, 40 * i - 1);
    (1..=60).map(line).fold("iter,loss,step\n".to_owned(), |text, line| text + &line)
}

#[test]
fn the_hint_about_a_log_in_the_run_is_that_of_its_fault() {
    let scene = Scene::new(&[200, 400, 600]);
    scene.write("run/metrics.csv", litgpt());
    let refused = scene.run("recover run");
    refused.refused(&["counts micro-batches", "`--log-every N`"]);
    assert!(!refused.stderr.contains("loss=NAME"), "{refused:?}");
    let counted = scene.run("recover run --log-every 10");
    assert!(counted.code == 1 && counted.stdout.contains("steps 10 to 600"), "{counted:?}");
    // Taken as steps they reach beyond the run, which is said.
    let forced = scene.run("inspect run --log-columns step=step");
    forced.done(&["ends at step 2399, far beyond the newest checkpoint, step 600"]);
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(litgpt().encode_utf16().flat_map(u16::to_le_bytes)).collect();
    scene.write("run/metrics.csv", utf16);
    scene.run("recover run").refused(&["text in UTF-16", "iconv -f UTF-16 -t UTF-8"]);
    scene.write("run/metrics.csv", "step;loss\n1;2,5\n2;2,4\n");
    let comma = scene.run("recover run");
    comma.refused(&["`2,5`"]);
    assert!(!comma.stderr.contains("--log-columns"), "{comma:?}");
}

#[test]
fn columns_that_disagree_about_the_step_are_named_in_the_run_too() {
    let scene = Scene::new(&[200, 400, 600]);
    let mut lines = String::new();
    for i in 1..=60_u64 {
        let loss = 2.5 + 0.01 * (i * 7 % 5) as f64;
        writeln!(lines, "{{\"step\": {}, \"global_step\": {}, \"loss\": {loss}}}", 40 * i, 10 * i).unwrap();
    }
    scene.write("run/log.jsonl", lines);
    scene.run("recover run").refused(&["`global_step` and `step` both mean the step and differ", "such as 10 and 40"]);
    let named = scene.run("recover run --log-columns step=global_step");
    assert!(named.code == 1 && named.stdout.contains("steps 10 to 600"), "{named:?}");
    scene.run("plan run --last 2").done(&["a step log was found but cannot be used"]);
    std::fs::rename(scene.path("run/log.jsonl"), scene.path("run/mine.jsonl")).unwrap();
    scene.run("recover run --log run").refused(&["it holds `mine.jsonl`"]);
    follow(&scene, "recover run --log run", &[]);
}

#[test]
fn element_types_that_differ_are_compared_as_values() {
    let scene = Scene::new(&[]);
    for (name, dtype, value) in [("f32", Dtype::F32, 1.5), ("bf16", Dtype::Bf16, 1.5), ("f16", Dtype::F16, 2.0)] {
        TinyCheckpoint::new().tensor("w.weight", dtype, &[2], &[value; 2]).write_to_disk(&scene.path(name));
    }
    for (pair, distance) in
        [("f32 bf16", 0.0), ("bf16 f32", 0.0), ("f32 f16", 0.5_f64.sqrt()), ("f16 bf16", 0.5_f64.sqrt())]
    {
        let answer = scene.run(&format!("diff {pair} --json"));
        let document: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!((answer.code, &document["distance"]), (1, &Value::from(distance)), "{pair}: {answer:?}");
        assert_eq!(document["tensors"][0]["max_ulps"], Value::Null);
    }
}
