//! Runs in an object store: the bytes of local merges, nothing half visible, and no secret anywhere.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use thalweg_testkit::{RunLayout, S3Server, Scratch, SeenRequest, ServerFault, TinyRun};

use crate::kill::signal;
use crate::support::program;

/// A local run, the same run in a bucket, and a folder to work in.
struct Scene {
    scratch: Scratch,
    server: S3Server,
}

impl Scene {
    fn new() -> Self {
        let scratch = Scratch::new();
        TinyRun::new(RunLayout::Checkpoint, &[1000, 2000, 3000]).write_to_disk(&scratch.join("run"));
        let server = S3Server::start();
        server.put_folder(&scratch.join("run"), "team/run");
        Self { scratch, server }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = program();
        command.current_dir(self.scratch.path()).args(line.split(' '));
        command.env("THALWEG_STAGING", self.scratch.join("staging")).env("THALWEG_RETRY_SECONDS", "20");
        command.envs(self.server.variables());
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What a command says; no secret may be in it.
    #[track_caller]
    fn run(&self, line: &str, code: i32) -> String {
        let output = self.output(line);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        self.check_no_secret(text.as_bytes());
        text
    }

    fn secrets(&self) -> Vec<String> {
        let variables = self.server.variables().into_iter();
        variables.filter(|(name, _)| name.contains("KEY")).map(|(_, value)| value).collect()
    }

    #[track_caller]
    fn check_no_secret(&self, bytes: &[u8]) {
        for secret in self.secrets() {
            let is_there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!is_there, "`{secret}` is in {}", String::from_utf8_lossy(bytes));
        }
    }

    /// The files of an output below a prefix of the bucket are those of a local folder, but for the receipt.
    #[track_caller]
    fn check_same(&self, prefix: &str, folder: &str) {
        for entry in fs::read_dir(self.scratch.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let found = self.server.get(&format!("{prefix}/{name}")).unwrap_or_else(|| panic!("no {prefix}/{name}"));
            self.check_no_secret(&found);
            if !["thalweg.json", "README.md"].contains(&name.as_str()) {
                assert!(found == fs::read(self.scratch.join(folder).join(&name)).unwrap(), "{name}");
            }
        }
    }
}

#[test]
fn a_run_in_a_bucket_merges_into_the_bytes_of_a_local_one() {
    let scene = Scene::new();
    let text = scene.run("inspect s3://bucket/team/run", 0);
    assert!(text.contains("a run of 3 checkpoints, 3 finished"), "{text}");
    scene.run("merge run --last 3 --scheme wma -o local", 0);
    scene.run("merge s3://bucket/team/run --last 3 --scheme wma -o fetched", 0);
    let of = |name: &str| fs::read(scene.scratch.join(name).join("model.safetensors")).unwrap();
    assert!(of("local") == of("fetched"));
    scene.check_no_secret(&fs::read(scene.scratch.join("fetched/thalweg.json")).unwrap());
    scene.run("verify fetched --inputs", 0);
}

#[test]
fn an_output_in_a_bucket_is_whole_and_is_known_again() {
    let scene = Scene::new();
    scene.run("merge run --last 2 -o local", 0);
    scene.run("merge s3://bucket/team/run --last 2 -o s3://bucket/team/merged", 0);
    scene.check_same("team/merged", "local");
    assert_eq!(fs::read_dir(scene.scratch.join("staging/stages/s3/bucket/team")).unwrap().count(), 0);
    let again = scene.run("merge s3://bucket/team/run --last 2 -o s3://bucket/team/merged", 0);
    assert!(again.contains("already"), "{again}");
    scene.run("verify s3://bucket/team/merged --inputs", 0);
    let other = scene.run("merge s3://bucket/team/run --last 3 -o s3://bucket/team/merged", 2);
    assert!(other.contains("--force"), "{other}");
    scene.run("merge s3://bucket/team/run --last 3 -o s3://bucket/team/merged --force", 0);
    scene.run("merge run --last 3 -o local3", 0);
    scene.check_same("team/merged", "local3");
    scene.run("diff s3://bucket/team/merged local3", 0);
}

#[test]
fn other_commands_take_addresses_too() {
    let scene = Scene::new();
    scene.run("plan s3://bucket/team/run --last 2 -o s3://bucket/plans/plan.json --merged s3://bucket/out", 0);
    scene.run("merge --plan s3://bucket/plans/plan.json", 0);
    scene.run("merge run --last 2 -o local", 0);
    scene.check_same("out", "local");
    scene.run("convert s3://bucket/out --dtype f32 -o s3://bucket/wide", 0);
    scene.run("convert local --dtype f32 -o local-wide", 0);
    scene.check_same("wide", "local-wide");
    let ours = scene.run("explain s3://bucket/team/run --last 3", 0);
    assert!(ours.contains("cosine"), "{ours}");
    scene.run("sweep s3://bucket/team/run --counts 2,3 -o s3://bucket/sweep", 0);
    assert!(scene.server.keys().iter().any(|key| key.starts_with("sweep/") && key.ends_with("thalweg.json")));
}

