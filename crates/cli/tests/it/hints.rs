//! Follows every hint: what it proposes must succeed or meet a different error, never the same one again.

use thalweg_tensor::Dtype;
use thalweg_testkit::TinyCheckpoint;

use crate::selection::{Answer, Scene};

/// The first line of an error, and its hint.
fn said(answer: &Answer) -> (String, String) {
    let line = |start: &str| answer.stderr.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
    let error = line("error: ").unwrap_or_else(|| panic!("no error: {answer:?}"));
    (error, line("hint: ").unwrap_or_else(|| panic!("no hint: {answer:?}")))
}

/// Words as a shell splits them: at spaces, except within single quotes.
fn words_of(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The command after a proposal: another command replaces it; options are added, or replace those of the same name.
fn apply(command: &str, proposal: &str) -> Vec<String> {
    let proposed = words_of(proposal);
    if let Some(("thalweg", rest)) = proposed.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return rest.to_vec();
    }
    let mut words = words_of(command);
    for option in proposed.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
        if let Some(at) = words.iter().position(|word| word == option) {
            let has_value = words.get(at + 1).is_some_and(|next| !next.starts_with('-'));
            let takes_value = proposed.iter().skip_while(|word| *word != option).nth(1).is_some();
            words.drain(at..=at + usize::from(has_value && takes_value));
        }
    }
    words.extend(proposed);
    words
}

fn check_followed(scene: &Scene, command: &str, proposal: &str, error: &str) {
    let words = apply(command, proposal);
    let after = scene.run_words(&words.iter().map(String::as_str).collect::<Vec<_>>());
    if matches!(after.code, 0 | 1) {
        return;
    }
    let first = after.stderr.lines().find(|line| line.starts_with("error:")).unwrap_or_default();
    assert!(!first.contains(error), "`{proposal}` after `{command}` meets the same error: {after:?}");
    assert!(!after.stderr.contains("unexpected argument"), "`{proposal}` is not an option of `{command}`: {after:?}");
    assert!(!after.stderr.contains("panicked"), "{after:?}");
}

