//! What a newcomer met: words without a next step, silence about what happened, and mistakes that scripts could not
//! read.

use serde_json::Value;
use thalweg_storage::LocalStorage;

use crate::hints::{follow, follow_sentence};
use crate::selection::{Answer, Scene};
use crate::support::{root, run};

/// The one document on standard output.
fn document(answer: &Answer) -> Value {
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// Checks that an error is the one document on standard output, with the words that standard error has.
fn check_error_document(answer: &Answer, what: &str) -> Value {
    assert_eq!(answer.code, 2, "{what}: {answer:?}");
    let found = document(answer);
    assert_eq!((&found["kind"], found["version"].as_u64()), (&Value::from("thalweg-error"), Some(1)), "{what}");
    assert_eq!(found["exit_code"].as_i64(), Some(2), "{what}");
    assert!(found["reason"].as_str().unwrap().starts_with(char::is_uppercase), "{what}: {found}");
    let error = found["error"].as_str().unwrap();
    assert!(!error.is_empty() && answer.stderr.contains(&format!("error: {error}")), "{what}: {answer:?}");
    for detail in found["details"].as_array().unwrap() {
        assert!(answer.stderr.contains(detail.as_str().unwrap()), "{what}: {answer:?}");
    }
    found
}

#[test]
fn an_error_of_every_command_is_a_document_where_json_is_asked_for() {
    let scene = Scene::new(&[1000, 2000]);
    let lines = [
        "inspect nowhere",
        "diff nowhere run/checkpoint-1000",
        "verify run",
        "explain run --last 1",
        "merge run -o out",
        "plan run --last 9",
        "launch slurm nowhere.json -n 2",
        "convert nowhere -o out",
        "eval run/checkpoint-1000 --suite nowhere.toml",
        "sweep run --counts 9 -o out",
        "forecast run",
        "extrapolate run -o out",
        "report run",
        "watch nowhere --windows sma:2 --once -o out",
        "serve run",
        "recover run",
        "init run --for cpt -o run/checkpoint-1000",
        "law merge nowhere.jsonl",
        "law curve run --newest 1,2 -o curve.jsonl",
        "mix search --component a=nowhere --component b=nowhere --general a --suite nowhere.toml -o trials.jsonl",
        "forget score run --probes nowhere.jsonl",
        "forget entities --corpus nowhere --reference nowhere --titles nowhere -o out.jsonl",
        "train nowhere.toml",
        "demo -o run/checkpoint-1000",
        "clean nowhere",
        "generate man nope",
    ];
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let (commands, _) = help.split_once("Common options:").unwrap();
    for command in commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()) {
        // Fetching needs a hub, and help does not fail.
        let is_here = lines.iter().any(|words| words.split(' ').next() == Some(command));
        assert!(is_here || ["fetch", "help"].contains(&command), "{command}");
    }
    for words in lines {
        let found = check_error_document(&scene.run(&format!("{words} --json")), words);
        let plain = scene.run(words);
        assert!(plain.stdout.is_empty() || !plain.stdout.contains("thalweg-error"), "{plain:?}");
        let hint = plain.stderr.lines().find_map(|line| line.strip_prefix("hint: "));
        assert_eq!(found["hint"].as_str().is_some(), hint.is_some(), "{words}: {found}");
        assert!(found["hint"].as_str().unwrap_or_default().starts_with(hint.unwrap_or_default()), "{words}: {found}");
    }
}

#[test]
fn what_cannot_be_parsed_is_a_document_too() {
    let scene = Scene::new(&[1000, 2000]);
    let found = check_error_document(&scene.run("merge run --lasst 2 --json"), "a mistyped option");
    assert_eq!(found["error"], "unexpected argument '--lasst' found");
    assert_eq!(found["hint"], "a similar argument exists: '--last'");
    let found = check_error_document(&scene.run("--json sweep"), "arguments that are missing");
    assert_eq!(found["details"], serde_json::json!(["--out <DIR>", "<RUN_PATH>"]));
    assert_eq!(
        (&found["reason"], &found["hint"]),
        (&"Usage".into(), &"usage: thalweg sweep --out <DIR> <RUN_PATH>".into())
    );
    for (words, reason) in [
        ("merge run --last 9 -o out", "TooFew"),
        ("plan run --last 1 --scheme wmaa", "UnknownScheme"),
        ("inspect rnu", "NotFound"),
        ("merge run -o out", "Usage"),
        ("merge run --last 2", "Usage"),
    ] {
        assert_eq!(check_error_document(&scene.run(&format!("{words} --json")), words)["reason"], reason);
    }
    let alone = scene.run("--json");
    assert_eq!(
        (alone.code, &document(&alone)["error"]),
        (2, &Value::from("'thalweg' requires a subcommand but one was not provided"))
    );
    // Help is not an error.
    assert!(scene.run("merge --help --json").stdout.starts_with("Merge a window"));
}