#[test]
fn an_interrupted_upload_is_not_seen_and_is_resumed_or_cleaned() {
    let scene = Scene::new();
    let merge = "merge s3://bucket/team/run --last 2 -o s3://bucket/out";
    scene.server.fail_next("PUT out/thalweg.json", ServerFault::Status(403, "AccessDenied", 0));
    let refused = scene.run(merge, 2);
    assert!(refused.contains("403 (AccessDenied)") && refused.contains("credentials"), "{refused}");
    scene.server.take_requests();
    let hidden = scene.run("inspect s3://bucket/out", 2);
    assert!(hidden.contains("unfinished upload") && hidden.contains("thalweg clean"), "{hidden}");
    let named = scene.run("clean s3://bucket --dry-run", 0);
    assert!(named.contains("`s3://bucket/out`"), "{named}");
    let resumed = scene.run(merge, 0);
    assert!(resumed.contains(" by an earlier run"), "{resumed}");
    let is_put = |seen: &SeenRequest| seen.method == "PUT";
    let puts: Vec<String> = scene.server.take_requests().into_iter().filter(is_put).map(|seen| seen.key).collect();
    assert_eq!(puts, ["out/thalweg-upload.json", "out/thalweg.json"], "nothing is sent twice");
    scene.run("merge run --last 2 -o local", 0);
    scene.check_same("out", "local");
    assert!(!scene.server.keys().iter().any(|key| key.contains("thalweg-upload")));
    scene.server.fail_next("PUT out/model", ServerFault::Status(403, "AccessDenied", 0));
    scene.run("merge s3://bucket/team/run --last 3 -o s3://bucket/out --force", 2);
    let cleaned = scene.run("clean s3://bucket/out --json", 0);
    assert!(cleaned.contains("\"removed\": true"), "{cleaned}");
    assert!(!scene.server.keys().iter().any(|key| key.starts_with("out/")), "{:?}", scene.server.keys());
    assert!(scene.run("clean s3://bucket/out", 0).contains("no unfinished uploads"));
}

/// Killed after any request, to read or to write, a merge leaves nothing that is seen, and the same command ends in the
/// same bytes.
#[test]
fn a_merge_in_a_bucket_killed_at_any_request_ends_in_the_same_bytes() {
    let scene = Scene::new();
    scene.run("merge run --last 2 -o local", 0);
    let merge = "merge s3://bucket/team/run --last 2 -o s3://bucket/out";
    for n_requests in (1..).step_by(3) {
        scene.server.take_requests();
        let mut child = scene.command(merge).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut n_seen = 0;
        while n_seen < n_requests && child.try_wait().unwrap().is_none() {
            n_seen += scene.server.take_requests().len();
            std::thread::yield_now();
        }
        let has_ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        let seen = scene.output("inspect s3://bucket/out");
        match seen.status.code() {
            Some(0) => scene.check_same("out", "local"),
            code => assert_eq!(code, Some(2), "{}", String::from_utf8_lossy(&seen.stderr)),
        }
        if has_ended {
            break;
        }
    }
    scene.run(merge, 0);
    scene.check_same("out", "local");
    assert!(!scene.server.keys().iter().any(|key| key.contains("thalweg-upload")));
}

/// An upload that was cut off is not finished from its stage if the sources have changed by then.
#[test]
fn a_stage_of_replaced_sources_is_not_uploaded() {
    let scene = Scene::new();
    let merge = "merge s3://bucket/team/run --last 2 -o s3://bucket/out";
    scene.server.fail_next("PUT out/thalweg.json", ServerFault::Status(403, "AccessDenied", 0));
    scene.run(merge, 2);
    let other = "team/run/checkpoint-1000/model.safetensors";
    scene.server.put("team/run/checkpoint-2000/model.safetensors", &scene.server.get(other).unwrap());
    fs::copy(
        scene.scratch.join("run/checkpoint-1000/model.safetensors"),
        scene.scratch.join("run/checkpoint-2000/model.safetensors"),
    )
    .unwrap();
    let text = scene.run(merge, 0);
    assert!(!text.contains(" by an earlier run"), "{text}");
    scene.run("merge run --last 2 -o local", 0);
    scene.check_same("out", "local");
}

#[test]
fn credentials_that_expire_in_the_middle_cost_no_finished_work() {
    let scene = Scene::new();
    scene.run("merge run --last 3 -o local", 0);
    let merge = "merge s3://bucket/team/run --last 3 -o s3://bucket/out";
    for request in ["GET team/run/checkpoint-2000/model", "PUT out/model", "PUT out/thalweg.json"] {
        scene.server.fail_next(request, ServerFault::Status(400, "ExpiredToken", 0));
        let expired = scene.run(merge, 2);
        assert!(expired.contains("400 (ExpiredToken)") && expired.contains("get new credentials"), "{expired}");
        assert!(scene.run("inspect s3://bucket/out", 2).contains("s3://bucket/out"));
    }
    assert!(scene.run(merge, 0).contains(" by an earlier run"));
    scene.check_same("out", "local");
}

