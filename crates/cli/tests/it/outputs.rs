//! The user's files are never lost: what commands overwrite, what they refuse, and what they propose instead.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::{program, root, run};

const RUN: &str = "examples/runs/hybridstories";

/// A scratch folder.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Every file, folder and link below the scratch folder, with its content.
    fn content(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn collect(folder: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap();
                if kind.is_dir() {
                    all.push((path.clone(), Vec::new()));
                    collect(&path, all);
                } else if kind.is_symlink() {
                    all.push((path.clone(), fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()));
                } else {
                    all.push((path.clone(), fs::read(&path).unwrap()));
                }
            }
        }
        let mut all = Vec::new();
        collect(self.0.path(), &mut all);
        all.sort();
        all
    }

    /// Runs a command that must be refused, change nothing, and not propose `--force`.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let before = self.content();
        let output = run(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(!text.contains("--force"), "{arguments:?}: {text}");
        assert!(self.content() == before, "{arguments:?} changed something: {text}");
        text
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn merge_to<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["merge", RUN, "--last", "2", "-q", "-o", out], more].concat()
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> Output {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    output
}

#[test]
fn force_replaces_nothing_but_a_merge() {
    let scene = Scene::new();
    scene.write("notes/thesis.tex", "ten years of work");
    scene.write("run/step-100/model.safetensors", "weights");
    scene.write("file", "x");
    symlink(scene.path("notes"), scene.path("link")).unwrap();
    symlink(scene.path("nowhere"), scene.path("dangling")).unwrap();
    for name in ["notes", "run", "run/step-100", "file", "link", "dangling", "file/out", "dangling/out", ""] {
        let out = scene.text(name);
        scene.refused(&merge_to(&out, &["--force"]));
        scene.refused(&merge_to(&out, &[]));
    }
    let init = ["init", RUN, "--for", "cpt", "-o", &scene.text("notes"), "--force", "-q"];
    assert!(scene.refused(&init).contains("`thesis.tex`"));
    let sweep = ["sweep", RUN, "--counts", "2", "-o", &scene.text("run"), "--force", "-q"];
    let scored = ["--suite", "examples/suites/quick.toml", "--keep", "all"];
    let trial = scene.path("run/step0020000-n2-sma");
    fs::create_dir(&trial).unwrap();
    fs::write(trial.join("notes"), "mine").unwrap();
    assert!(scene.refused(&sweep).contains("`notes`"));
    assert!(scene.refused(&[&sweep[..], &scored].concat()).contains("`notes`"));
}

#[test]
fn an_empty_folder_becomes_the_output() {
    let scene = Scene::new();
    let convert = ["convert", "examples/runs/hybridstories/step_20000.safetensors", "-q", "-o"];
    let init = ["init", RUN, "--for", "cpt", "--last", "2", "-q", "-o"];
    for (i, command) in [&merge_to("", &[])[..6], &convert, &init].into_iter().enumerate() {
        for force in [&[][..], &["--force"]] {
            let out = scene.text(&format!("out-{i}-{}", force.len()));
            fs::create_dir(&out).unwrap();
            succeeds(&[command, &[&out], force].concat());
            succeeds(&["verify", &out, "-q"]);
        }
    }
    scene.write("inner/.keep", "");
    scene.refused(&merge_to(&scene.text("inner"), &[]));
}