/// Provokes an error and follows each proposal in back-ticks in its hint. `fills` has replacements for placeholders and
/// for whole proposals.
pub(crate) fn follow(scene: &Scene, command: &str, fills: &[(&str, &str)]) {
    let before = scene.run_words(&words_of(command).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(before.code, 2, "{command}: {before:?}");
    let (error, hint) = said(&before);
    let mut n_followed = 0;
    for snippet in hint.split('`').skip(1).step_by(2) {
        let whole = fills.iter().find(|(from, _)| *from == snippet).map(|(_, to)| (*to).to_owned());
        let is_command = snippet.starts_with('-') || snippet.starts_with("thalweg ");
        let proposal = match whole {
            Some(whole) => whole,
            None if !is_command => continue,
            None => fills.iter().fold(snippet.to_owned(), |text, (from, to)| text.replace(from, to)),
        };
        check_followed(scene, command, &proposal, &error);
        n_followed += 1;
    }
    assert!(n_followed > 0, "`{command}`: nothing in `{hint}` can be followed");
}

/// Provokes an error whose hint contains `sentence`, and runs `then`, which does what the sentence says.
pub(crate) fn follow_sentence(scene: &Scene, command: &str, sentence: &str, then: &str) {
    let before = scene.run(command);
    assert_eq!(before.code, 2, "{command}: {before:?}");
    let (error, hint) = said(&before);
    assert!(hint.contains(sentence), "`{sentence}` is not in `{hint}`");
    check_followed(scene, command, &format!("thalweg {then}"), &error);
}

#[test]
fn hints_about_windows_are_followed() {
    let scene = Scene::new(&[1000, 2000, 3000, 4000]);
    follow(&scene, "plan run", &[]);
    follow(&scene, "plan run --duration-steps 9000", &[]);
    follow(&scene, "plan run --duration-tokens 90B --tokens-per-step 1M", &[]);
    let intervals = [("--interval-steps", "--interval-steps 1000"), ("--interval-tokens", "--interval-tokens 1B")];
    follow(&scene, "plan run --count 2", &[intervals.as_slice(), &[("--last N", "--last 2")]].concat());
    follow(&scene, "plan run --interval-steps 1000", &[("N", "2")]);
    follow(&scene, "plan run --end-step 3000", &[("N", "2")]);
    follow(&scene, "plan run --count 2 --interval-tokens 1B", &[("--tokens-per-step", "--tokens-per-step 1M")]);
    follow_sentence(&scene, "plan run --last 9", "at most 4 checkpoints", "plan run --last 4");
    follow_sentence(&scene, "plan run --steps 1500", "among the checkpoints that exist", "plan run --steps 1000");
    follow(&scene, "plan run --last 2 --stable 5", &[("FROM..TO", "--stable 1000..3000")]);
    follow_sentence(
        &scene,
        "plan run/checkpoint-1000 --last 1",
        "give the folder above it as the run, or leave out the selection",
        "plan run --last 1",
    );
    follow_sentence(&scene, "plan run/checkpoint-1000 --last 1", "leave out the selection", "plan run/checkpoint-1000");
    follow_sentence(&scene, "plan", "two or more checkpoints", "plan run/checkpoint-1000 run/checkpoint-2000");
}

#[test]
fn hints_about_names_are_followed() {
    let scene = Scene::new(&[1000, 2000]);
    let rename = |from: &str, to: &str| std::fs::rename(scene.path(from), scene.path(to)).unwrap();
    rename("run/checkpoint-1000", "run/my-1000-name");
    rename("run/checkpoint-2000", "run/my-2000-name");
    follow(&scene, "plan run --last 2", &[]);
    follow(&scene, "plan run --last 2 --checkpoint-pattern my", &[]);
    follow_sentence(
        &scene,
        "plan run --last 2 --checkpoint-pattern my-{step}",
        "the pattern must match the whole name",
        "plan run --last 2 --checkpoint-pattern my-{step}-*",
    );
    let twice = Scene::new(&[1000, 2000]);
    std::fs::rename(twice.path("run/checkpoint-1000"), twice.path("run/step2000")).unwrap();
    follow(&twice, "plan run --last 1", &[]);
    for commit in ["a1".repeat(20), "b2".repeat(20)] {
        let folder = twice.path("hub/models--acme--tiny/snapshots").join(&commit);
        TinyCheckpoint::llama(Dtype::F32, 1.0).write_to_disk(&folder);
    }
    follow(&twice, "inspect acme/tiny", &[("ORG/NAME@REV", "thalweg inspect acme/tiny@a1a1a1a1")]);
    follow_sentence(&twice, "inspect acme/other", "check the path", "inspect run");
}

#[test]
fn hints_about_schemes_are_followed() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    let window = "plan run --last 3";
    follow(&scene, &format!("{window} --scheme wmaa"), &[("wma", "--scheme wma")]);
    follow_sentence(&scene, &format!("{window} --scheme slerp"), "one of sma, wma", &format!("{window} --scheme wma"));
    follow(&scene, &format!("{window} --scheme ema"), &[("ema:0.2", "--scheme ema:0.2")]);
    follow(&scene, &format!("{window} --scheme power-ema"), &[("power-ema:0.1", "--scheme power-ema:0.1")]);
    follow(&scene, &format!("{window} --scheme custom"), &[]);
    let count = "one coefficient for each checkpoint";
    follow_sentence(&scene, &format!("{window} --coefficients 1"), count, &format!("{window} --coefficients 1,1,-1"));
    follow(&scene, &format!("{window} --coefficients 1,2,3"), &[]);
    follow(&scene, &format!("{window} --coefficients 1,0,-1"), &[]);
    let in_place = [("--normalize", "thalweg plan run --last 3 --coefficients 1,0,-1 --allow-sum")];
    follow(
        &scene,
        &format!("{window} --coefficients 1,0,-1 --normalize"),
        &[in_place.as_slice(), &[("--allow-sum", "thalweg plan run --last 3 --coefficients 1,0,-1 --allow-sum")]]
            .concat(),
    );
    let orders = ["as-is", "given", "reverse", "scramble:SEED"];
    let orders: Vec<(&str, String)> =
        orders.iter().map(|order| (*order, format!("--order {}", order.replace("SEED", "1")))).collect();
    let orders: Vec<(&str, &str)> = orders.iter().map(|(order, option)| (*order, option.as_str())).collect();
    follow(&scene, &format!("{window} --order sideways"), &orders);
    // Two runs have a checkpoint of the same step.
    TinyCheckpoint::llama(Dtype::F32, 1.0).write_to_disk(&scene.path("other/step1000"));
    follow(&scene, "plan run/checkpoint-1000 other/step1000 --scheme decay:cosine", &[]);
    follow(&scene, "sweep run --counts 2 --schemes ema -o sweep", &[("ema:0.1", "--schemes ema:0.1")]);
    let takes_none = "this command does not take any";
    assert!(scene.run("sweep run --counts 2 --schemes custom -o sweep").stderr.contains(takes_none));
    follow_sentence(
        &scene,
        "recover run --scheme custom",
        "`thalweg merge --coefficients C,C,...` takes them",
        "merge run --last 2 --coefficients 0.5,0.5 -o by-hand",
    );
}

