//! Which checkpoints are merged, in what order, with which coefficients, as a user sees it.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use thalweg_tensor::Dtype;
use thalweg_testkit::{RunLayout, Scratch, TinyCheckpoint, TinyRun};

use crate::support::program;

/// A run in a scratch folder.
pub(crate) struct Scene {
    scratch: Scratch,
}

impl Scene {
    /// Makes checkpoints `run/checkpoint-STEP`, in which each parameter is the step.
    pub(crate) fn new(steps: &[u64]) -> Self {
        let scratch = Scratch::new();
        TinyRun::new(RunLayout::Checkpoint, steps).write_to_disk(&scratch.join("run"));
        Self { scratch }
    }

    /// Makes two checkpoints `a` and `b`, each a llama and what `add` adds to it.
    pub(crate) fn two(add: impl Fn(TinyCheckpoint, f64) -> TinyCheckpoint) -> Self {
        let scene = Self::new(&[]);
        for (name, value) in [("a", 1.0), ("b", 3.0)] {
            add(TinyCheckpoint::llama(Dtype::F32, value), value).write_to_disk(&scene.path(name));
        }
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.scratch.write(name, bytes);
    }

    /// Runs the program in the scratch folder. `words` are separated by spaces.
    pub(crate) fn run(&self, words: &str) -> Answer {
        self.run_words(&words.split_whitespace().collect::<Vec<_>>())
    }

    pub(crate) fn run_words(&self, words: &[&str]) -> Answer {
        let hub = self.path("hub");
        let output = program().current_dir(self.scratch.path()).env("HF_HUB_CACHE", hub).args(words).output().unwrap();
        Answer::new(&output)
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }
}

/// What the program printed, with its exit code.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The sources of the first output: steps, and exact coefficients as fractions.
    pub(crate) fn sources(&self) -> Vec<(Option<u64>, String)> {
        weighed(&self.json()["outputs"][0])
    }

    pub(crate) fn refused(&self, facts: &[&str]) {
        assert_eq!(self.code, 2, "{self:?}");
        for fact in facts {
            assert!(self.stderr.contains(fact), "`{fact}` is not in {self:?}");
        }
    }

    pub(crate) fn done(&self, facts: &[&str]) {
        assert_eq!(self.code, 0, "{self:?}");
        for fact in facts {
            assert!(self.stderr.contains(fact) || self.stdout.contains(fact), "`{fact}` is not in {self:?}");
        }
    }
}

fn weighed(output: &Value) -> Vec<(Option<u64>, String)> {
    let divisor = output["divisor"].as_str().unwrap();
    let sources = output["sources"].as_array().unwrap().iter();
    let row =
        |source: &Value| (source["step"].as_u64(), format!("{}/{divisor}", source["numerator"].as_str().unwrap()));
    sources.map(row).collect()
}

fn coefficients(output: &Value) -> Vec<f64> {
    output["sources"].as_array().unwrap().iter().map(|source| source["coefficient"].as_f64().unwrap()).collect()
}

/// All schemes over steps 2000, 4000, 10,000: w(t) at t = 1/6 and 2/3 for decays, shares of 10,000 for the power
/// profile.
fn closed_forms() -> Vec<(&'static str, [f64; 3])> {
    let decay = |w1: f64, w2: f64| [1.0 - w1, w1 - w2, w2];
    let (third, sixth) = (1.0 / 3.0, 1.0 / 6.0);
    let cosine = |t: f64| f64::midpoint(1.0, (std::f64::consts::PI * t).cos());
    // g of sigma-rel 0.1, the root of EDM2's cubic.
    let power = |share: f64| share.powf(6.937_203_94 + 1.0);
    vec![
        ("sma", [third; 3]),
        ("wma", [sixth, third, 0.5]),
        ("ema:0.5", [0.25, 0.25, 0.5]),
        ("ema-normalised:0.5", [1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]),
        ("decay:linear", decay(5.0 / 6.0, third)),
        ("decay:linear:0.1", decay(0.85, 0.4)),
        ("decay:cosine", decay(cosine(sixth), cosine(2.0 / 3.0))),
        ("decay:1-sqrt", decay(1.0 - sixth.sqrt(), 1.0 - (2.0_f64 / 3.0).sqrt())),
        ("power-ema:0.1", [power(0.2), power(0.4) - power(0.2), 1.0 - power(0.4)]),
    ]
}

