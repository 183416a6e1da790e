//! What an output keeps of its newest source beside the merged tensors: copies of the parameters that would undo the
//! merge, tensors that share bytes with merged ones, training state that is not a model.

use std::fs;
use std::path::Path;

use serde_json::Value;
use thalweg_testkit::Scratch;

use crate::saved::Type::{Bf16, F32};
use crate::saved::{Node, Saved, Type, dict, values};
use crate::support::{program, root};
use crate::torch::tensors;

/// Exit code, and everything that is printed.
fn run_in(scratch: &Scratch, arguments: &[&str]) -> (i32, String) {
    let output = program().current_dir(scratch.path()).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code().unwrap(), text.concat())
}

#[track_caller]
fn done(scratch: &Scratch, arguments: &[&str]) -> String {
    let (code, text) = run_in(scratch, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

#[track_caller]
fn refused(scratch: &Scratch, arguments: &[&str], facts: &[&str]) {
    let (code, text) = run_in(scratch, arguments);
    assert_eq!(code, 2, "{arguments:?}: {text}");
    facts.iter().for_each(|fact| assert!(text.contains(fact), "{arguments:?}: `{fact}` is not in: {text}"));
}

/// A norm of ones and two weights, at a step.
fn params(step: u32) -> [Vec<f32>; 3] {
    [vec![1.0; 16], values(step, 64), values(step + 1, 16)]
}

const SHAPES: [&[u64]; 3] = [&[16], &[8, 8], &[16]];
const NAMES: [&str; 3] = ["a.norm", "b.weight", "c.weight"];

/// The tensors of a model, by name.
fn model(saved: &mut Saved, dtype: Type, step: u32) -> Node {
    let all = params(step);
    dict([0, 1, 2].map(|i| (NAMES[i], saved.tensor(dtype, SHAPES[i], &all[i]))))
}

/// Makes what an optimizer keeps besides for the parameter with this number.
type More<'a> = &'a dyn Fn(&mut Saved, usize) -> Vec<(String, Node)>;

/// What Adam keeps for each parameter, and `more`.
fn adam(saved: &mut Saved, step: u32, more: More<'_>) -> Node {
    let one = |i: u32| {
        let n = u32::try_from(params(step)[i as usize].len()).unwrap();
        let [first, second] = [i + 100, i + 200].map(|seed| {
            let squares: Vec<f32> = values(step + seed, n).iter().map(|value| value * value).collect();
            saved.tensor(F32, SHAPES[i as usize], &squares)
        });
        let mut items = vec![("exp_avg".to_owned(), first), ("exp_avg_sq".to_owned(), second)];
        items.extend(more(saved, i as usize));
        (i.to_string(), Node::Dict(items))
    };
    Node::Dict((0..3).map(one).collect())
}

/// Writes steps 10 and 20 of a run, whose states `make` makes.
fn write_run(scratch: &Scratch, name: &str, make: &dyn Fn(&mut Saved, u32) -> Node) {
    for step in [10, 20] {
        let mut saved = Saved::default();
        let state = make(&mut saved, step);
        saved.write(&scratch.join(format!("{name}/step-{step}.pt")), &state);
    }
}

/// A state of this model and optimizer.
fn training(model: Node, optimizer: Vec<(&str, Node)>) -> Node {
    dict([("model", model), ("optimizer", Node::Dict(optimizer.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()))])
}

fn merge_all<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["merge", run, "--every", "1"], more].concat()
}

/// Copies of the parameters are refused where they would be kept, with a hint that works, and are left out by default.
#[track_caller]
fn check_stale(scratch: &Scratch, run: &str, master: &str) {
    let facts = [
        &format!("such as `{master}`"),
        "would undo the merge",
        "hint: leave the training state out with `--optimizer drop`",
    ];
    refused(scratch, &merge_all(run, &["-o", "x", "--optimizer", "newest"]), &facts);
    refused(scratch, &merge_all(run, &["-o", "x", "--optimizer", "average"]), &facts);
    let out = format!("{}-merged", run.replace('/', "-"));
    let told = done(scratch, &merge_all(run, &["-o", &out]));
    assert!(told.contains(facts[0]) && told.contains("without the state of the training"), "{told}");
    let dropped = format!("{out}-dropped");
    done(scratch, &merge_all(run, &["-o", &dropped, "--optimizer", "drop"]));
    assert!(tensors(&scratch.join(out)) == tensors(&scratch.join(dropped)), "{run}");
}