#[test]
fn hints_about_given_checkpoints_are_followed() {
    let scene = Scene::new(&[1000, 2000]);
    let (a, b) = ("run/checkpoint-1000", "run/checkpoint-2000");
    let both = format!("thalweg plan -m {a}:0.5 -m {b}:0.5");
    follow(&scene, &format!("plan -m {a}:0.5 -m {b}"), &[("-m CKPT:COEF", &both)]);
    follow(&scene, &format!("plan -m {a}:half -m {b}:0.5"), &[("-m CKPT:0.5", &both), ("-m CKPT:1/3", &both)]);
    let newest = "one of the merged checkpoints";
    follow_sentence(
        &scene,
        &format!("plan {a} {b} --side-files-from run"),
        newest,
        &format!("plan {a} {b} --side-files-from {a}"),
    );
    follow(&scene, &format!("plan {a} {b} --side-files-from run"), &[("newest", "--side-files-from newest")]);
}

#[test]
fn hints_about_outputs_and_recipes_are_followed() {
    let scene = Scene::new(&[1000, 2000]);
    follow(&scene, "merge run --last 2", &[("OUT", "out")]);
    scene.write("r.toml", "run = \"run\"\nlast = 2\n");
    follow(&scene, "merge r.toml", &[("OUT", "of-recipe")]);
    follow(&scene, "init run --for cpt -o start", &[]);
    scene.run("plan run --last 2 -o plan.json");
    let again = [("thalweg plan", "thalweg plan run --last 2 --dtype bf16 -o plan.json")];
    follow(&scene, "merge --plan plan.json --dtype bf16", &again);
    follow(
        &scene,
        "merge r.toml out-2 --dtype bf16",
        &["--normalize", "--allow-sum", "--to-huggingface", "--hf-assets"]
            .map(|option| (option, "thalweg plan r.toml")),
    );
    scene.write("sum.toml", "run = \"run\"\nlast = 2\ncoefficients = [1, 1]\n");
    follow(&scene, "merge sum.toml summed", &[]);
    follow(&scene, "verify run/checkpoint-1000", &[("inspect", "thalweg inspect run/checkpoint-1000")]);
    follow(&scene, "merge run --last 2 --memory 1kB --threads 2 -o small", &[("--threads", "--threads 1")]);
    let one_thread = scene.run("merge run --last 2 --memory 1kB --threads 1 -o small").stderr;
    assert!(!one_thread.contains("`--threads`"), "there are no fewer threads: {one_thread}");
    scene.write("typo.toml", "run = \"run\"\nlats = 2\n");
    follow(&scene, "plan typo.toml", &[("last", "thalweg plan r.toml")]);
}

#[test]
fn hints_about_values_are_followed() {
    let scene = Scene::new(&[]);
    let checkpoint = |step: u64, position: &[f64], weight: &[f64], dtype: Dtype| {
        TinyCheckpoint::new()
            .tensor("position", Dtype::I32, &[2], position)
            .tensor("w", dtype, &[2], weight)
            .write_to_disk(&scene.path(&format!("ints/step{step}")));
    };
    checkpoint(1, &[0.0, 1.0], &[1.0, 2.0], Dtype::F32);
    checkpoint(2, &[0.0, 2.0], &[1.0, 2.0], Dtype::F32);
    follow(&scene, "merge ints --last 2 -o of-ints", &[]);
    for (step, weight) in [(1, 1.0), (2, f64::INFINITY)] {
        let made = TinyCheckpoint::new().tensor("w", Dtype::F32, &[1], &[weight]);
        made.write_to_disk(&scene.path(&format!("infinite/step{step}")));
        let large = TinyCheckpoint::new().tensor("w", Dtype::F16, &[1], &[65504.0]);
        large.write_to_disk(&scene.path(&format!("large/step{step}")));
    }
    follow(&scene, "merge infinite --last 2 -o of-infinite", &[]);
    let overflow = "merge large --last 2 --coefficients 2,2 --allow-sum -o of-large";
    follow(&scene, overflow, &[("--dtype", "--dtype f32")]);
}

