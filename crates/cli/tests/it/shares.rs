//! One merge by many processes on the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{program, root};

const N_ELEMENTS: usize = 700_000;

fn write_source(path: &Path, seed: usize) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, n) in [("a.large", N_ELEMENTS), ("b", 300_000), ("c", 300_000), ("d.small", 5)] {
        let start = data.len();
        data.extend((0..n).flat_map(|i| (((i * 31 + seed * 7919) % 1009) as f32 * 0.001 - 0.5).to_le_bytes()));
        header.insert(
            name.to_owned(),
            serde_json::json!({"dtype": "F32", "shape": [n], "data_offsets": [start, data.len()]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&data);
    fs::write(path, bytes).unwrap();
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// A run of three checkpoints, a plan of its mean, and that mean by one process.
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        let run = scene.path("run");
        fs::create_dir(&run).unwrap();
        (1..=3).for_each(|i| write_source(&run.join(format!("step_{}.safetensors", 100 * i)), i));
        let run = run.display().to_string();
        let made = scene.thalweg(&[
            "plan",
            &run,
            "--last",
            "3",
            "--out-shard-size",
            "1MB",
            "--merged",
            "out",
            "-o",
            "plan.json",
        ]);
        assert!(made.status.success(), "{}", stderr(&made));
        assert!(scene.thalweg(&["merge", "--plan", "plan.json", "-o", "one"]).status.success());
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.current_dir(self.folder.path()).args(arguments);
        for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "PMI_RANK"] {
            command.env_remove(name);
        }
        command
    }

    fn thalweg(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.thalweg(&[&["--json"], arguments].concat());
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        (output.status.code().unwrap(), document)
    }

    fn share(&self, share: &str) -> (i32, Value) {
        self.json(&["merge", "--plan", "plan.json", "--shard", share])
    }

    fn finish(&self) -> (i32, Value) {
        self.json(&["merge", "--plan", "plan.json", "--finish"])
    }

    #[track_caller]
    fn check_output(&self) {
        let names = |folder: &str| -> Vec<String> {
            let names = fs::read_dir(self.path(folder)).unwrap();
            let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names("out"), names("one"));
        for name in names("out").iter().filter(|name| *name != "thalweg.json") {
            let [out, one] = ["out", "one"].map(|folder| fs::read(self.path(folder).join(name)).unwrap());
            assert!(out == one, "{name} differs");
        }
        let verified = self.thalweg(&["verify", "out", "--inputs"]);
        assert!(verified.status.success(), "{}", stderr(&verified));
        assert!(!self.path("out.thalweg-partial").exists());
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn shares_and_a_last_step_make_the_output_of_one_process() {
    let scene = Scene::new();
    let (code, first) = scene.share("1/3");
    assert_eq!((code, &first["done"], &first["missing"]), (0, &serde_json::json!([1]), &serde_json::json!([0, 2])));
    assert_eq!((&first["rerun"], &first["shards"]), (&serde_json::json!("0,2"), &serde_json::json!(3)));
    let (code, again) = scene.share("1/3");
    assert_eq!((code, &again["done"], &again["skipped"]), (0, &serde_json::json!([]), &serde_json::json!([1])));
    assert_eq!(again["outputs"][0]["state"], "skipped");
    scene.share("0/3");
    assert_eq!(scene.share("2/3").1["rerun"], Value::Null);
    let (code, finished) = scene.finish();
    assert_eq!(
        (code, &finished["missing"], &finished["done"]),
        (0, &serde_json::json!([]), &serde_json::json!([0, 1, 2]))
    );
    assert_eq!(finished["outputs"][0]["was_done"], false);
    scene.check_output();
    assert_eq!(scene.share("2/3").1["outputs"][0]["state"], "published");
    assert_eq!(scene.finish().1["outputs"][0]["was_done"], true);
}

#[test]
fn missing_shares_are_named_with_the_commands_that_do_them() {
    let scene = Scene::new();
    scene.share("0/8");
    scene.share("4/8");
    let (code, document) = scene.finish();
    assert_eq!(code, 2);
    assert_eq!(document["missing"], serde_json::json!([1, 2, 3, 5, 6, 7]));
    assert_eq!(document["rerun"], "1-3,5-7");
    assert!(!scene.path("out").exists());
    let output = scene.thalweg(&["merge", "--plan", "plan.json", "--finish"]);
    let said = stderr(&output);
    assert!(output.status.code() == Some(2) && said.contains(" of 8 shares are missing: 1-3,5-7"), "{said}");
    // The hint works as it is.
    let hint = said.split_once("run the missing shares with `").unwrap().1.split_once('`').unwrap().0;
    let binary = Path::new(env!("CARGO_BIN_EXE_thalweg")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.current_dir(scene.folder.path()).env("PATH", path).args(["-c", hint]).stdout(Stdio::null());
    assert!(shell.status().unwrap().success(), "{hint}");
    let (code, finished) = scene.finish();
    assert_eq!(code, 0, "{finished}");
    scene.check_output();
    fs::remove_dir_all(scene.path("out")).unwrap();
    scene.share("0/2");
    // The other options are those that were typed.
    let said = stderr(&scene.thalweg(&["merge", "--plan", "plan.json", "--memory", "300MB", "--finish"]));
    assert!(said.contains("share 1 of 2 is missing"), "{said}");
    assert!(said.contains("`thalweg merge --plan plan.json --memory 300MB --shard 1/2`"), "{said}");
}

#[test]
fn an_unfinished_output_in_shares_is_never_a_checkpoint() {
    let scene = Scene::new();
    // Beside the checkpoints of a run, where a trainer's names are.
    let plan = scene.path("beside.json").display().to_string();
    let run = scene.path("run").display().to_string();
    let out = scene.path("run/step_400").display().to_string();
    let made = scene.thalweg(&["plan", &run, "--last", "3", "--merged", &out, "-o", &plan]);
    assert!(made.status.success(), "{}", stderr(&made));
    for share in ["0/2", "1/2"] {
        let done = scene.thalweg(&["merge", "--plan", &plan, "--shard", share]);
        assert!(done.status.success(), "{}", stderr(&done));
        let (code, inspected) = scene.json(&["inspect", &run]);
        let steps: Vec<&Value> = inspected["checkpoints"].as_array().unwrap().iter().map(|one| &one["step"]).collect();
        assert_eq!((code, steps), (0, vec![&serde_json::json!(100), &serde_json::json!(200), &serde_json::json!(300)]));
        let stage = scene.path("run/step_n400.thalweg-partial");
        assert!(stage.is_dir());
        let refused = scene.thalweg(&["inspect", &stage.display().to_string()]);
        assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stdout));
        let recovered = scene.thalweg(&["merge", &run, "--last", "4", "-o", "four"]);
        assert_eq!(recovered.status.code(), Some(2), "there are three checkpoints");
    }
}

#[test]
fn the_environment_is_asked_only_if_the_user_says_so() {
    let scene = Scene::new();
    let array = |command: &mut Command, id: &str| {
        command.env("SLURM_ARRAY_TASK_ID", id).env("SLURM_ARRAY_TASK_COUNT", "2");
        command.env("SLURM_ARRAY_TASK_MIN", "0").env("SLURM_ARRAY_TASK_MAX", "1");
    };
    for id in ["0", "1"] {
        let mut command = scene.command(&["merge", "--plan", "plan.json", "--shard", "auto", "--json"]);
        array(&mut command, id);
        let output = command.output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        assert_eq!((document["shard"].to_string(), &document["shards"]), (id.to_owned(), &serde_json::json!(2)));
    }
    assert_eq!(scene.finish().0, 0);
    scene.check_output();
    fs::remove_dir_all(scene.path("out")).unwrap();
    let mut plain = scene.command(&["merge", "--plan", "plan.json"]);
    array(&mut plain, "0");
    assert!(plain.status().unwrap().success());
    scene.check_output();
    let half =
        scene.command(&["merge", "--plan", "plan.json", "--shard", "auto"]).env("PMI_RANK", "0").output().unwrap();
    assert!(half.status.code() == Some(2) && stderr(&half).contains("`PMI_RANK` is set but `PMI_SIZE` is not"));
    let none = scene.thalweg(&["merge", "--plan", "plan.json", "--shard", "auto"]);
    assert!(none.status.code() == Some(2) && stderr(&none).contains("found no job"));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let scene = Scene::new();
    for arguments in [
        &["--shard", "2/2"][..],
        &["--shard", "0/2", "--finish"],
        &["--shard", "0/2", "--dry-run"],
        &["--finish", "--discard-partial"],
    ] {
        let refused = scene.thalweg(&[&["merge", "--plan", "plan.json"], arguments].concat());
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
    }
    let run = root().join("fixtures/hf-sharded").display().to_string();
    let refused = scene.thalweg(&["merge", &run, "--shard", "0/2", "-o", "x"]);
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("--plan"), "{}", stderr(&refused));
    let nothing = scene.thalweg(&["merge", "--plan", "plan.json", "--finish"]);
    assert!(
        nothing.status.code() == Some(2) && stderr(&nothing).contains("there are no shares"),
        "{}",
        stderr(&nothing)
    );
    scene.share("0/2");
    let other = scene.thalweg(&["merge", "--plan", "plan.json", "--shard", "0/3"]);
    assert!(stderr(&other).contains("2 processes, not by 3"), "{}", stderr(&other));
    let one = scene.thalweg(&["merge", "--plan", "plan.json"]);
    assert!(one.status.code() == Some(2) && stderr(&one).contains("in shares"), "{}", stderr(&one));
    assert!(scene.thalweg(&["merge", "--plan", "plan.json", "--discard-partial"]).status.success());
    scene.check_output();
}