#[test]
fn copies_of_parameters_are_known_by_their_values_whatever_their_name() {
    let scratch = Scratch::new();
    // One in the state of each parameter. That of the norm proves nothing, and the next one does.
    for name in ["main_param", "fp32", "weight_copy", "z", "param_exp_avg"] {
        write_run(&scratch, name, &|saved, step| {
            let model = model(saved, Bf16, step);
            let copy =
                |saved: &mut Saved, i: usize| vec![(name.to_owned(), saved.tensor(F32, SHAPES[i], &params(step)[i]))];
            let state = adam(saved, step, &copy);
            training(model, vec![("state", state)])
        });
        check_stale(&scratch, name, &format!("optimizer.state.1.{name}"));
    }
    // Lists of them, in another shape.
    write_run(&scratch, "lists", &|saved, step| {
        let model = model(saved, Bf16, step);
        let state = adam(saved, step, &|_, _| Vec::new());
        let copies = params(step).map(|values| saved.tensor(F32, &[values.len() as u64], &values));
        training(model, vec![("state", state), ("params_fp32", Node::List(vec![Node::List(copies.to_vec())]))])
    });
    check_stale(&scratch, "lists", "optimizer.params_fp32.0.1");
    // One tensor for all, in another order.
    write_run(&scratch, "flat", &|saved, step| {
        let model = model(saved, Bf16, step);
        let state = adam(saved, step, &|_, _| Vec::new());
        let [norm, b, c] = params(step);
        let flat = [c, norm, b, vec![0.0; 7]].concat();
        let flat = saved.tensor(F32, &[flat.len() as u64], &flat);
        training(model, vec![("state", state), ("groups", Node::List(vec![flat]))])
    });
    check_stale(&scratch, "flat", "optimizer.groups.0");
    // In the element type of the parameters.
    write_run(&scratch, "same-type", &|saved, step| {
        let model = model(saved, F32, step);
        let copy =
            |saved: &mut Saved, i: usize| vec![("slow".to_owned(), saved.tensor(F32, SHAPES[i], &params(step)[i]))];
        let state = adam(saved, step, &copy);
        training(model, vec![("state", state)])
    });
    check_stale(&scratch, "same-type", "optimizer.state.1.slow");
    // Outside the optimizer.
    write_run(&scratch, "outside", &|saved, step| {
        let model = model(saved, Bf16, step);
        let state = adam(saved, step, &|_, _| Vec::new());
        let wide = self::model(saved, F32, step);
        dict([("model", model), ("optimizer", dict([("state", state)])), ("trainer", dict([("wide", wide)]))])
    });
    check_stale(&scratch, "outside", "trainer.wide.b.weight");
}

#[test]
fn copies_of_parameters_are_known_by_their_names_whatever_their_values() {
    let scratch = Scratch::new();
    for (name, path) in [
        ("fp32_from_fp16_params", "optimizer.fp32_from_fp16_params.0.0"),
        ("master_weights", "optimizer.master_weights.0.0"),
        ("fp32_groups_flat", "optimizer.fp32_groups_flat.0.0"),
    ] {
        write_run(&scratch, name, &|saved, step| {
            let model = model(saved, Bf16, step);
            let state = adam(saved, step, &|_, _| Vec::new());
            let copies = saved.tensor(F32, &[40], &values(step + 50, 40));
            training(model, vec![("state", state), (name, Node::List(vec![Node::List(vec![copies])]))])
        });
        check_stale(&scratch, name, path);
    }
}