#[test]
fn the_current_folder_is_never_the_output() {
    let scene = Scene::new();
    scene.write("work/notes.md", "mine");
    let source = fs::canonicalize(crate::support::root().join(RUN)).unwrap();
    for out in [".", "..", "../work", "/"] {
        let mut command = program();
        command.current_dir(scene.path("work")).arg("merge").arg(&source);
        let output = command.args(["--last", "2", "--force", "-o", out]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{out}: {}", stderr(&output));
        assert_eq!(fs::read(scene.path("work/notes.md")).unwrap(), b"mine", "{out}");
    }
}

#[test]
fn what_was_added_to_an_output_or_edited_in_it_stays() {
    let scene = Scene::new();
    let out = scene.text("out");
    succeeds(&merge_to(&out, &[]));
    for name in ["out/notes.md", "out/eval/scores.json", "out/model-00001-of-00002.safetensors"] {
        scene.write(name, "mine");
        scene.refused(&merge_to(&out, &["--force"]));
        scene.refused(&["merge", RUN, "--last", "3", "-q", "-o", &out]);
        let top = Path::new(name).components().take(2).collect::<PathBuf>();
        let top = scene.path(top.to_str().unwrap());
        if top.is_dir() { fs::remove_dir_all(top).unwrap() } else { fs::remove_file(top).unwrap() }
    }
    let card = fs::read_to_string(scene.path("out/README.md")).unwrap();
    scene.write("out/README.md", &format!("{card}\nMeasured on our own set: better."));
    assert!(scene.refused(&merge_to(&out, &["--force"])).contains("README.md"));
    scene.write("out/README.md", &card);
    succeeds(&merge_to(&out, &["--force"]));
    let other = run(&["merge", RUN, "--last", "3", "-q", "-o", &out]);
    assert!(stderr(&other).contains("`--force` replaces it"), "{}", stderr(&other));
    succeeds(&["merge", RUN, "--last", "3", "-q", "-o", &out, "--force"]);
}

#[test]
fn a_start_point_can_be_replaced_with_its_policy() {
    let scene = Scene::new();
    let out = scene.text("start");
    let init = |more: &[&'static str]| {
        let fixed = ["init", RUN, "--for", "cpt", "--last", "2", "-q", "-o", &out];
        run(&[&fixed[..], more].concat())
    };
    assert!(init(&[]).status.success());
    assert!(init(&["--scheme", "wma", "--force"]).status.success());
    scene.write("start/thalweg-start.json", "{\"my\": \"own\"}");
    let output = init(&["--force"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(scene.path("start/thalweg-start.json")).unwrap(), b"{\"my\": \"own\"}");
}

#[test]
fn a_foreign_stage_is_neither_emptied_nor_followed() {
    let scene = Scene::new();
    scene.write("out.thalweg-partial/notes.md", "mine");
    scene.write("target/model.safetensors", "weights");
    symlink(scene.path("target"), scene.path("other.thalweg-partial")).unwrap();
    for more in [&[][..], &["--force"], &["--discard-partial"]] {
        let (out, other) = (scene.text("out"), scene.text("other"));
        assert!(scene.refused(&merge_to(&out, more)).contains("thalweg-partial"));
        assert!(scene.refused(&merge_to(&other, more)).contains("thalweg-partial"));
    }
}

#[test]
fn documents_are_written_only_over_their_own_kind() {
    let scene = Scene::new();
    let weights = scene.text("model.safetensors");
    scene.write("model.safetensors", "weights");
    scene.write("config.json", "{\"kind\": \"llama\"}");
    scene.write("empty", "");
    fs::create_dir(scene.path("folder")).unwrap();
    symlink(scene.path("config.json"), scene.path("link")).unwrap();
    scene.write("study/study.json", "{\"kind\": \"thalweg-study\"}");
    for name in ["model.safetensors", "config.json", "empty", "folder", "link", "config.json/plan"] {
        let path = scene.text(name);
        scene.refused(&["plan", RUN, "--last", "2", "-q", "-o", &path]);
        scene.refused(&["explain", RUN, "--last", "3", "-q", "--svg", &path]);
    }
    scene.refused(&["plan", RUN, "--last", "2", "-q", "-o", "/dev/null"]);
    let [plan, svg, page] = ["plan.json", "run.svg", "geometry"].map(|name| scene.text(name));
    for _ in 0..2 {
        succeeds(&["plan", RUN, "--last", "2", "-q", "-o", &plan]);
        succeeds(&["explain", RUN, "--last", "3", "-q", "--svg", &svg, "-o", &page]);
        succeeds(&["report", &page, "-q"]);
    }
    for path in [&weights, &plan, &svg] {
        scene.refused(&["report", &page, "-q", "-o", path]);
    }
    scene.refused(&["plan", RUN, "--last", "2", "-q", "-o", &svg]);
    for name in ["study.csv", "report.html"] {
        let mine = Scene::new();
        mine.write(name, "mine");
        mine.refused(&["explain", RUN, "--last", "3", "-q", "-o", &mine.text("")]);
    }
}

#[test]
fn a_document_whose_folder_is_missing_is_refused_before_the_work() {
    let scene = Scene::new();
    let path = scene.text("missing/file");
    for command in [["plan", "--last", "2", "-o"], ["explain", "--last", "3", "--svg"]] {
        let [name, last, n, option] = command;
        assert!(scene.refused(&[name, RUN, last, n, "-q", option, &path]).contains("does not exist"));
    }
}

#[test]
fn demo_and_train_leave_other_files_alone() {
    let scene = Scene::new();
    for name in ["run.toml", "study.json", "report.html", "run/notes.md", "step-100/model.safetensors", "notes"] {
        let mine = Scene::new();
        mine.write(name, "mine");
        let output = run(&["demo", "--quick", "-q", "-o", &mine.text("")]);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert_eq!(fs::read(mine.path(name)).unwrap(), b"mine", "{name}");
    }
    scene.write("work/step-4/model.safetensors", "weights");
    scene.refused(&["train", "examples/train/stories-1m.toml", "-q", "-o", &scene.text("work")]);
}

#[test]
fn unsupported_addresses_are_refused_by_name_in_and_out() {
    let scene = Scene::new();
    let address = ["hdfs://namenode/out", "hf://org/model", "ftp://host/x", "az+abfs://c/p", "file:///tmp/x"];
    for address in address {
        let scheme = format!("`{}://`", address.split("://").next().unwrap());
        let commands: [&[&str]; 12] = [
            &["merge", RUN, "--last", "2", "-o", address],
            &["merge", address, "--last", "2", "-o", "out"],
            &["merge", "-m", address, "-m", address, "-o", "out"],
            &["plan", RUN, "--last", "2", "-o", address],
            &["plan", RUN, "--last", "2", "--merged", address],
            &["sweep", RUN, "--counts", "2", "-o", address],
            &["init", RUN, "--for", "sft", "-o", address],
            &["inspect", address],
            &["verify", address],
            &["diff", address, address],
            &["explain", RUN, "--last", "3", "--svg", address],
            &["report", address],
        ];
        for command in commands {
            let output = program().current_dir(scene.0.path()).args(rooted(command)).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?}");
            assert!(stderr(&output).contains(&scheme), "{command:?}: {}", stderr(&output));
        }
    }
    assert!(scene.content().is_empty(), "{:?}", scene.content());
}

/// The command with the absolute path of the example's run.
fn rooted(command: &[&str]) -> Vec<String> {
    let whole = crate::support::root().join(RUN).to_str().unwrap().to_owned();
    command.iter().map(|word| if *word == RUN { whole.clone() } else { (*word).to_owned() }).collect()
}

#[test]
fn a_damaged_output_is_not_called_the_result_and_the_hint_repairs_it() {
    let scene = Scene::new();
    let out = scene.text("out");
    succeeds(&merge_to(&out, &[]));
    let again = succeeds(&merge_to(&out, &[]));
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(text.contains("already holds") && text.contains("every byte of the output"), "{text}");
    let shard = scene.path("out/model.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    rot(&shard, &bytes);
    let output = run(&merge_to(&out, &[]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("damaged") && stderr(&output).contains("--force"), "{}", stderr(&output));
    succeeds(&merge_to(&out, &["--force"]));
    succeeds(&["verify", &out]);
}

/// Writes other bytes but keeps the time, as a failing disk does.
fn rot(path: &Path, bytes: &[u8]) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn weights_that_were_saved_over_a_merge_are_never_replaced() {
    let scene = Scene::new();
    let (out, shard) = (scene.text("out"), scene.path("out/model.safetensors"));
    succeeds(&merge_to(&out, &[]));
    let merged = fs::read(&shard).unwrap();
    let mut trained = merged.clone();
    let last = trained.len() - 1;
    trained[last] ^= 1;
    let longer = [&*merged, &[0; 8]].concat();
    let shorter = merged[..merged.len() - 8].to_vec();
    let (newer, changed) = ("newer than the receipt", "changed since the merge");
    for (saved, word) in [(trained, newer), (longer, changed), (shorter, changed)] {
        fs::write(&shard, &saved).unwrap();
        // Within a tick of the clock of file systems, some milliseconds, it would have the time of the receipt.
        let merged_at = fs::metadata(scene.path("out/thalweg.json")).unwrap().modified().unwrap();
        let shard_file = fs::File::options().write(true).open(&shard).unwrap();
        shard_file.set_modified(merged_at + Duration::from_secs(1)).unwrap();
        let output = run(&merge_to(&out, &["--force"]));
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("model.safetensors ({word})")), "{}", stderr(&output));
        assert_eq!(fs::read(&shard).unwrap(), saved);
    }
}

#[test]
fn a_plan_over_changed_sources_needs_allow_changed() {
    let scene = Scene::new();
    fs::create_dir(scene.path("run")).unwrap();
    for step in ["step_14000.safetensors", "step_16000.safetensors"] {
        let bytes = fs::read(crate::support::root().join(RUN).join(step)).unwrap();
        fs::write(scene.path("run").join(step), bytes).unwrap();
    }
    let (plan, runs, out) = (scene.text("plan.json"), scene.text("run"), scene.text("out"));
    succeeds(&["plan", &runs, "--last", "2", "-q", "-o", &plan]);
    let shard = scene.path("run/step_16000.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let output = run(&["merge", "--plan", &plan, "-q", "-o", &out]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--allow-changed"), "{}", stderr(&output));
    assert!(!scene.path("out").exists());
    succeeds(&["merge", "--plan", &plan, "-q", "-o", &out, "--allow-changed"]);
}