#[test]
fn a_sweep_by_shares_makes_the_merges_of_one_process() {
    let scene = Scene::new();
    let sweep = ["sweep", "run", "--counts", "2,3", "--schemes", "sma,wma"];
    assert!(scene.thalweg(&[&sweep[..], &["-o", "one-process"]].concat()).status.success());
    let shared = [&sweep[..], &["-o", "shared"]].concat();
    let said = scene.thalweg(&[&shared[..], &["--shard", "1/2"]].concat());
    assert!(said.status.success(), "{}", stderr(&said));
    let (code, missing) = scene.json(&[&shared[..], &["--finish"]].concat());
    assert_eq!((code, &missing["missing"], &missing["rerun"]), (2, &serde_json::json!([0]), &serde_json::json!("0")));
    assert_eq!(missing["incomplete"].as_array().map(Vec::len), Some(4), "{missing}");
    let refused = scene.thalweg(&[&shared[..], &["--finish"]].concat());
    let command = "`thalweg sweep run --counts 2,3 --schemes sma,wma -o shared --shard 0/2`";
    assert!(stderr(&refused).contains(command), "{}", stderr(&refused));
    assert_eq!(stderr(&refused).matches(" lacks 0\n").count(), 4, "{}", stderr(&refused));
    // A share that found other windows begins merges that the others do not know: nothing is published.
    let other = ["sweep", "run", "--counts", "3", "--schemes", "sma,ema:0.5", "-o", "shared"];
    assert!(scene.thalweg(&[&other[..], &["--shard", "0/2"]].concat()).status.success());
    let all = ["sweep", "run", "--counts", "2,3", "--schemes", "sma,wma,ema:0.5", "-o", "shared", "--finish"];
    let said = stderr(&scene.thalweg(&all));
    assert_eq!(said.matches(" lacks 0-1\n").count(), 1, "{said}");
    assert_eq!(said.matches(" lacks 1\n").count(), 1, "{said}");
    assert_eq!(said.matches(" lacks 0\n").count(), 3, "{said}");
    let entries = fs::read_dir(scene.path("shared")).unwrap().map(|entry| entry.unwrap().path());
    let of_others = entries.filter(|path| path.to_string_lossy().contains("ema"));
    of_others.for_each(|path| fs::remove_dir_all(path).unwrap());
    assert!(scene.thalweg(&[&shared[..], &["--shard=0/2"]].concat()).status.success());
    let (code, finished) = scene.json(&[&shared[..], &["--finish"]].concat());
    assert_eq!((code, &finished["missing"]), (0, &serde_json::json!([])));
    let names = |folder: &str| -> Vec<PathBuf> {
        let mut names: Vec<PathBuf> =
            fs::read_dir(scene.path(folder)).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
        names.sort();
        names
    };
    assert_eq!(names("shared"), names("one-process"));
    for name in names("shared") {
        let bytes = |folder: &str| fs::read(scene.path(folder).join(&name).join("model.safetensors")).unwrap();
        assert!(bytes("shared") == bytes("one-process"), "{name:?}");
    }
    let scored = scene.thalweg(&[&shared[..], &["--shard", "0/2", "--suite", "suite.toml"]].concat());
    assert!(stderr(&scored).contains("only make merges"), "{}", stderr(&scored));
}