#[test]
fn a_copy_that_is_longer_than_a_sample_is_compared_at_its_beginning_and_its_middle() {
    let scratch = Scratch::new();
    let n = 20_000;
    for (name, changed, is_copy) in [("whole", 19_000, true), ("beginning", 100, false), ("middle", 10_100, false)] {
        write_run(&scratch, name, &|saved, step| {
            let values = values(step, n);
            let model = dict([("w", saved.tensor(Bf16, &[n.into()], &values))]);
            let mut other = values.clone();
            other[changed] += 1.0;
            let copy = saved.tensor(F32, &[100, 200], &other);
            let moment = saved.tensor(F32, &[n.into()], &self::values(step + 7, n));
            training(model, vec![("state", dict([("0", dict([("exp_avg", moment), ("copy", copy)]))]))])
        });
        match is_copy {
            true => check_stale(&scratch, name, "optimizer.state.0.copy"),
            false => drop(done(
                &scratch,
                &["merge", name, "--every", "1", "--optimizer", "newest", "-o", &format!("{name}-out")],
            )),
        }
    }
}

#[test]
fn what_is_not_a_copy_of_the_parameters_is_kept() {
    let scratch = Scratch::new();
    // Averages are other models, as is a model of the same element type. Ones and zeros prove nothing.
    write_run(&scratch, "run", &|saved, step| {
        let model = model(saved, Bf16, step);
        let constant = |saved: &mut Saved, i: usize| {
            let n = params(step)[i].len();
            let values = if i == 0 { vec![1.0; n] } else { vec![0.0; n] };
            vec![("buffer".to_owned(), saved.tensor(F32, SHAPES[i], &values))]
        };
        let state = adam(saved, step, &constant);
        let [average, best] = [F32, Bf16].map(|dtype| self::model(saved, dtype, step));
        let callback = self::model(saved, F32, step);
        dict([
            ("model", model),
            ("optimizer", dict([("state", state)])),
            ("ema", average),
            ("best", best),
            ("callbacks", dict([("EMA", callback)])),
        ])
    });
    for optimizer in ["newest", "average"] {
        let out = format!("out-{optimizer}");
        let told = done(&scratch, &["merge", "run", "--every", "1", "--optimizer", optimizer, "-o", &out]);
        assert!(told.contains("`ema` (3)") && told.contains("everything else is as in `step-20.pt`"), "{told}");
        done(&scratch, &["verify", &out, "--inputs"]);
    }
    let told = done(&scratch, &["merge", "run", "--every", "1", "-o", "out"]);
    assert!(told.contains("also the tensors under") && !told.contains("undo the merge"), "{told}");
}

#[test]
fn masters_that_are_averaged_with_the_parameters_are_kept_and_not_called_moments() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &|saved, step| {
        let model = model(saved, Bf16, step);
        let copy = |saved: &mut Saved, i: usize| {
            vec![("master_param".to_owned(), saved.tensor(F32, SHAPES[i], &params(step)[i]))]
        };
        let state = adam(saved, step, &copy);
        training(model, vec![("state", state)])
    });
    let told = done(&scratch, &["merge", "run", "--every", "1", "--optimizer", "average", "-o", "out"]);
    assert!(told.contains("6 moments of the optimizer and 3 of its copies of parameters are averaged"), "{told}");
    let words = ["convert", "out/step-20.pt", "--key", "optimizer.state.1", "-o", "state"];
    done(&scratch, &words);
    let mean: Vec<u8> =
        params(10)[1].iter().zip(&params(20)[1]).flat_map(|(a, b)| f32::midpoint(*a, *b).to_le_bytes()).collect();
    assert!(tensors(&scratch.join("state"))["master_param"].2 == mean);
    refused(&scratch, &["merge", "run", "--every", "1", "--optimizer", "newest", "-o", "x"], &["would undo the merge"]);
}