fn check_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        // The exponent of the power profile has nine digits; everything else is exact to rounding.
        assert!((found - expected).abs() < 1e-7, "{what}: {found} and {expected}");
    }
}

#[test]
fn every_scheme_has_its_closed_form_on_uneven_steps_in_every_command() {
    let scene = Scene::new(&[2000, 4000, 10_000]);
    let forms = closed_forms();
    for (i, (scheme, expected)) in forms.iter().enumerate() {
        let plan = scene.run(&format!("plan run --last 3 --scheme {scheme} --json"));
        check_near(&coefficients(&plan.json()["outputs"][0]), expected, scheme);
        // The same checkpoints by name, in a wrong order.
        let paths = "run/checkpoint-10000 run/checkpoint-2000 run/checkpoint-4000";
        let merge = scene.run(&format!("merge {paths} --scheme {scheme} -o merged-{i} --json"));
        check_near(&coefficients(&merge.json()["outputs"][0]), expected, scheme);
        let start = scene.run(&format!("init run --for sft --last 3 --scheme {scheme} -o start-{i} --json"));
        start.done(&[]);
        let receipt = std::fs::read_to_string(scene.path(&format!("start-{i}/thalweg.json"))).unwrap();
        check_near(&coefficients(&serde_json::from_str::<Value>(&receipt).unwrap()["plan"]), expected, scheme);
    }
    let schemes: Vec<&str> = forms.iter().map(|(scheme, _)| *scheme).collect();
    let sweep = scene.run(&format!("sweep run --counts 3 --schemes {} --dry-run --json -o sweep", schemes.join(",")));
    for (output, (scheme, expected)) in sweep.json()["outputs"].as_array().unwrap().iter().zip(&forms) {
        check_near(&coefficients(output), expected, scheme);
    }
}

#[test]
fn the_plan_shows_what_uneven_steps_do() {
    let scene = Scene::new(&[2000, 4000, 10_000]);
    let effect = "decay:linear uses the checkpoints' own steps, which are unevenly spaced: 0.1667, 0.5000, 0.3333 \
                  instead of 0.3333, 0.3333, 0.3333";
    scene.run("plan run --last 3 --scheme decay:linear").done(&[effect]);
    scene.run("sweep run --counts 3 --schemes sma,decay:linear --dry-run -o sweep").done(&[effect]);
    let quiet = scene.run("plan run --last 3 --scheme wma");
    assert!(!quiet.stderr.contains("own steps"), "{quiet:?}");
    let even = Scene::new(&[2000, 4000, 6000]);
    assert!(!even.run("plan run --last 3 --scheme decay:linear").stderr.contains("own steps"));
}

