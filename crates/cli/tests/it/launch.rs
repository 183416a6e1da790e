//! The texts for job schedulers: written as they should be, valid, and run as the scheduler would run them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{program, root};

struct Scene {
    folder: tempfile::TempDir,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Scene {
    /// A plan for two small checkpoints, in a folder whose name needs quotes in a shell.
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.root()).unwrap();
        let made = scene.thalweg(&[
            "plan",
            &root().join("fixtures/hf-sharded").display().to_string(),
            "--last",
            "2",
            "--merged",
            "out",
            "-o",
            "plan.json",
        ]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        scene
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("it's a disk")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn thalweg(&self, arguments: &[&str]) -> Output {
        program().current_dir(self.root()).args(arguments).output().unwrap()
    }

    /// Scratch folder and program blotted out.
    fn blotted(&self, text: &str) -> String {
        let place = self.root().display().to_string().replace('\'', "'\\''");
        let plain = self.root().display().to_string();
        text.replace(&place, "[DIR]").replace(&plain, "[DIR]").replace(env!("CARGO_BIN_EXE_thalweg"), "[THALWEG]")
    }

    /// Runs the script as Slurm would, with these variables.
    fn job(&self, argument: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new("bash");
        command.arg(self.path("plan.slurm.sh")).arg(argument).envs(variables.iter().copied());
        command.current_dir("/").output().unwrap()
    }

    /// A folder with an `sbatch` that writes down how it is called and answers as `--parsable` does.
    fn fake_slurm(&self) -> PathBuf {
        let folder = self.path("bin");
        fs::create_dir(&folder).unwrap();
        let script = "#!/bin/sh\nprintf '%s\\n' \"$*\" >> \"$(dirname \"$0\")/calls\"\necho \"$(wc -l < \"$(dirname \"$0\")/calls\");cluster\"\n";
        let path = folder.join("sbatch");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }
}

fn path_with(folder: &Path) -> String {
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

fn check_syntax(script: &Path) {
    let checked = Command::new("bash").arg("-n").arg(script).output().unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}

#[test]
fn the_script_for_slurm_is_as_it_should_be() {
    let scene = Scene::new();
    let output = scene.thalweg(&["launch", "slurm", "plan.json", "-n", "32", "--", "-p", "big mem", "--time=2:00:00"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    check_syntax(&scene.path("plan.slurm.sh"));
    insta::assert_snapshot!("slurm-script", scene.blotted(&fs::read_to_string(scene.path("plan.slurm.sh")).unwrap()));
    // Written again over itself, but never over anything else.
    assert!(scene.thalweg(&["launch", "slurm", "plan.json", "-n", "2"]).status.success());
    fs::write(scene.path("mine.sh"), "echo mine").unwrap();
    let refused = scene.thalweg(&["launch", "slurm", "plan.json", "-n", "2", "-o", "mine.sh"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert_eq!(fs::read_to_string(scene.path("mine.sh")).unwrap(), "echo mine");
}

#[test]
fn a_name_that_would_end_a_line_of_the_script_is_refused() {
    let scene = Scene::new();
    for name in ["a\nb.json", "a\rb.json", "a\u{1b}b.json"] {
        fs::copy(scene.path("plan.json"), scene.path(name)).unwrap();
        let image = ["--image", "merger"];
        for words in
            [&["launch", "slurm", name, "-n", "2"][..], &["launch", "kubernetes", name, "-n", "2", image[0], image[1]]]
        {
            let refused = scene.thalweg(words);
            assert_eq!(refused.status.code(), Some(2), "{name:?}");
            assert!(text(&refused.stderr).contains("control character"), "{}", text(&refused.stderr));
        }
    }
}

#[test]
fn the_script_merges_when_slurm_runs_it() {
    let scene = Scene::new();
    assert!(scene.thalweg(&["launch", "slurm", "plan.json", "-n", "3"]).status.success());
    let share = |number: &str| {
        let done = scene.job("share", &[("SLURM_ARRAY_TASK_ID", number), ("SLURM_CPUS_PER_TASK", "1")]);
        assert!(done.status.success(), "{}", text(&done.stderr));
    };
    let nothing = scene.job("finish", &[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("(--array=0-2)"), "{}", text(&nothing.stderr));
    share("1");
    let missing = scene.job("finish", &[]);
    assert_eq!(missing.status.code(), Some(2));
    let said = text(&missing.stderr);
    assert!(said.contains("2 of 3 shares are missing: 0,2") && said.contains("(--array=0,2): bash "), "{said}");
    assert!(!scene.path("out").exists());
    ["0", "1", "2"].into_iter().for_each(share);
    let finished = scene.job("finish", &[]);
    assert!(finished.status.success(), "{}", text(&finished.stderr));
    let document: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(document["shards"], 3);
    assert!(scene.thalweg(&["verify", "out"]).status.success());
}

#[test]
fn the_last_step_is_submitted_with_the_array_and_depends_on_any_end_of_it() {
    let scene = Scene::new();
    let bin = scene.fake_slurm();
    let mut command = program();
    command.current_dir(scene.root()).env("PATH", path_with(&bin));
    let output = command
        .args(["launch", "slurm", "plan.json", "-n", "8", "--submit", "--json", "--", "-c", "4"])
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(document["submitted"], "shares 0-7 are job 1, the last step is job 2\n");
    let script = scene.path("plan.slurm.sh").display().to_string();
    let calls = fs::read_to_string(bin.join("calls")).unwrap();
    let expected = format!(
        "--job-name=thalweg-share -c 4 --parsable --array=0-7 {script} share\n\
         --job-name=thalweg-finish -c 4 --parsable --dependency=afterany:1 {script} finish\n"
    );
    assert_eq!(calls, expected);
    // What is printed for missing shares runs those alone.
    let again = Command::new("bash").arg(&script).arg("2,5-7").env("PATH", path_with(&bin)).output().unwrap();
    assert_eq!(text(&again.stdout), "shares 2,5-7 are job 3, the last step is job 4\n");
}

#[test]
fn a_submission_that_fails_is_an_error_with_the_command_to_repeat() {
    let scene = Scene::new();
    let bin = scene.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("sbatch"), "#!/bin/sh\necho 'sbatch: error: Batch job submission failed' >&2\nexit 1\n")
        .unwrap();
    fs::set_permissions(bin.join("sbatch"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = program();
    command.current_dir(scene.root()).env("PATH", path_with(&bin));
    let output = command.args(["launch", "slurm", "plan.json", "-n", "2", "--submit"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("Batch job submission failed") && said.contains("`bash "), "{said}");
}

/// A stand-in for Ray: it runs each task immediately in this process, and retries the ones that fail, as Ray does.
const FAKE_RAY: &str = r#"
class exceptions:
    class RayError(Exception):
        pass


class Task:
    def __init__(self, act, words, retries):
        for attempt in range(retries + 1):
            try:
                self.value, self.fault = act(*words), None
                return
            except Exception as error:
                self.fault = exceptions.RayError(f"a task failed\n{error}")


def remote(num_cpus, max_retries, retry_exceptions=False, scheduling_strategy="DEFAULT"):
    class Remote:
        def __init__(self, act):
            self.act = act

        def remote(self, *words):
            return Task(self.act, words, max_retries if retry_exceptions else 0)

    return Remote


def init(log_to_driver):
    pass


def wait(tasks, num_returns):
    return tasks[:1], tasks[1:]


def get(task):
    if task.fault:
        raise task.fault
    return task.value
"#;

#[test]
fn the_script_for_ray_merges_and_names_what_is_missing() {
    let scene = Scene::new();
    let made = scene.thalweg(&["launch", "ray", "plan.json", "-n", "4", "--cpus", "2", "--retries", "1", "--json"]);
    let document: Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|_| panic!("{}", text(&made.stderr)));
    assert_eq!((&document["scheduler"], &document["shards"]), (&"ray".into(), &4.into()));
    fs::create_dir(scene.path("lib")).unwrap();
    fs::write(scene.path("lib/ray.py"), FAKE_RAY).unwrap();
    // Share 1 fails once, share 2 as often as it is tried, the first time.
    let wrapper = format!(
        "#!/bin/bash\ncase \"$*\" in\n*--shard\\ 1/4*) n=1 ;;\n*--shard\\ 2/4*) n=2 ;;\n*) n=0 ;;\nesac\n\
         for i in $(seq $n); do\n  if [ ! -e \"$TRIED-$n-$i\" ]; then touch \"$TRIED-$n-$i\"; echo no >&2; exit 1; fi\ndone\n\
         exec {} \"$@\"\n",
        env!("CARGO_BIN_EXE_thalweg")
    );
    fs::write(scene.path("wrapper"), wrapper).unwrap();
    fs::set_permissions(scene.path("wrapper"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(scene.path("plan.ray.py")).args(words).current_dir("/");
        command.env("PYTHONPATH", scene.path("lib")).env("THALWEG", scene.path("wrapper"));
        command.env("TRIED", scene.path("tried")).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap()
    };
    let first = run(&[]);
    let said = text(&first.stderr);
    assert_eq!(first.status.code(), Some(2), "{said}");
    assert!(said.contains("share 1 is done: 2 of 4") && said.contains("share 2 failed: no"), "{said}");
    assert!(said.contains("to run what is missing: ") && said.trim_end().ends_with(" 2"), "{said}");
    assert!(!scene.path("out").exists());
    let second = run(&["2"]);
    assert!(second.status.success(), "{}", text(&second.stderr));
    let document: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(document["missing"], Value::Array(Vec::new()));
    assert!(scene.thalweg(&["verify", "out"]).status.success());
    assert!(run(&["0-3"]).status.success());
    assert!(!run(&["4"]).status.success());
    fs::write(scene.path("mine.py"), "print()").unwrap();
    let refused = scene.thalweg(&["launch", "ray", "plan.json", "-n", "2", "-o", "mine.py"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
}

#[test]
fn what_the_launchers_cannot_do_is_refused() {
    let scene = Scene::new();
    for (arguments, expected) in [
        (&["slurm", "plan.json", "-n", "2", "--", "--array=0-3"][..], "sets `--array=0-3` itself"),
        (&["slurm", "plan.json", "-n", "2", "--", "-d", "afterok:1"], "sets `-d` itself"),
        (&["slurm", "missing.json", "-n", "2"], "missing.json"),
        (&["slurm", "plan.json", "-n", "0"], "above zero"),
        (&["slurm", "plan.json", "-n", "2000000"], "more than"),
        (&["kubernetes", "plan.json", "-n", "2"], "--image"),
        (&["kubernetes", "plan.json", "-n", "200000", "--image", "i"], "at most 100000"),
        (&["kubernetes", "plan.json", "-n", "2", "--image", "i", "--name", "Mine_1"], "not a name of a job"),
    ] {
        let refused = scene.thalweg(&[&["launch"], arguments].concat());
        let said = text(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn the_jobs_for_kubernetes_are_as_they_should_be() {
    let scene = Scene::new();
    let arguments = [
        "launch",
        "kubernetes",
        "plan.json",
        "-n",
        "4",
        "--image",
        "registry/thalweg:1",
        "--mount",
        "/disk",
        "--claim",
        "disk-of-runs",
    ];
    let output = scene.thalweg(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let manifest = text(&output.stdout);
    insta::assert_snapshot!("kubernetes-jobs", scene.blotted(&manifest));
    let documents: Vec<Value> =
        manifest.split("---\n").skip(1).map(|document| serde_json::from_str(document).unwrap()).collect();
    let [shares, finish] = &*documents else { panic!("two jobs") };
    let volume = &shares["spec"]["template"]["spec"]["volumes"][0];
    assert_eq!(volume["persistentVolumeClaim"]["claimName"], "disk-of-runs");
    // The container's own words do the work.
    let words = |job: &Value| -> Vec<String> {
        let words = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    for index in 0..4 {
        let mut pod = program();
        pod.current_dir("/").args(words(shares)).env("JOB_COMPLETION_INDEX", index.to_string());
        for variable in shares["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap() {
            pod.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
        }
        let done = pod.output().unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
    let finished = program().current_dir("/").args(words(finish)).output().unwrap();
    assert!(finished.status.success(), "{}", text(&finished.stderr));
    assert!(scene.thalweg(&["verify", "out"]).status.success());
}