#[test]
fn masters_in_another_file_of_the_checkpoint_are_found_too() {
    let scratch = Scratch::new();
    for step in [10, 20] {
        let mut weights = Saved::default();
        let model = model(&mut weights, Bf16, step);
        weights.write(&scratch.join(format!("run/checkpoint-{step}/pytorch_model.bin")), &model);
        let mut optimizer = Saved::default();
        let copy =
            |saved: &mut Saved, i: usize| vec![("main".to_owned(), saved.tensor(F32, SHAPES[i], &params(step)[i]))];
        let state = adam(&mut optimizer, step, &copy);
        optimizer.write(&scratch.join(format!("run/checkpoint-{step}/optimizer.pt")), &dict([("state", state)]));
        fs::write(scratch.join(format!("run/checkpoint-{step}/training_args.bin")), "not a pickle").unwrap();
    }
    let merge = ["merge", "run", "--every", "1", "-o", "out"];
    let asked = [&merge[..], &["--optimizer", "newest"]].concat();
    refused(&scratch, &asked, &["such as `optimizer.pt: state.1.main`", "would undo the merge"]);
    let told = done(&scratch, &merge);
    assert!(told.contains("would undo the merge") && told.contains("without the state of the training"), "{told}");
    assert!(!scratch.join("out/optimizer.pt").exists());
}

/// Which tensors a distributed checkpoint has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    ModelAndState,
    State,
}