#[test]
fn coefficients_that_do_not_sum_to_one_are_refused_with_their_sum() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    scene.run("merge run --last 3 --coefficients 1,2,3 -o out").refused(&[
        "sum to 6, not to 1",
        "--normalize",
        "--allow-sum",
    ]);
    let pair = "-m run/checkpoint-1000:1.5 -m run/checkpoint-2000:1.5";
    scene.run(&format!("merge {pair} -o out")).refused(&["sum to 3, not to 1"]);
    scene.run(&format!("plan {pair}")).refused(&["sum to 3, not to 1"]);
    scene.run("merge run --last 2 --coefficients 1,-1 -o out").refused(&["sum to 0", "--allow-sum"]);
    scene.run("init run --for cpt --last 3 --coefficients 0.5,0.2,0.2 -o out").refused(&["sum to 0.9"]);
    scene.write("native.toml", "checkpoints = [{ path = \"run/checkpoint-1000\", coefficient = 2 }]\n");
    scene.run("merge native.toml out").refused(&["sum to 2, not to 1"]);
    scene.write(
        "kit.yml",
        "merge_method: linear\nparameters: {normalize: false}\nmodels:\n  - {model: run/checkpoint-1000, parameters: \
         {weight: 1}}\n  - {model: run/checkpoint-2000, parameters: {weight: 1}}\n",
    );
    scene.run("merge kit.yml out").refused(&["sum to 2, not to 1"]);
    assert!(!scene.path("out").exists());
    // A sum of 1 is accepted in any form.
    scene.run("plan run --last 3 --coefficients 1/3,1/3,1/3").done(&[]);
    scene.run("plan run --last 3 --coefficients 1.5,-0.25,-0.25").done(&[]);
}

#[test]
fn an_allowed_sum_is_in_plan_receipt_and_card() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    let plan = scene.run("plan run --last 3 --coefficients 1,2,3 --allow-sum");
    plan.done(&["the coefficients sum to 6, which scales the model"]);
    assert!(plan.stdout.lines().any(|line| line.split_whitespace().eq(["sum", "6"])), "{plan:?}");
    scene.run("merge run --last 3 --coefficients 1,2,3 --allow-sum -o out").done(&[]);
    let read = |name: &str| std::fs::read_to_string(scene.path(name)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&read("out/thalweg.json")).unwrap()["plan"]["sum"], "6");
    assert!(read("out/README.md").contains("The coefficients sum to 6, which scales the model."));
    let normal = scene.run("plan run --last 3 --coefficients 1,2,3 --normalize --json");
    assert_eq!(normal.json()["outputs"][0]["sum"], "1");
    assert_eq!(normal.sources()[2], (Some(3000), "3/6".to_owned()));
    scene.write("native.toml", "run = \"run\"\nlast = 2\ncoefficients = [1, 1]\nallow_sum = true\n");
    scene.run("merge native.toml of-recipe").done(&["sum to 2"]);
    // A plan whose numerators were edited no longer agrees with its `sum`.
    scene.run("plan run --last 3 -o plan.json").done(&[]);
    let edited = read("plan.json").replacen("\"numerator\": \"1\"", "\"numerator\": \"2\"", 1);
    scene.write("plan.json", edited.clone());
    scene.run("merge --plan plan.json").refused(&["sum to 4/3"]);
    let edited = edited.replace("\"sum\": \"1\"", "\"sum\": \"4/3\"");
    scene.write("plan.json", edited.clone());
    scene.run("merge --plan plan.json").refused(&["not those of the scheme `sma`"]);
    let edited = edited.replace("\"scheme\": \"sma\"", "\"scheme\": \"custom\"");
    scene.write("plan.json", edited.clone());
    scene.run("merge --plan plan.json").refused(&["has the coefficient 0.333", "change both"]);
    scene.write("plan.json", edited.replacen("\"coefficient\": 0.333", "\"coefficient\": 0.666", 1));
    scene.run("merge --plan plan.json").refused(&["has the coefficient 0.666"]);
    let exact = edited.replacen("\"coefficient\": 0.3333333333333333", "\"coefficient\": 0.6666666666666666", 1);
    scene.write("plan.json", exact);
    scene.run("merge --plan plan.json -o by-hand").done(&[]);
}

#[test]
fn two_checkpoints_at_one_step_are_noted_with_the_order_that_counts() {
    let scene = Scene::new(&[500, 1000]);
    TinyRun::new(RunLayout::Checkpoint, &[500]).write_to_disk(&scene.path("other"));
    let plan = scene.run("plan run/checkpoint-500 other/checkpoint-500 run/checkpoint-1000 --scheme wma");
    assert!(plan.code == 0 && plan.stderr.contains("are both at step 500"), "{plan:?}");
    assert!(!scene.run("plan run/checkpoint-500 run/checkpoint-1000").stderr.contains("both at step"));
}