#[test]
fn a_result_on_standard_output_is_not_followed_by_an_error() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    scene.run("sweep run --counts 2,3 -o sweep").done(&[]);
    scene.write("sweep/step0003000-n2-sma/thalweg.json", "{}");
    let answer = scene.run("verify sweep --json");
    assert_eq!((answer.code, &document(&answer)["kind"]), (2, &Value::from("thalweg-verify")));
}

#[test]
fn exit_codes_are_in_the_help_and_in_every_man_page() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let line = help.lines().find(|line| line.starts_with("Exit codes: ")).unwrap();
    for command in [&["merge"][..], &["law", "curve"], &[]] {
        let page = String::from_utf8(run(&[&["generate", "man"], command].concat()).stdout).unwrap();
        let (_, section) = page.split_once(".SH \"EXIT STATUS\"").unwrap();
        for code in ["0", "1", "2", "130"] {
            assert!(section.contains(&format!("\\fB{code}\\fR")) && line.contains(&format!("{code} ")), "{code}");
        }
    }
}

#[test]
fn a_path_of_nearly_the_right_name_is_asked_about_in_every_command() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    scene.run("merge run --last 2 -o merged").done(&[]);
    scene.run("plan run --last 2 -o plan.json").done(&[]);
    scene.write("recipe.toml", "run = \"run\"\nlast = 2\n");
    scene.write("suites/choose.toml", "");
    for (words, near) in [
        ("inspect rnu", "run"),
        ("merge rnu --last 2 -o out", "run"),
        ("merge rnu/chekpoint-1000 run/checkpoint-2000 -o out", "run/checkpoint-1000"),
        ("merge -m run/chekpoint-1000:0.5 -m run/checkpoint-2000:0.5 -o out", "run/checkpoint-1000"),
        ("merge run --last 2 --against mergd -o out", "merged"),
        ("merge --append mergd -m run/checkpoint-3000 -o out", "merged"),
        ("merge --plan paln.json", "plan.json"),
        ("merge recpie.toml out", "recipe.toml"),
        ("launch slurm paln.json -n 2", "plan.json"),
        ("plan rnu --last 2", "run"),
        ("convert run/checkpoint1000 -o out", "run/checkpoint-1000"),
        ("sweep rnu --counts 2 -o out", "run"),
        ("watch rnu --windows sma:2 --once -o out", "run"),
        ("verify mergd", "merged"),
        ("diff merged mergd", "merged"),
        ("eval merged --suite siutes/chose.toml", "suites/choose.toml"),
        ("forecast rnu --suite suites/choose.toml", "run"),
        ("explain rnu --last 2", "run"),
        ("init rnu --for cpt -o out", "run"),
        ("report mergd", "merged"),
        ("train recpie.toml", "recipe.toml"),
    ] {
        scene.run(words).refused(&[&format!("hint: did you mean `{near}`?")]);
    }
    // A file that another one names was not mistyped, and what is far from every name is not asked about.
    scene.run("inspect completely-else").refused(&["`completely-else` does not exist"]);
    assert!(!scene.run("inspect completely-else").stderr.contains("hint"));
    std::fs::remove_file(scene.path("run/checkpoint-1000/model.safetensors")).unwrap();
    assert!(!scene.run("inspect run/checkpoint-1000").stderr.contains("did you mean"));
}

#[test]
fn only_the_name_of_a_repository_leads_to_fetch() {
    let scene = Scene::new(&[1000]);
    let said = scene.run("inspect gpt");
    said.refused(&["`gpt` does not exist"]);
    assert!(!said.stderr.contains("fetch"), "{said:?}");
    scene.run("inspect gpt@main").refused(&["`thalweg fetch gpt --revisions main`"]);
    scene.run("inspect acme/gpt").refused(&["`thalweg fetch acme/gpt --last 10`"]);
}