#[test]
fn verify_distinguishes_sources_from_the_output() {
    let scene = Scene::new();
    fs::create_dir(scene.path("run")).unwrap();
    for step in ["step_14000.safetensors", "step_16000.safetensors"] {
        let bytes = fs::read(crate::support::root().join(RUN).join(step)).unwrap();
        fs::write(scene.path("run").join(step), bytes).unwrap();
    }
    let (runs, out) = (scene.text("run"), scene.text("out"));
    succeeds(&["merge", &runs, "--last", "2", "-q", "-o", &out]);
    let verify = || {
        let output = run(&["verify", &out, "--inputs"]);
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    fs::remove_file(scene.path("run/step_14000.safetensors")).unwrap();
    let (code, text) = verify();
    assert_eq!(code, 1);
    assert!(text.contains("is missing") && text.contains("out` matches its receipt"), "{text}");
    let shard = scene.path("run/step_16000.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let (code, text) = verify();
    assert_eq!(code, 1);
    assert!(text.contains("has changed") && text.contains("2 of its 2 sources do not match"), "{text}");
    let document = run(&["verify", &out, "--inputs", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!((&document["output_equal"], &document["sources_equal"]), (&true.into(), &false.into()));
    assert_eq!(
        (&document["sources"][0]["state"], &document["sources"][1]["state"]),
        (&"missing".into(), &"changed".into())
    );
    scene.write("out/pytorch_model.bin", "x");
    let output = run(&["verify", &out]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("`pytorch_model.bin`"), "{}", stderr(&output));
}

/// Runs the program in a shell that redirects its standard output.
fn redirected(command: &str, redirection: &str) -> Output {
    let line = format!("exec \"$0\" {command} {redirection}");
    let mut shell = Command::new("sh");
    shell.current_dir(crate::support::root()).arg("-c").arg(line).arg(env!("CARGO_BIN_EXE_thalweg"));
    shell.stdin(std::process::Stdio::piped()).output().unwrap()
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let commands = [
        format!("inspect {RUN}"),
        format!("inspect {RUN} --json"),
        format!("plan {RUN} --last 2"),
        format!("diff {RUN}/step_18000.safetensors {RUN}/step_20000.safetensors"),
        "generate completions bash".to_owned(),
        "--help".to_owned(),
        "--version".to_owned(),
        "merge --help".to_owned(),
    ];
    for command in &commands {
        for redirection in ["> /dev/full", ">&-"] {
            let output = redirected(command, redirection);
            assert_eq!(output.status.code(), Some(2), "{command} {redirection}");
            assert!(stderr(&output).contains("standard output"), "{command} {redirection}: {}", stderr(&output));
        }
        for redirection in ["> /dev/null", "1<> /dev/null", "> /dev/null 2>&1 < /dev/null"] {
            assert!(redirected(command, redirection).status.code() < Some(2), "{command} {redirection}");
        }
    }
}

#[test]
fn a_limit_of_file_sizes_is_named_and_does_not_end_the_program_by_a_signal() {
    let scene = Scene::new();
    let out = scene.path("out");
    let mut command = Command::new("sh");
    // 8 KiB at most, by any shell's unit.
    let words = ["-c", r#"ulimit -f 8 && exec "$@""#, "sh", env!("CARGO_BIN_EXE_thalweg"), "merge"];
    let fixture = root().join("fixtures/hf-sharded");
    command.args(words).arg(&fixture).args(["--last", "2", "-o"]).arg(&out);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("file too large") && said.contains("--out-shard-size"), "{said}");
    assert!(!out.exists());
}