#[test]
fn steps_in_another_order_than_their_coefficients_are_noted() {
    let scene = Scene::new(&[500, 1000]);
    let plan = scene.run("plan run --steps 1000,500 --coefficients 3/4,1/4 --json");
    assert_eq!(plan.sources(), [(Some(500), "3/4".to_owned()), (Some(1000), "1/4".to_owned())]);
    assert!(plan.stderr.contains("not in the order of `--steps`"), "{plan:?}");
    assert!(!scene.run("plan run --steps 500,1000 --coefficients 3/4,1/4").stderr.contains("order of `--steps`"));
}

#[test]
fn a_key_that_safetensors_cannot_have_is_refused() {
    let scene = Scene::new(&[500, 1000]);
    scene.run("plan run --last 2 --key ema").refused(&["has no keys", "`--key ema`"]);
}

#[test]
fn checkpoints_count_by_step_whatever_the_shell_made_of_their_order() {
    let scene = Scene::new(&[500, 1000, 10_000]);
    let shell_order = "run/checkpoint-1000 run/checkpoint-10000 run/checkpoint-500";
    let by_step = scene.run(&format!("plan {shell_order} --scheme wma --json"));
    let expected = [(500, "1/6"), (1000, "2/6"), (10_000, "3/6")].map(|(step, c)| (Some(step), c.to_owned()));
    assert_eq!(by_step.sources(), expected);
    assert!(by_step.stderr.contains("ordered by step, oldest first") && by_step.stderr.contains("--order given"));
    assert_eq!(by_step.json()["outputs"][0]["policy"]["newest"], 2);
    let given = scene.run(&format!("plan {shell_order} --scheme wma --order given --json"));
    let expected = [(1000, "1/6"), (10_000, "2/6"), (500, "3/6")].map(|(step, c)| (Some(step), c.to_owned()));
    assert_eq!(given.sources(), expected);
    assert!(!given.stderr.contains("ordered by step"));
    assert_eq!(given.json()["outputs"][0]["policy"]["newest"], 2);
    // Coefficients of `--coefficients` count oldest first too; those of `-m` stay with their checkpoints.
    let custom = scene.run(&format!("plan {shell_order} --coefficients 0.2,0.3,0.5 --json"));
    assert_eq!(custom.sources()[0], (Some(500), "2/10".to_owned()));
    let beside = scene.run("plan -m run/checkpoint-10000:0.9 -m run/checkpoint-500:0.1 --json");
    assert_eq!(beside.sources(), [(Some(500), "1/10".to_owned()), (Some(10_000), "9/10".to_owned())]);
    // The same holds for recipes.
    scene.write("r.toml", "checkpoints = [\"run/checkpoint-1000\", \"run/checkpoint-500\"]\nscheme = \"ema:0.2\"\n");
    scene.run("plan r.toml").done(&["ordered by step, oldest first"]);
    scene.run("explain run/checkpoint-1000 run/checkpoint-500").done(&["ordered by step, oldest first"]);
}

#[test]
fn checkpoints_without_a_step_are_named_where_order_counts() {
    let scene = Scene::new(&[500, 1000]);
    scene.rename("run/checkpoint-500", "best");
    let mixed = scene.run("plan run/checkpoint-1000 best --scheme wma --json");
    assert!(
        mixed.stderr.contains("is unknown, so the order given is used") && mixed.stderr.contains("/best"),
        "{mixed:?}"
    );
    assert_eq!(mixed.sources()[1], (None, "2/3".to_owned()));
    scene.rename("run/checkpoint-1000", "other");
    scene
        .run("plan other best --scheme decay:cosine")
        .done(&["the steps of the checkpoints are unknown", "equally spaced"]);
    assert!(!scene.run("plan other best").stderr.contains("no step"), "a plain mean has no order");
    scene.run("plan other best other").done(&["is given more than once"]);
}