#[test]
fn a_plan_says_that_nobody_named_its_output() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    let note = "no output was named, so the plan says `merged`";
    scene.run("plan run --last 2").done(&[note, "--merged OUT"]);
    scene.run("plan run --last 2 -o plan.json").done(&[note, "`thalweg merge --plan plan.json -o OUT`"]);
    scene.write("recipe.toml", "run = \"run\"\nlast = 2\n");
    scene.run("plan recipe.toml").done(&[note]);
    for named in ["plan run --last 2 --merged merged", "plan recipe.toml merged", "plan recipe.toml --merged out"] {
        let said = scene.run(named);
        assert!(said.code == 0 && !said.stderr.contains("no output was named"), "{said:?}");
    }
    // The output that is named when the plan is executed is the only one.
    scene.run("merge --plan plan.json -o elsewhere").done(&["merged 2 checkpoints", "elsewhere`"]);
    assert!(!scene.path("merged").exists());
    scene.run("verify elsewhere --inputs").done(&[]);
    scene.run("merge --plan plan.json -o elsewhere").done(&["already holds the result of this plan"]);
    scene.run("merge --plan plan.json").done(&["merged 2 checkpoints", "merged`"]);
}

#[test]
fn an_error_has_a_next_step_that_works() {
    let scene = Scene::new(&[1000, 2000, 3000, 4000]);
    let keep = "thalweg merge run --last 2 -o with --keep-sums with-sums";
    follow(&scene, "merge run --last 2 --sums sums -o out", &[("--append", keep), ("--keep-sums DIR", keep)]);
    follow_sentence(
        &scene,
        "merge run --last 2 --sums sums -o out",
        "give `--keep-sums DIR`",
        "merge run --steps 1000,2000 -o kept --keep-sums kept-sums",
    );
    scene.run("merge --append kept -m run/checkpoint-3000 --sums kept-sums -o more").done(&[]);
    follow(&scene, "explain run --last 1", &[]);
    follow(&scene, "explain run/checkpoint-1000", &[("--last 10", "thalweg explain run --last 3")]);
    for command in ["merge run --last 0 -o out", "merge run --count 0 --interval-steps 1000 -o out"] {
        follow_sentence(&scene, command, "ask for at least 1 checkpoint", "merge run --last 1 -o one");
    }
    follow(
        &scene,
        "merge run --count 2 --interval-steps 0 -o out",
        &[("--last N", "thalweg merge run --last 2 -o two")],
    );
    follow(&scene, "merge run --duration-steps 0 -o out", &[("--last N", "thalweg merge run --last 2 -o two")]);
    follow_sentence(&scene, "merge run --steps 1000,1000 -o out", "name each step once", "plan run --steps 1000");
    follow(
        &scene,
        "plan run --from-step 3000 --to-step 1000",
        &[
            ("--from-step", "thalweg plan run --from-step 1000 --to-step 3000"),
            ("--to-step", "thalweg plan run --from-step 1000 --to-step 3000"),
        ],
    );
    follow_sentence(&scene, "merge run run --last 2 -o out", "name one run folder alone", "plan run --last 2");
    let counts = [
        ("--counts", "thalweg sweep run -o sweep --counts 2"),
        ("--counts 2,4", "thalweg sweep run -o sweep --counts 2,4"),
    ];
    follow(&scene, "sweep run -o sweep", &counts);
    follow_sentence(&scene, "sweep run -o sweep", "such as `--counts 2,4`", "sweep run --counts 2,4 -o sweep");
}

#[test]
fn a_model_without_a_config_leads_to_another_program_that_scores() {
    let model = "examples/runs/hybridstories/step_16000.safetensors";
    let said = run(&["eval", model, "--suite", "examples/suites/quick.toml"]);
    let stderr = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("has no `config.json`") && stderr.contains("hint: copy the model's"), "{stderr}");
    assert!(stderr.contains("`--eval-command 'score.py {checkpoint} {out}'`"), "{stderr}");
}

/// A command that scores a model by the number of its step.
const SCORE: &str = "echo '[{\"task\": \"t\", \"value\": '$(wc -c < {checkpoint}/model.safetensors)', \"n\": 5, \
     \"higher_is_better\": true}]' > {out}";

