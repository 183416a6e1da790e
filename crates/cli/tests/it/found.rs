//! What a trial as a new user found: options without an effect, two evaluators on one curve, logs of epochs, notes that
//! one command gave and another did not, and hints that could not be followed.

use std::fmt::Write;

use thalweg_tensor::Dtype;
use thalweg_testkit::TinyCheckpoint;

use crate::selection::Scene;

/// A log of losses every ten steps up to 2000; from `spike` on they are three nats higher.
fn log(spike: u64) -> String {
    (1..=200_u64).fold(String::new(), |mut text, i| {
        let (step, noise) = (10 * i, 0.01 * (i * 7 % 5) as f64);
        let loss = 2.5 + noise + if step >= spike { 3.0 } else { 0.0 };
        writeln!(text, "{{\"step\": {step}, \"loss\": {loss:.4}}}").unwrap();
        text
    })
}

#[test]
fn a_window_that_holds_a_spike_is_noted_by_every_way_of_merging() {
    let scene = Scene::new(&[500, 1000, 1500, 2000]);
    scene.write("log.jsonl", log(1350));
    let note = "an unhealed spike: onset at step 1350";
    scene.run("plan run --last 2 --log log.jsonl").done(&["the window holds an unhealed spike"]);
    scene
        .run("watch run --windows sma:2 --once --log log.jsonl -o watched")
        .done(&["the windows that end at steps 1500 to 2000 hold an unhealed spike: onset at step 1350"]);
    scene.run("sweep run --counts 2 --schemes sma --log log.jsonl -o sweep --dry-run").done(&[note]);
    scene.run("merge run --steps 500,1000 -o mean").done(&[]);
    scene.run("merge --append mean -m run/checkpoint-1500 --log log.jsonl -o more").done(&[note]);
    // A window before the spike.
    scene.run("merge run --steps 500 -o one").done(&[]);
    let quiet = scene.run("merge --append one -m run/checkpoint-1000 --log log.jsonl -o two");
    quiet.done(&[]);
    assert!(!quiet.stderr.contains("spike"), "{quiet:?}");
    // The log beside the run is found, as by a merge.
    scene.write("run/log.jsonl", log(1350));
    scene.run("merge --append mean -m run/checkpoint-2000 -o newest").done(&[note]);
}

#[test]
fn an_append_notes_phases_and_checkpoints_of_unknown_step() {
    let scene = Scene::new(&[500, 1000, 1500, 2000]);
    scene.run("merge run --steps 500,1000 -o mean").done(&[]);
    let crosses = "the window crosses the end of the stable phase at step 1200";
    scene.run("merge --append mean -m run/checkpoint-1500 --stable 100..1200 -o a").done(&[crosses]);
    scene.write("run/thalweg.toml", "stable = [100, 1200]\n");
    scene.run("merge --append mean -m run/checkpoint-1500 -o b").done(&[crosses]);
    let inside = scene.run("merge --append mean -m run/checkpoint-1500 --stable 100..1900 -o c");
    assert!(inside.code == 0 && !inside.stderr.contains("crosses"), "{inside:?}");
    TinyCheckpoint::llama(Dtype::F32, 7.0).write_to_disk(&scene.path("best"));
    scene.run("merge --append mean -m best -o d").done(&["the step of `", "best` is unknown"]);
    scene.run("merge --append mean -m best --log x.jsonl -o e").refused(&["is not a run folder"]);
    scene.run("merge --append mean -m d -o f").done(&["`", "d` is itself a merge of 3 checkpoints"]);
}

#[test]
fn what_is_appended_to_is_a_merge() {
    let scene = Scene::new(&[100, 200]);
    scene.run("merge --append nope -m run/checkpoint-200 -o x").refused(&["`nope` does not exist"]);
    scene.run("merge --append run/checkpoint-100 -m run/checkpoint-200 -o x").refused(&["is not a merge to append to"]);
}

/// A command that writes an accuracy for any checkpoint.
fn score(value: &str) -> String {
    format!(
        "echo '{{\"results\":{{\"t\":{{\"acc,none\":{value},\"acc_stderr,none\":0.01}}}}}}' > {{out}} # {{checkpoint}}"
    )
}