#[test]
fn a_merge_within_the_run_is_never_one_of_its_checkpoints() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    scene.run("merge run --last 3 -o run/checkpoint-3001").done(&[]);
    let merge = scene.run("merge run --last 3 -o out --json");
    let steps: Vec<Option<u64>> = merge.sources().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [Some(1000), Some(2000), Some(3000)]);
    scene
        .run("inspect run")
        .done(&["a run of 3 checkpoints, 3 finished, and 1 merge", "merge of 3, not part of the run"]);
    assert_eq!(scene.run("inspect run --json").json()["checkpoints"][3]["fault"], "merge");
    scene.run("merge run --steps 3001 -o x").refused(&["merge of 3, not part of the run"]);
    // A merge whose name has no step is listed after the checkpoints.
    scene.run("merge run --last 2 -o run/averaged").done(&[]);
    scene.run("inspect run").done(&["also in this folder: `averaged`, merge of 2, not part of the run"]);
    let sweep = scene.run("sweep run --counts 1 --dry-run --json -o sweep");
    assert_eq!(sweep.sources()[0].0, Some(3000));
    let start = scene.run("init run --for cpt --last 3 -o start --json");
    assert_eq!(start.json()["sources"].as_array().unwrap().len(), 3, "{start:?}");
}

#[test]
fn a_trainers_folder_with_the_final_model_is_a_run_for_every_command_that_selects() {
    let scene = Scene::new(&[100, 200, 300]);
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        std::fs::copy(scene.path("run/checkpoint-300").join(name), scene.path("run").join(name)).unwrap();
    }
    scene.write("run/training_args.bin", "x");
    for command in ["plan run --last 3", "merge run --last 2 -o out", "explain run --last 3", "plan run --every 2"] {
        scene.run(command).done(&[]);
    }
    scene.run("plan run").refused(&["which checkpoints of the run?"]);
    let shown = scene.run("inspect run");
    shown.done(&["a run of 3 checkpoints", "beside them in the same folder", "safetensors checkpoint"]);
    let document = scene.run("inspect run --json").json();
    assert_eq!(document["checkpoints"].as_array().unwrap().len(), 3);
    assert_eq!(document["checkpoint_beside"]["kind"], "thalweg-inspect");
}

#[test]
fn names_of_other_trainers_and_converters_are_found_or_can_be_given() {
    let steps = [1000, 2000];
    for (from, to) in [
        ("step", "step{}-unsharded"),
        ("hf", "iter_{}-hf"),
        ("accelerate", "checkpoint_{}"),
        ("nemo", "gpt--val_loss=2.10-step={}-consumed_samples=64000.0"),
        ("both", "epoch_3_step_{}"),
    ] {
        let scene = Scene::new(&steps);
        for step in steps {
            scene.rename(&format!("run/checkpoint-{step}"), &format!("run/{}", to.replace("{}", &step.to_string())));
        }
        let plan = scene.run("plan run --last 2 --json");
        let found: Vec<Option<u64>> = plan.sources().into_iter().map(|(step, _)| step).collect();
        assert_eq!(found, [Some(1000), Some(2000)], "{from}");
    }
    let scene = Scene::new(&steps);
    for step in steps {
        scene.rename(&format!("run/checkpoint-{step}"), &format!("run/my{step}of9"));
    }
    scene.run("plan run --last 2").refused(&["is not a run folder", "--checkpoint-pattern"]);
    let plan = scene.run("plan run --last 2 --checkpoint-pattern my{step}of* --json");
    assert_eq!(plan.sources()[1].0, Some(2000));
    scene.run("inspect run --checkpoint-pattern my{step}of9").done(&["2 finished"]);
    let named = scene.run("plan run/my2000of9 run/my1000of9 --checkpoint-pattern my{step}of9 --json");
    assert_eq!(named.sources()[0].0, Some(1000));
    scene.write("r.toml", "run = \"run\"\nlast = 2\ncheckpoint_pattern = \"my{step}of9\"\n");
    scene.run("plan r.toml").done(&["2000"]);
    scene.run("plan run --last 2 --checkpoint-pattern my").refused(&["lacks `{step}`"]);
    scene.run("plan run --last 2 --checkpoint-pattern x{step}").refused(&["no name in", "matches `x{step}`"]);
}