#[test]
fn a_second_sweep_into_a_folder_says_what_it_replaced_and_what_stayed() {
    let scene = Scene::new(&[1000, 2000, 3000, 4000]);
    let sweep = |counts: &str, more: &[&str]| {
        let words = ["sweep", "run", "-o", "sweep", "--counts", counts];
        scene.run_words(&[&words, more].concat())
    };
    let scored = ["--eval-command", SCORE];
    let first = sweep("2", &scored);
    first.done(&["written to `"]);
    assert!(!first.stdout.contains("earlier sweep"), "{first:?}");
    let again = sweep("2", &scored);
    assert!(again.code == 0 && !again.stdout.contains("earlier sweep"), "{again:?}");
    let second = sweep("3", &scored);
    second.done(&[
        "the record of an earlier sweep of 1 other window was replaced; its best was `step0004000-n2-sma` (score ",
        "not better than the best of this sweep), still in `",
        "to compare all windows, name them in one sweep: scores are reused",
    ]);
    let third = sweep("4", &[&scored[..], &["--json"]].concat());
    let earlier = &document(&third)["earlier"];
    assert_eq!((earlier["n_others"].as_u64(), earlier["best"]["name"].as_str()), (Some(1), Some("step0004000-n3-sma")));
    assert_eq!(earlier["best"]["compared"]["is_better"], false);
    // Following the advice leaves nothing to say: the scores are there already.
    let all = sweep("2,3,4", &scored);
    assert!(all.code == 0 && !all.stdout.contains("earlier sweep"), "{all:?}");
    assert!(all.stdout.contains("scored 0 models"), "{all:?}");
    // Another command scores by another suite: the numbers are not compared.
    let other = SCORE.replace("\"t\"", "\"u\"");
    let other = sweep("2", &["--eval-command", &other]);
    other.done(&["2 other windows was replaced"]);
    assert!(!other.stdout.contains("better than"), "{other:?}");
}

#[test]
fn a_sweep_without_a_suite_says_that_nothing_was_scored_and_what_else_is_there() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    scene
        .run("sweep run --counts 2 -o sweep")
        .done(&["nothing was scored: add `--suite FILE` or `--eval-command CMD`"]);
    let second = scene.run("sweep run --counts 3 -o sweep");
    second.done(&["`sweep` also holds 1 merge of earlier sweeps, such as `step0003000-n2-sma`"]);
    scene.run_words(&["sweep", "run", "--counts", "2,3", "-o", "sweep", "--eval-command", SCORE]).done(&["best of 2"]);
}

#[test]
fn an_eval_command_that_writes_no_json_is_told_so_with_an_entry_to_copy() {
    let scene = Scene::new(&[1000]);
    let eval = |command: &str| scene.run_words(&["eval", "run/checkpoint-1000", "--eval-command", command]);
    let entry = "[{\"task\": \"piqa\", \"value\": 0.71, \"stderr\": 0.01, \"n\": 1838, \"higher_is_better\": true}]";
    for (command, said) in [
        ("echo {checkpoint} accuracy 0.71 > {out}", "it is not JSON (at line 1, column 1): it begins with `"),
        ("true {checkpoint} > {out}", "it is not JSON: it is empty"),
        ("echo 3 > {out} {checkpoint}", "it is not JSON (at line 1, column 3): it begins with `3 "),
        (
            "echo '{\"accuracy\": 1}' > {out}; true {checkpoint}",
            "a list of scores, or an object with `results`, expected",
        ),
        ("echo '[{\"value\": 1}]' > {out}; true {checkpoint}", "entry 0 has no `task`"),
        ("true {checkpoint} {out}", "wrote no results"),
    ] {
        eval(command).refused(&[said, entry]);
    }
    eval(&format!("echo '{entry}' > {{out}}; true {{checkpoint}}")).done(&["piqa"]);
    eval("exit 3; {checkpoint} {out}").refused(&["exit status: 3", "run it on this checkpoint by hand"]);
}

#[test]
fn the_shipped_suite_is_scored_in_the_context_of_the_models() {
    let suite = root().join("examples/suites/quick.toml");
    let suite = thalweg_eval::Suite::open(&LocalStorage::new(), &suite).unwrap();
    for (max_positions, length) in [(128, 128), (512, 512), (131_072, 512)] {
        let fitted = suite.fit(max_positions);
        assert_eq!((fitted.context_length, fitted.digest), (length, suite.digest));
        assert_eq!((fitted.tasks[0].stride, fitted.tasks[1].stride), (length, length / 2));
        // Scores in another context are other scores, also in a cache.
        assert_eq!(fitted.tasks[0].digest == suite.tasks[0].digest, length == 512);
    }
}

#[test]
fn the_error_in_the_document_about_scripts_is_what_is_printed() {
    let document = std::fs::read_to_string(root().join("docs/scripts.md")).unwrap();
    let shown = document.lines().find(|line| line.starts_with("{\"kind\":\"thalweg-error\"")).unwrap();
    let printed = run(&["merge", "examples/runs/hybridstories", "--last", "30", "-o", "unwritten", "--json", "-q"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim_end(), shown);
}