#[test]
fn hints_about_scores_and_logs_are_followed() {
    let scene = Scene::new(&[1000, 2000]);
    scene.write("suite.toml", "");
    let scoring = [("FILE", "suite.toml"), ("CMD", "'true {checkpoint} {out}'")];
    follow(&scene, "sweep run --counts 2 --keep best -o sweep", &scoring);
    follow(&scene, "forecast run", &scoring);
    let tokens = [("--anneal-steps", "--anneal-steps 100"), ("--tokens-per-step", "--tokens-per-step 1M")];
    let forecast = "forecast run --suite suite.toml --anneal-tokens 1B";
    follow(&scene, forecast, &tokens);
    scene.write("log.jsonl", "{\"step\": 1, \"loss\": 2.0}\n{\"step\": 2, \"loss\": 1.9}\n");
    follow(&scene, "recover run", &[("--log", "--log log.jsonl")]);
    let ends = [("newest", "--ends newest"), ("steps", "--ends steps"), ("every:STEPS", "--ends every:1000")];
    follow(&scene, "sweep run --counts 1 --ends often --dry-run -o sweep", &ends);
    follow(&scene, "eval run/checkpoint-1000 --eval-command true", &[]);
    scene.write("odd.jsonl", "{\"at\": 1, \"l\": 2.0}\n{\"at\": 2, \"l\": 1.9}\n");
    follow(&scene, "recover run --log odd.jsonl", &[("step=NAME,loss=NAME", "step=at,loss=l")]);
}

#[test]
fn words_in_the_help_are_accepted() {
    let scene = Scene::new(&[1000, 2000]);
    // `eval --baseline last` is in the examples of the help: it must get as far as the suite.
    scene.write("suite.toml", "kind = \"x\"\n");
    let suite = "--suite suite.toml";
    let last = scene.run(&format!("eval run/checkpoint-1000 run/checkpoint-2000 --baseline last {suite}"));
    assert!(!last.stderr.contains("`last`"), "{last:?}");
    let scored = scene.run_words(&[
        "eval",
        "run/checkpoint-1000",
        "run/checkpoint-2000",
        "--baseline",
        "last",
        "--json",
        "--eval-command",
        "echo {checkpoint} && echo '[{\"task\": \"t\", \"value\": 1.0, \"stderr\": 0.1, \"n\": 5, \
         \"higher_is_better\": true}]' > {out}",
    ]);
    let document: serde_json::Value = serde_json::from_str(&scored.stdout).unwrap_or_else(|_| panic!("{scored:?}"));
    assert_eq!(document["comparisons"][0]["a"], "run/checkpoint-2000");
}

#[test]
fn hints_about_existing_outputs_are_followed() {
    let scene = Scene::new(&[1000, 2000]);
    scene.run("merge run --last 2 -o out");
    follow(&scene, "merge run --last 1 -o out", &[]);
    scene.write("notes/todo.txt", "x");
    follow_sentence(&scene, "merge run --last 2 -o notes", "", "merge run --last 2 -o elsewhere");
    follow_sentence(&scene, "merge run --last 2 -o notes --force", "", "merge run --last 2 -o elsewhere-2");
    follow_sentence(&scene, "merge run --last 2 -o hdfs://namenode/out", "a local path", "merge run --last 2 -o local");
    follow_sentence(&scene, "inspect hf://org/run", "a local path", "inspect run");
    let source = "merge run --last 2 -o run/checkpoint-1000";
    assert_eq!(scene.run(source).code, 2);
    // A plan whose sources changed.
    scene.run("plan run --last 2 -o plan.json");
    TinyCheckpoint::llama(Dtype::F32, 7.0).write_to_disk(&scene.path("run/checkpoint-2000"));
    follow(&scene, "merge --plan plan.json", &[]);
    follow_sentence(&scene, "merge --plan plan.json -o again", "recreate the plan", "plan run --last 2 -o plan-2.json");
}

#[test]
fn weights_that_zero_3_does_not_save_are_not_asked_for_again() {
    let run = crate::support::root().join("fixtures/trainers/other-ranks/deepspeed-zero3");
    let run = run.to_str().unwrap();
    let scene = Scene::new(&[1]);
    let command = ["merge", run, "--last", "2", "-o", "out"];
    let (_, hint) = said(&scene.run_words(&[&command[..], &["--params", "module"]].concat()));
    assert_eq!(hint, "leave out `--params module`: then the masters are read");
    assert_eq!(scene.run_words(&command).code, 0);
}