#[test]
fn a_revision_is_taken_wherever_a_checkpoint_is() {
    let scene = Scene::new(&[1000, 2000]);
    let commits = ["a1".repeat(20), "b2".repeat(20)];
    for (step, commit) in [1000, 2000].iter().zip(&commits) {
        let snapshot = format!("hub/models--acme--tiny/snapshots/{commit}");
        std::fs::create_dir_all(scene.path("hub/models--acme--tiny/snapshots")).unwrap();
        scene.rename(&format!("run/checkpoint-{step}"), &snapshot);
        scene.write(&format!("hub/models--acme--tiny/refs/step{step}"), commit);
    }
    let (a, b) = ("acme/tiny@step1000", "acme/tiny@step2000");
    let folder = "hub/models--acme--tiny";
    for command in [
        format!("inspect {a}"),
        "inspect acme/tiny".to_owned(),
        format!("inspect {folder}@step2000"),
        format!("inspect acme/tiny@{}", commits[1]),
        format!("plan {a} {b}"),
        format!("plan -m {a}:0.5 -m {b}:0.5"),
        format!("plan {a}"),
        "plan acme/tiny --last 2".to_owned(),
        format!("explain {a} {b}"),
        format!("merge {a} {b} --side-files-from {a} --against {b} -o out"),
        "sweep acme/tiny --counts 2 --dry-run -o sweep".to_owned(),
        "init acme/tiny --for cpt --last 2 -o start".to_owned(),
    ] {
        scene.run(&command).done(&[]);
    }
    assert_eq!(scene.run(&format!("diff {a} {b}")).code, 1);
    assert_eq!(scene.run(&format!("diff {a} {a}")).code, 0);
    // The step of a revision is known, so it decides the order.
    let plan = scene.run(&format!("plan {b} {a} --scheme wma --json"));
    assert_eq!(plan.sources()[0].0, Some(1000));
    // Without refs a snapshot is found by its commit, whole or abbreviated.
    std::fs::remove_dir_all(scene.path("hub/models--acme--tiny/refs")).unwrap();
    for command in [format!("inspect acme/tiny@{}", commits[0]), "inspect acme/tiny@a1a1a1a1".to_owned()] {
        scene.run(&command).done(&["safetensors checkpoint"]);
    }
    scene.run("inspect acme/tiny").refused(&["holds several revisions", &commits[0]]);
    std::fs::remove_dir_all(scene.path("hub/models--acme--tiny/snapshots").join(&commits[0])).unwrap();
    scene.run("inspect acme/tiny").done(&["safetensors checkpoint"]);
}

#[test]
fn numbers_are_written_alike_everywhere() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    for selection in [
        "--count 2 --interval-steps 1K",
        "--count 2 --interval-steps 1e3",
        "--count 2 --interval-tokens 4e9 --tokens-per-step 4M",
        "--count 2 --interval-tokens 4B --tokens-per-step 4e6",
        "--last 2 --end-step 3K",
        "--steps 2K,3e3",
        "--duration-steps 1.0k",
    ] {
        let plan = scene.run(&format!("plan run {selection} --json"));
        let steps: Vec<Option<u64>> = plan.sources().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [Some(2000), Some(3000)], "{selection}");
    }
    scene.write("r.yml", "run: run\ncount: 2\ninterval_tokens: 4e9\ntokens_per_step: 4e6\nout_shard_size: 5G\n");
    scene.run("plan r.yml").done(&["3000"]);
    scene.write("run/thalweg.toml", "tokens_per_step = \"4e6\"\n");
    scene.run("plan run --count 2 --interval-tokens 4B").done(&["12B"]);
    scene.run("plan run --last 2x").refused(&[]);
    scene.run("plan run --end-step 1.5 --last 1").refused(&["not a whole number"]);
}