/// No command is silent while it waits for a store: the first line says for which one, and why.
#[test]
fn a_wait_for_a_store_is_said() {
    let scene = Scene::new();
    (0..9).for_each(|_| scene.server.fail_next("GET ", ServerFault::Status(503, "SlowDown", 30)));
    let child = scene.command("inspect s3://bucket/team/run").stderr(Stdio::piped()).spawn().unwrap();
    check_first_line(
        child,
        "note: waiting for `s3://bucket`: the store responded with 503 and asks to wait; continuing in 30 s",
    );
}

/// Checks the first line that a command says on standard error, and ends the command.
#[track_caller]
pub(crate) fn check_first_line(mut child: std::process::Child, expected: &str) {
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    signal(&child, Signal::TERM);
    assert_eq!(line.trim_end(), expected);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_stop_while_a_store_is_busy_takes_a_moment() {
    let scene = Scene::new();
    (0..500).for_each(|_| scene.server.fail_next("GET ", ServerFault::Status(503, "SlowDown", 0)));
    scene.server.take_requests();
    let mut child = scene.command("merge s3://bucket/team/run --last 2 -o out").stderr(Stdio::piped()).spawn().unwrap();
    while scene.server.take_requests().is_empty() {
        std::thread::yield_now();
    }
    let began = Instant::now();
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5), "the store is retried for 20 s: {:?}", began.elapsed());
    let mut text = String::new();
    child.stderr.unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("cannot list `s3://bucket/team/run`: interrupted") || text.contains("interrupted"), "{text}");
}

/// A plan over 50 checkpoints of 30 shards asks for the beginning of each file once, many at a time.
#[test]
fn a_plan_over_many_shards_waits_for_many_requests_at_once() {
    const N_CHECKPOINTS: usize = 50;
    const N_SHARDS: usize = 30;
    let scene = Scene::new();
    for step in 1..=N_CHECKPOINTS {
        let mut index = serde_json::Map::new();
        for shard in 1..=N_SHARDS {
            let (tensor, name) = (format!("w{shard}"), format!("model-{shard:05}-of-{N_SHARDS:05}.safetensors"));
            let header = format!(r#"{{"{tensor}":{{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}}}"#);
            let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
            scene.server.put(&format!("large/step-{step}/{name}"), &bytes);
            index.insert(tensor, name.into());
        }
        let index = serde_json::json!({ "metadata": { "total_size": 4 * N_SHARDS }, "weight_map": index });
        scene.server.put(&format!("large/step-{step}/model.safetensors.index.json"), index.to_string().as_bytes());
    }
    scene.server.take_requests();
    scene.server.hold_until_at_once(16);
    scene.run(&format!("plan s3://bucket/large --last {N_CHECKPOINTS} -o plan.json"), 0);
    let requests = scene.server.take_requests();
    let n_lists = requests.iter().filter(|seen| seen.query.contains("list-type")).count();
    let n_objects = N_CHECKPOINTS * (N_SHARDS + 1);
    let most_at_once = scene.server.take_most_at_once();
    assert!(n_lists <= 4, "{n_lists} listings of {n_objects} names");
    assert!(requests.len() <= n_objects + 10, "{} requests for {n_objects} objects", requests.len());
    assert!(most_at_once >= 16, "{most_at_once} at once, the others waited for these");
}

#[test]
fn faults_of_a_store_are_told_with_what_helps() {
    let scene = Scene::new();
    let missing = scene.run("inspect s3://bucket/team/nothing", 2);
    assert!(missing.contains("s3://bucket/team/nothing"), "{missing}");
    let bucket = scene.run("inspect s3://other/run", 2);
    assert!(bucket.contains("NoSuchBucket") && bucket.contains("check the bucket"), "{bucket}");
    scene.server.fail_next("GET ", ServerFault::Status(400, "ExpiredToken", 0));
    let expired = scene.run("inspect s3://bucket/team/run", 2);
    assert!(expired.contains("get new credentials"), "{expired}");
    let secret = scene.run("inspect https://me:AKIATESTKEYOFTHALWEG@host/run", 2);
    assert!(secret.contains("a user name or a password"), "{secret}");
    let tail = "GET team/run/checkpoint-3000/model.safetensors";
    (0..2).for_each(|_| scene.server.fail_next(tail, ServerFault::Replaced(b"other".to_vec())));
    let replaced = scene.run("merge s3://bucket/team/run --last 2 -o out", 2);
    assert!(
        replaced.contains("changed while it was read") && replaced.contains("wait until no program is writing"),
        "{replaced}"
    );
    assert!(!scene.scratch.join("out").exists());
}

#[test]
fn files_over_http_are_read() {
    let scene = Scene::new();
    let url = format!("{}/bucket/team/run/checkpoint-3000/model.safetensors", scene.server.endpoint());
    let text = scene.run(&format!("inspect {url}"), 0);
    assert!(text.contains("safetensors"), "{text}");
    let refused = scene.run(&format!("merge run --last 2 -o {}/bucket/out", scene.server.endpoint()), 2);
    assert!(refused.contains("only read"), "{refused}");
}