/// Writes a distributed checkpoint whose tensors have names that thalweg itself would refuse to write.
fn write_dcp(scratch: &Scratch, run: &str, step: u32, copies: &str, part: Part) {
    let mut saved = Saved::default();
    let all = params(step);
    let mut items = Vec::new();
    for (i, name) in NAMES.iter().enumerate() {
        if part == Part::ModelAndState {
            items.push((format!("model.{name}"), saved.tensor(Bf16, SHAPES[i], &all[i])));
        }
        items.push((format!("zptim.state.{name}.{copies}"), saved.tensor(F32, SHAPES[i], &all[i])));
        let moment = saved.tensor(F32, SHAPES[i], &values(step + 9, u32::try_from(all[i].len()).unwrap()));
        items.push((format!("zptim.state.{name}.exp_avg"), moment));
    }
    saved.write(&scratch.join("plain.pt"), &Node::Dict(items));
    let out = format!("{run}/step-{step}");
    done(scratch, &["convert", "plain.pt", "--key", ".", "--format", "megatron-dist", "-o", &out]);
    // Without them it is one of PyTorch, whose keys are the first parts of names.
    for name in ["thalweg.json", "metadata.json", "common.pt"] {
        fs::remove_file(scratch.join(&out).join(name)).unwrap();
    }
    let path = scratch.join(&out).join(".metadata");
    let mut bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() - 5 {
        if &bytes[at..at + 5] == b"zptim" {
            bytes[at] = b'o';
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn copies_in_distributed_checkpoints_are_known_by_name_and_by_value() {
    let scratch = Scratch::new();
    for copies in ["fp32_param", "main_value"] {
        for step in [10, 20] {
            write_dcp(&scratch, copies, step, copies, Part::ModelAndState);
        }
        let master = if copies == "fp32_param" { "a.norm" } else { "b.weight" };
        check_stale(&scratch, copies, &format!("optim.state.{master}.{copies}"));
    }
}

/// accelerate keeps the optimizer in another folder than the model.
#[test]
fn copies_in_another_distributed_checkpoint_of_the_folder_are_found_too() {
    let scratch = Scratch::new();
    for step in [10, 20] {
        write_dcp(&scratch, "parts", step, "main_value", Part::State);
        let folder = scratch.join(format!("run/checkpoint-{step}"));
        fs::create_dir_all(&folder).unwrap();
        let [model, optimizer] = ["pytorch_model_fsdp_0", "optimizer_0"].map(|name| folder.join(name));
        fs::rename(scratch.join(format!("parts/step-{step}")), optimizer).unwrap();
        let mut saved = Saved::default();
        let plain = self::model(&mut saved, Bf16, step);
        saved.write(&scratch.join("plain.pt"), &plain);
        let out = model.display().to_string();
        done(&scratch, &["convert", "plain.pt", "--format", "dcp", "-o", &out]);
        ["thalweg.json", "README.md"].iter().for_each(|name| drop(fs::remove_file(model.join(name))));
    }
    check_stale(&scratch, "run", "optimizer_0: optim.state.b.weight.main_value");
}

/// Without ZeRO, DeepSpeed keeps the masters beside the module's weights.
#[test]
fn masters_in_a_state_of_deepspeed_without_zero_are_found_too() {
    let scratch = Scratch::new();
    for step in [10, 20] {
        let mut saved = Saved::default();
        let module = model(&mut saved, Bf16, step);
        let flat = params(step).concat();
        let flat = saved.tensor(F32, &[flat.len() as u64], &flat);
        let optimizer = dict([("fp32_groups_flat", Node::List(vec![flat]))]);
        let state = dict([("module", module), ("optimizer", optimizer)]);
        saved.write(&scratch.join(format!("run/global_step{step}/mp_rank_00_model_states.pt")), &state);
    }
    let facts =
        ["such as `optimizer.fp32_groups_flat.0`", "hint: leave the training state out with `--optimizer drop`"];
    refused(&scratch, &merge_all("run", &["-o", "x", "--optimizer", "newest"]), &facts);
    let told = done(&scratch, &merge_all("run", &["-o", "out"]));
    assert!(told.contains("would undo the merge; it is left out") && told.contains("written as safetensors"), "{told}");
    done(&scratch, &merge_all("run", &["-o", "dropped", "--optimizer", "drop"]));
    assert!(tensors(&scratch.join("out")) == tensors(&scratch.join("dropped")));
}

#[test]
fn training_state_is_not_averaged_whatever_key_leads_to_it() {
    let scratch = Scratch::new();
    let fixture = |name: &str| root().join("fixtures").join(name).display().to_string();
    let dcp = [fixture("dcp-fsdp2/step-60"), fixture("dcp-fsdp2/step-80")];
    let torch = [fixture("torch/trainstate/step-60.pt"), fixture("torch/trainstate/step-80.pt")];
    let megatron = [fixture("megatron-torch_dist/iter_0000060"), fixture("megatron-torch_dist/iter_0000080")];
    for (sources, keys) in [
        (&dcp, &["optim", "optim.state"][..]),
        (&torch, &["optimizer", "optimizer.state"]),
        (&megatron, &["optimizer", "optimizer.state.exp_avg"]),
    ] {
        for key in keys {
            let facts = ["leads to training state, not to a model", "hint: leave out `--key`"];
            let merge = ["merge", &sources[0], &sources[1]];
            refused(&scratch, &[&merge[..], &["--key", key, "-o", "x"]].concat(), &facts);
            refused(&scratch, &["plan", &sources[0], &sources[1], "--key", key], &facts);
            // What is copied and not averaged is written.
            done(&scratch, &["convert", &sources[1], "--key", key, "-o", &format!("{key}-copy"), "--force"]);
            assert!(done(&scratch, &["inspect", &sources[1], "--key", key]).contains("a merge is blocked"));
        }
        // The hint works.
        done(&scratch, &["merge", &sources[0], &sources[1], "--format", "safetensors", "-o", "out", "--force"]);
    }
    // Masters are parameters, wherever they are.
    done(&scratch, &["merge", &megatron[0], &megatron[1], "-o", "masters"]);
}

#[test]
fn the_note_about_other_keys_proposes_only_those_of_models() {
    let scratch = Scratch::new();
    let dcp = root().join("fixtures/dcp-fsdp2/step-80").display().to_string();
    let told = done(&scratch, &["inspect", &dcp]);
    assert!(told.contains("other tensors are under `optim` (63)") && !told.contains("`--key` reads"), "{told}");
    assert!(!told.contains("not built"), "{told}");
    write_run(&scratch, "run", &|saved, step| {
        let all = [0, 1, 2].map(|_| model(saved, F32, step));
        let [model, optimizer, ema] = all;
        dict([("model", model), ("optimizer", optimizer), ("ema", ema)])
    });
    let told = done(&scratch, &["inspect", "run/step-20.pt"]);
    assert!(told.contains("`optimizer` (3), `ema` (3); `--key` reads those under `ema`\n"), "{told}");
    let told =
        done(&scratch, &["merge", "run", "--every", "1", "--key", "ema", "--format", "safetensors", "-o", "out"]);
    assert!(told.contains("merged 2 checkpoints"), "{told}");
}

/// A weight, with other names for it or views of it elsewhere in the file.
fn write_shared(scratch: &Scratch, run: &str, key: &str, first: u64, shape: &'static [u64]) {
    write_run(scratch, run, &|saved, step| {
        let weight = saved.tensor(F32, &[8, 8], &values(step, 64));
        let view = saved.view(&weight, first, shape);
        let apart = saved.tensor(F32, &[4], &values(step + 5, 4));
        let shared = key.split('.').rev().fold(view, |node, part| dict([(part, node)]));
        let Node::Dict(mut items) = shared else { panic!() };
        items.push(("model".to_owned(), dict([("a", weight)])));
        items.push(("other".to_owned(), dict([("apart", apart)])));
        Node::Dict(items)
    });
}

#[test]
fn other_names_of_merged_tensors_are_said_to_change_with_them() {
    let scratch = Scratch::new();
    for key in ["ema.a", "best.model.a", "callbacks.EMA.a"] {
        write_shared(&scratch, key, key, 0, &[8, 8]);
        let out = format!("{key}-out");
        let told = done(&scratch, &["merge", key, "--every", "1", "-o", &out]);
        assert!(
            told.contains(&format!("; `{key}` shares its bytes with a merged tensor and changes with it")),
            "{told}"
        );
        assert!(told.contains("also the tensors under `other` (1)"), "{told}");
        let planned = done(&scratch, &["plan", key, "--every", "1"]);
        assert!(planned.contains(&format!("; `{key}` shares its bytes")), "{planned}");
        let read = |key: &str, out_name: &str| {
            done(&scratch, &["convert", &format!("{out}/step-20.pt"), "--key", key, "-o", out_name]);
            tensors(&scratch.join(out_name))
        };
        let merged = read("model", &format!("{key}-model"));
        let other = read(key.rsplit_once('.').unwrap().0, &format!("{key}-other"));
        assert!(merged["a"] == other["a"], "{key}");
    }
    // Two of them.
    write_run(&scratch, "two", &|saved, step| {
        let weight = saved.tensor(F32, &[8], &values(step, 8));
        let names = ["model", "ema", "best"].map(|key| (key, dict([("a", weight.clone())])));
        dict(names)
    });
    let told = done(&scratch, &["merge", "two", "--every", "1", "-o", "two-out"]);
    assert!(
        told.contains("as in `step-20.pt`; `best.a`, `ema.a` share their bytes with merged tensors")
            || told.contains("as in `step-20.pt`; `ema.a`, `best.a` share their bytes with merged tensors"),
        "{told}"
    );
}

#[test]
fn shards_with_an_index_have_no_other_names() {
    let scratch = Scratch::new();
    let steps =
        ["60", "80"].map(|step| root().join(format!("fixtures/torch/bin-sharded/step-{step}")).display().to_string());
    let told = done(&scratch, &["merge", &steps[0], &steps[1], "-o", "out"]);
    assert!(told.contains("everything else is as in `step-80`\n"), "{told}");
}

#[test]
fn tensors_that_would_change_in_part_and_training_state_that_would_change_are_refused() {
    let scratch = Scratch::new();
    let cases: [(&str, &str, u64, &[u64]); 5] = [
        ("half-of-it", "ema.a", 0, &[4, 8]),
        ("end-of-it", "best.a", 56, &[8]),
        ("another-shape", "ema.a", 0, &[64]),
        ("state", "optimizer.state.0.exp_avg", 0, &[8, 8]),
        ("part-of-the-state", "optimizer.state.0.exp_avg", 8, &[4, 8]),
    ];
    for (run, key, first, shape) in cases {
        write_shared(&scratch, run, key, first, shape);
        let facts = [&format!("tensors `model.a` and `{key}` share bytes"), "hint: `--format safetensors`"];
        refused(&scratch, &["merge", run, "--every", "1", "-o", "x"], &facts);
        refused(&scratch, &["plan", run, "--every", "1"], &facts);
        done(&scratch, &["merge", run, "--every", "1", "--format", "safetensors", "-o", &format!("{run}-out")]);
    }
    // Neighbours in one storage share nothing.
    write_run(&scratch, "neighbours", &|saved, step| {
        let both = saved.tensor(F32, &[64], &values(step, 64));
        let [a, b] = [0, 32].map(|first| saved.view(&both, first, &[32]));
        dict([("model", dict([("a", a)])), ("ema", dict([("a", b)]))])
    });
    let told = done(&scratch, &["merge", "neighbours", "--every", "1", "-o", "out"]);
    assert!(told.contains("also the tensors under `ema` (1)\n"), "{told}");
}

#[test]
fn distances_are_of_the_parameters_alone() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &|saved, step| {
        let model = model(saved, F32, 10);
        let state = adam(saved, step, &|_, _| Vec::new());
        training(model, vec![("state", state)])
    });
    let merge = ["merge", "run", "--every", "1", "--optimizer", "average", "-o"];
    let told = done(&scratch, &[&merge[..], &["out"]].concat());
    assert!(told.contains("distance to the newest checkpoint: 0 % of its norm, 0 in all"), "{told}");
    let output =
        program().current_dir(scratch.path()).args([&merge[..], &["again", "--json"]].concat()).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &document["outputs"][0];
    assert_eq!((&row["distance_to_newest"], &row["max_abs_change"]), (&0.0.into(), &0.0.into()));
    // The moments did change, and the receipt says by how much.
    let receipt: Value = serde_json::from_slice(&fs::read(scratch.join("out/thalweg.json")).unwrap()).unwrap();
    let moment = receipt["tensors"].as_array().unwrap().iter().find(|one| one["name"] == "optimizer.state.1.exp_avg");
    assert!(moment.unwrap()["distance_to_newest"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_hint_where_no_state_can_be_averaged_does_not_propose_a_state_that_does_not_exist() {
    let scratch = Scratch::new();
    write_run(&scratch, "bare", &|saved, step| {
        dict([("model", model(saved, F32, step)), ("step", Node::List(Vec::new()))])
    });
    let merge = ["merge", "bare", "--every", "1", "-o", "out"];
    let asked = [&merge[..], &["--optimizer", "average"]].concat();
    let hint = "hint: leave out `--optimizer average`: the newest checkpoint has no optimizer state tensors";
    refused(&scratch, &asked, &["no optimizer moments", hint]);
    // A negative coefficient does not matter where nothing has a moment.
    let signed = ["merge", "-m", "bare/step-10.pt:-1", "-m", "bare/step-20.pt:2", "-o", "x", "--optimizer", "average"];
    refused(&scratch, &signed, &["no optimizer moments", hint]);
    done(&scratch, &merge);
    // A state without moments is there to be taken.
    write_run(&scratch, "counters", &|saved, step| {
        let model = model(saved, F32, step);
        let step = saved.tensor(F32, &[1], &[10.0]);
        training(model, vec![("state", dict([("0", dict([("step", step)]))]))])
    });
    let merge = ["merge", "counters", "--every", "1", "-o", "kept", "--optimizer"];
    refused(
        &scratch,
        &[&merge[..], &["average"]].concat(),
        &["hint: `--optimizer newest` takes the state of the newest"],
    );
    done(&scratch, &[&merge[..], &["newest"]].concat());
}

#[test]
fn notes_count_one_tensor_as_one() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &|saved, step| model(saved, F32, step));
    let told =
        done(&scratch, &["merge", "run", "--every", "1", "--drop", "a.norm", "--take-newest", "c.*", "-o", "out"]);
    assert!(told.contains("1 tensor is left out (`--drop`)"), "{told}");
    assert!(told.contains("1 tensor is taken from the newest source (`--take-newest`)"), "{told}");
    assert!(Path::new(&scratch.join("out")).exists());
}