#[test]
fn names_that_others_use_are_taken() {
    let scene = Scene::new(&[1000, 2000]);
    for (i, option) in
        ["--dtype float32", "--dtype bfloat16", "--dtype BF16", "--scheme SMA", "--scheme mean", "--scheme EMA:0.2"]
            .iter()
            .enumerate()
    {
        scene.run(&format!("merge run --last 2 {option} --output out-{i}")).done(&["merged 2 checkpoints"]);
    }
    scene.write("r.yml", "run: run\nlast: 2\ndtype: bfloat16\n");
    scene.run("merge r.yml of-recipe").done(&[]);
    scene.run("plan run --last 2 --output plan.json").done(&[]);
}

#[test]
fn each_fault_of_a_checkpoint_is_reported_separately() {
    let scene = Scene::new(&[1000, 2000]);
    let whole = std::fs::read(scene.path("run/checkpoint-1000/model.safetensors")).unwrap();
    let mut broken = whole.clone();
    broken[8] = b'[';
    scene.write("run/checkpoint-3000/model.safetensors", &whole[..whole.len() - 8]);
    scene.write("run/checkpoint-4000/model.safetensors", broken);
    scene.write("run/checkpoint-5000/model.onnx", "x");
    let shown = scene.run("inspect run");
    shown.done(&["checkpoint-3000  unfinished: ", "checkpoint-4000  damaged: ", "checkpoint-5000  another format: "]);
    let faults: Vec<Value> = scene.run("inspect run --json").json()["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["fault"].clone())
        .collect();
    assert_eq!(faults, [Value::Null, Value::Null, "unfinished".into(), "damaged".into(), "other-format".into()]);
    // Waiting helps only an unfinished save.
    let of_other_format = Scene::new(&[]);
    of_other_format.write("run/checkpoint-1/model.onnx", "x");
    let refused = of_other_format.run("plan run --last 1");
    refused.refused(&["no usable checkpoint", "another format"]);
    assert!(!refused.stderr.contains("wait until"), "{refused:?}");
    let unfinished = Scene::new(&[]);
    unfinished.write("run/checkpoint-1/model.safetensors", &whole[..whole.len() - 8]);
    unfinished.run("plan run --last 1").refused(&["unfinished", "wait until a save has finished"]);
}

#[test]
fn a_request_longer_than_the_run_says_so() {
    let scene = Scene::new(&[1000, 2000, 3000]);
    scene.run("plan run --duration-steps 5000").refused(&["5000 steps is longer than the run", "span 2000 steps"]);
    let tokens = "plan run --tokens-per-step 1M --duration-tokens 5B";
    scene.run(tokens).refused(&["5B tokens is longer than the run", "span 2B tokens"]);
    scene.run("plan run --last 9").refused(&["needs 9 finished checkpoints, but there are 3"]);
    let both_ends = scene.run("plan run --duration-steps 2000 --json");
    assert_eq!(both_ends.sources().len(), 3);
}

#[test]
fn a_coefficient_that_is_not_a_number_is_named() {
    let scene = Scene::new(&[1000, 2000]);
    for text in ["0.5x", "nan", "inf", "abc", "1e", "1/0"] {
        let words = ["plan", "-m", &format!("run/checkpoint-1000:{text}"), "-m", "run/checkpoint-2000:0.5"];
        scene.run_words(&words).refused(&[&format!("`{text}` is not a number")]);
        scene.run(&format!("plan run --last 2 --coefficients 0.5,{text}")).refused(&[&format!("`{text}`")]);
    }
    scene.run("plan -m nowhere:0.5x -m run/checkpoint-2000:0.5").refused(&["nowhere"]);
}

#[test]
fn threads_of_any_number_do_no_harm() {
    let scene = Scene::new(&[1000, 2000]);
    for (i, n) in ["1", "7", "5000", "18446744073709551615"].iter().enumerate() {
        scene.run(&format!("merge run --last 2 -j {n} --memory 2GB -o out-{i}")).done(&["merged 2 checkpoints"]);
        scene.run(&format!("verify out-{i} -j {n}")).done(&[]);
        assert_eq!(scene.run(&format!("diff run/checkpoint-1000 run/checkpoint-2000 --threads {n}")).code, 1);
    }
    scene.run("plan run --last 2 -j 0").refused(&[]);
}

#[test]
fn ends_of_a_sweep_with_too_few_checkpoints_are_skipped() {
    let scene = Scene::new(&[1000, 2000, 3000, 4000]);
    let sweep = scene.run("sweep run --counts 3 --ends every:1000 --dry-run --json -o sweep");
    assert_eq!(sweep.json()["outputs"].as_array().unwrap().len(), 2);
    assert!(sweep.stderr.contains("2 ends from step 1000 to 2000 are skipped"), "{sweep:?}");
    let steps = scene.run("sweep run --counts 1 --ends steps --dry-run --json -o sweep");
    assert_eq!(steps.json()["outputs"].as_array().unwrap().len(), 4);
    scene.run("sweep run --counts 3 --ends 2000 --dry-run -o sweep").refused(&["needs 3 finished checkpoints"]);
    scene.run("sweep run --counts 9 --ends steps --dry-run -o sweep").refused(&["needs 9 finished checkpoints"]);
    scene.run("sweep run --counts 3 --ends sometimes --dry-run -o sweep").refused(&["`sometimes`", "every:STEPS"]);
}

#[test]
fn options_that_would_be_ignored_are_refused() {
    let scene = Scene::new(&[1000, 2000]);
    scene.run("plan run --last 2 -o plan.json").done(&[]);
    scene.run("merge --plan plan.json --dtype bf16").refused(&["a plan already says what is merged"]);
    scene.write("r.toml", "run = \"run\"\nlast = 2\n");
    scene.run("merge r.toml out --scheme wma").refused(&["a recipe already says what is merged"]);
    scene.run("init run --for cpt --from-averages 0.1=run -o x").refused(&["merge` and `plan` only"]);
    assert!(!Path::new("merged").exists());
}

#[test]
fn checkpoints_that_are_too_far_apart_for_one_run_are_noted() {
    let scene = Scene::new(&[1000, 1100]);
    // Each parameter is its step: the mean of 1000 and 1100 is 50 from the newest, 4.55 % of it.
    let near = scene.run("merge run --last 2 -o near");
    near.done(&["(steps 1000, 1100)", "4.55 % of its norm", "at most 50.0 in one element"]);
    assert!(!near.stderr.contains("of one run"), "{near:?}");
    TinyCheckpoint::llama(Dtype::F32, -1.0).write_to_disk(&scene.path("other"));
    TinyCheckpoint::llama(Dtype::F32, 2.0).write_to_disk(&scene.path("another"));
    let far = scene.run("merge other another -o far");
    far.done(&["75.0 % of its norm"]);
    assert!(far.stderr.contains("may not be checkpoints of one run"), "{far:?}");
    let json = scene.run("merge other another -o far2 --json").json();
    assert_eq!(json["outputs"][0]["relative_distance_to_newest"], 0.75);
}

#[test]
fn tensors_that_differ_alike_are_counted_and_not_listed() {
    let scene = Scene::new(&[1000]);
    TinyCheckpoint::llama(Dtype::F32, 1.0).write_to_disk(&scene.path("f32"));
    TinyCheckpoint::llama(Dtype::Bf16, 1.0).write_to_disk(&scene.path("bf16"));
    let answer = scene.run("merge f32 bf16 -o out");
    answer.refused(&["[3, 2] f32", "[3, 2] bf16", "and the same for 11 other tensors"]);
    assert_eq!(answer.stderr.matches("differs between sources").count(), 1, "{answer:?}");
}