#[test]
fn a_record_has_the_scores_of_one_evaluator() {
    let scene = Scene::new(&[100, 200, 300]);
    let watch = |more: &[&str]| {
        let fixed = ["watch", "run", "--windows", "sma:2", "-o", "w", "--once"];
        scene.run_words(&[&fixed[..], more].concat())
    };
    watch(&["--eval-command", &score("0.5")]).done(&["0.5000"]);
    watch(&["--eval-command", &score("0.5")]).done(&[]);
    let hint = "remove the lines with `\"event\":\"scored\"` from `watch.jsonl`, and the folder `tensorboard`";
    watch(&["--eval-command", &score("0.7")]).refused(&["were made by a different `--eval-command`", hint]);
    scene.write("suite.toml", "name = \"other\"\n[[task]]\nname = \"t\"\nkind = \"nll\"\ntext = \"abc\"\n");
    let suite = watch(&["--suite", "suite.toml"]);
    assert_eq!(suite.code, 2, "{suite:?}");
    // Without scores nothing is compared.
    watch(&[]).done(&[]);
    // The hint works.
    let record = std::fs::read_to_string(scene.path("w/watch.jsonl")).unwrap();
    let kept: String = record
        .lines()
        .filter(|line| !line.contains("\"event\":\"scored\""))
        .fold(String::new(), |all, line| all + line + "\n");
    scene.write("w/watch.jsonl", &kept);
    std::fs::remove_dir_all(scene.path("w/tensorboard")).unwrap();
    watch(&["--eval-command", &score("0.7")]).done(&["0.7000"]);
    // A record of before names the suites of its scores alone.
    let record = std::fs::read_to_string(scene.path("w/watch.jsonl")).unwrap();
    let old: String = record.lines().fold(String::new(), |all, line| {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("suites");
        all + &row.to_string() + "\n"
    });
    assert_ne!(record.len(), old.len());
    scene.write("w/watch.jsonl", old.replace("\"suite\":\"command\"", "\"suite\":\"quick\""));
    watch(&["--eval-command", &score("0.7")]).refused(&["are on `quick`, not on `command`"]);
}

#[test]
fn options_without_an_effect_are_refused() {
    let scene = Scene::new(&[100, 200, 300, 400]);
    let log = log(5000);
    scene.write("log.jsonl", &log);
    let experts = "but checkpoints were given one by one";
    let cases = [
        ("merge run --last 2 --tokens-per-step 0 -o x", "a step has at least one token"),
        ("plan run --last 2 --log-columns loss=l", "`--log-columns` says how to read a step log, but none was given"),
        ("inspect run --log-every 10", "`--log-every` says how to read a step log"),
        ("watch run --windows sma:2 --once --log-every 5 -o watched", "`--log-every` says how to read a step log"),
        ("watch run --windows sma:2,wma:2,sma:2 --once -o watched", "window `sma:2` is given twice"),
        ("merge -m run/checkpoint-100 -m run/checkpoint-200 --last 1 -o x", "nothing left to select from"),
        ("merge -m run/checkpoint-100 -m run/checkpoint-200 --log log.jsonl -o x", experts),
        ("plan run/checkpoint-100 run/checkpoint-200 --stable 1..5", experts),
        ("merge run/checkpoint-100 run/checkpoint-200 --tokens-per-step 4M -o x", experts),
        ("merge --append m -m run/checkpoint-400 --key model -o x", "other options would have no effect"),
        ("law curve run --newest 1,2 --base run/checkpoint-100 --eval-command x -o c", "cannot be used with"),
        ("law curve run --newest 1,2 --k 1 --eval-command x -o c", "cannot be used with"),
        ("law curve run --newest 1,2 --subsets 3 --eval-command x -o c", "cannot be used with"),
        ("law curve run --newest 1,2 --seed 3 --eval-command x -o c", "cannot be used with"),
    ];
    scene.run("merge run --last 2 -o m").done(&[]);
    for (line, fact) in cases {
        let answer = scene.run(line);
        assert!(answer.code == 2 && answer.stderr.contains(fact), "{line}: {answer:?}");
        assert!(!scene.path("x").exists() && !scene.path("c").exists(), "{line}");
    }
    scene.write("run/thalweg.toml", "tokens_per_step = 0\n");
    scene.run("inspect run").refused(&["a step has at least one token"]);
    std::fs::remove_file(scene.path("run/thalweg.toml")).unwrap();
    // The hints work.
    scene.run("inspect run --log log.jsonl --log-columns loss=loss").done(&[]);
    scene.run("merge run --steps 100,200 --stable 1..500 -o good").done(&[]);
}

#[test]
fn steps_within_an_epoch_are_refused_and_the_hint_works() {
    let scene = Scene::new(&[500, 1000, 1500, 2000]);
    let epochs = (0..2000_u64).step_by(10).fold(String::new(), |mut text, step| {
        let loss = 2.5 + 0.01 * (step / 10 * 7 % 5) as f64 + if step >= 1350 { 3.0 } else { 0.0 };
        writeln!(text, "epoch {} step {} loss {loss:.4}", step / 500, step % 500).unwrap();
        text
    });
    scene.write("epochs.log", &epochs);
    scene.run("recover run --log epochs.log").refused(&["they restart in each epoch", "`--log-every N`"]);
    scene
        .run("recover run --log epochs.log --log-every 10")
        .done(&["onset at step 1360", "the losses are counted, 10 steps apart"]);
}

#[test]
fn a_wrong_key_is_not_damage_and_a_pattern_that_fits_all_is_named() {
    let scene = Scene::new(&[100, 200]);
    let key = scene.run("plan run --last 2 --key model");
    key.refused(&["a safetensors checkpoint has no keys", "hint: leave out `--key`"]);
    assert!(!key.stderr.contains("damaged"), "{key:?}");
    scene
        .run_words(&["merge", "run", "--last", "2", "--drop", "*", "-o", "x"])
        .refused(&["`--drop` leaves out every tensor"]);
}

/// `base`, and experts `a` and `b`, of a llama and of what `add` adds.
fn experts(add: impl Fn(TinyCheckpoint, &str) -> TinyCheckpoint) -> Scene {
    let scene = Scene::new(&[]);
    for (name, value) in [("base", 1.0), ("a", 2.0), ("b", 3.0)] {
        add(TinyCheckpoint::llama(Dtype::F32, value), name).write_to_disk(&scene.path(name));
    }
    scene
}

const TIES: &str = "merge --rule ties --base base -m a -m b -o x";

#[test]
fn hints_about_experts_can_be_followed() {
    let extra =
        experts(|one, name| if name == "base" { one.tensor("extra", Dtype::F32, &[3], &[1.0; 3]) } else { one });
    let answer = extra.run(TIES);
    answer.refused(&["tensor `extra` is not in every source", "leave them out with `--drop extra`"]);
    assert!(!answer.stderr.contains("window"), "{answer:?}");
    extra.run(&format!("{TIES} --drop extra")).done(&[]);
    let wide = experts(|one, name| {
        let n = if name == "base" { 4 } else { 3 };
        one.tensor("wide", Dtype::F32, &[n], &vec![1.0; usize::try_from(n).unwrap()])
    });
    let answer = wide.run(TIES);
    answer.refused(&["name the base that the experts were trained from", "`--drop wide`"]);
    assert!(!answer.stderr.contains("window"), "{answer:?}");
    wide.run(&format!("{TIES} --drop wide")).done(&[]);
    // Two paths of different models do not make a window either.
    let scene = Scene::new(&[]);
    TinyCheckpoint::llama(Dtype::F32, 1.0).write_to_disk(&scene.path("run/checkpoint-100"));
    TinyCheckpoint::new().tensor("w", Dtype::F32, &[2], &[1.0; 2]).write_to_disk(&scene.path("other-200"));
    let answer = scene.run("merge run/checkpoint-100 other-200 -o x");
    answer.refused(&["different names for their tensors"]);
    assert!(!answer.stderr.contains("choose a window"), "{answer:?}");
}

#[test]
fn the_base_is_named_where_it_counts_as_the_newest() {
    let scene = experts(|one, name| {
        let last = match name {
            "base" => 1_u8,
            "a" => 2,
            _ => 3,
        };
        let bytes = [[1, 0, 0, 0, 0, 0, 0, 0], [last, 0, 0, 0, 0, 0, 0, 0]].concat();
        one.raw_tensor("buf", Dtype::I64, &[2], &bytes)
    });
    scene.run(TIES).refused(&["where a rule merges experts, the base's", "--take-newest buf"]);
    for option in ["--take-newest buf", "--non-float newest"] {
        scene
            .run(&format!("{TIES}{} {option}", option.len()))
            .done(&["everything taken from the newest source comes from the base, `"]);
    }
}

#[test]
fn words_of_rules_fit_their_numbers() {
    let scene = experts(|one, _| one);
    scene.run(TIES).done(&["reads the sources this many times: 3; the reported bytes count one of them"]);
    scene.run("merge --rule ties --base base -m a -m b --convention mergekit -o y").done(&["this many times: 4;"]);
    scene.run("merge --rule task-arithmetic --base base -m a -m b --density 0.2 -o z").refused(&["has no density"]);
    scene
        .run("merge --rule ties --base a -m a -m b -o w")
        .done(&["a` is both the base and an expert: as an expert it adds nothing"]);
    let breadcrumbs = "merge --rule breadcrumbs --base base -m a -m b --density 0.6 --gamma";
    let note = "add up to more than 1: the density is kept";
    scene.run(&format!("{breadcrumbs} 0.6 -o v")).done(&[note]);
    assert!(!scene.run(&format!("{breadcrumbs} 0.4 -o u")).stderr.contains(note));
}

#[test]
fn a_folder_of_another_kind_in_the_place_of_held_checkpoints_is_refused() {
    let scene = Scene::new(&[100, 200, 300]);
    scene.write("w/held/notes.txt", "mine");
    let answer = scene.run("watch run --windows sma:2 --once --hold -o w");
    answer.refused(&["is where `--hold` keeps checkpoints", "choose another folder"]);
    assert!(!answer.stderr.contains("--checkpoint-pattern"), "{answer:?}");
    assert_eq!(std::fs::read_to_string(scene.path("w/held/notes.txt")).unwrap(), "mine");
}
