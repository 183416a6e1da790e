//! Runs that are revisions of a repository of a hub: fetched whole or not at all, only what a merge reads, and merged
//! into the bytes of a local run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use thalweg_testkit::{HubServer, HubServerFault, RunLayout, Scratch, TinyRun};

use crate::stores::check_first_line;
use crate::support::program;

const TOKEN: &str = "hf_TokenOfThalwegTests";
const REPOSITORY: &str = "org/small";

/// A local run, the same run at a hub, and an empty cache.
struct Scene {
    scratch: Scratch,
    hub: HubServer,
}

impl Scene {
    fn new() -> Self {
        let scratch = Scratch::new();
        TinyRun::new(RunLayout::Step, &[1000, 2000, 3000, 4000]).write_to_disk(&scratch.join("run"));
        let hub = HubServer::start();
        for step in [1000, 2000, 3000, 4000] {
            let folder = scratch.join(format!("run/step{step}"));
            for (name, content) in [
                ("README.md", "# a card"),
                ("pytorch_model.bin", "PK"),
                ("optimizer.pt", "PK"),
                ("modeling_x.py", "pass"),
            ] {
                fs::write(folder.join(name), content).unwrap();
            }
            hub.put_folder(REPOSITORY, &format!("step{step}"), &folder);
        }
        hub.put(REPOSITORY, "main", BTreeMap::from([("README.md".to_owned(), b"# a card".to_vec())]));
        Self { scratch, hub }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = program();
        command.current_dir(self.scratch.path()).args(line.split(' '));
        command.env("HF_HUB_CACHE", self.scratch.join("cache")).env("HF_ENDPOINT", self.hub.endpoint());
        command.env_remove("HF_TOKEN").env("THALWEG_RETRY_SECONDS", "20");
        command
    }

    #[track_caller]
    fn check(&self, output: &Output, code: i32) -> String {
        let text = String::from_utf8_lossy(&[&*output.stdout, &output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(!text.contains(TOKEN) && !text.contains("X-Signature"), "{text}");
        text
    }

    #[track_caller]
    fn run(&self, line: &str, code: i32) -> String {
        self.check(&self.command(line).output().unwrap(), code)
    }

    /// A run that gives up at the first failure.
    #[track_caller]
    fn run_once(&self, line: &str, code: i32) -> String {
        self.check(&self.command(line).env("THALWEG_RETRY_SECONDS", "0").output().unwrap(), code)
    }

    fn repository(&self) -> PathBuf {
        self.scratch.join("cache/models--org--small")
    }

    fn names_in(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.repository().join(folder)) else { return Vec::new() };
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn merged(&self, folder: &str) -> Vec<u8> {
        fs::read(self.scratch.join(folder).join("model.safetensors")).unwrap()
    }
}

#[test]
fn fetched_revisions_merge_into_the_bytes_of_a_local_run() {
    let scene = Scene::new();
    let said = scene.run("fetch org/small --revisions step* --last 3", 0);
    assert!(said.contains("fetched 3 revisions of `org/small`"), "{said}");
    assert!(said.contains("next: `thalweg merge org/small --last 3 -o merged`"), "{said}");
    scene.run("merge org/small --last 3 -o merged", 0);
    scene.run("merge run --steps 2000,3000,4000 -o local", 0);
    assert!(scene.merged("merged") == scene.merged("local"));
    // The layout of huggingface_hub: refs with commits, links to blobs, and only what a merge reads.
    assert_eq!(scene.names_in("refs"), ["step2000", "step3000", "step4000"]);
    let commit = fs::read_to_string(scene.repository().join("refs/step4000")).unwrap();
    assert_eq!(commit.len(), 40);
    let names = scene.names_in(&format!("snapshots/{commit}"));
    assert!(names.contains(&"model.safetensors".to_owned()) && names.contains(&"config.json".to_owned()), "{names:?}");
    for other in ["README.md", "pytorch_model.bin", "optimizer.pt", "modeling_x.py"] {
        assert!(!names.contains(&other.to_owned()), "{names:?}");
    }
    let link = fs::read_link(scene.repository().join(format!("snapshots/{commit}/model.safetensors"))).unwrap();
    assert!(link.starts_with("../../blobs") && link.file_name().unwrap().len() == 64, "{link:?}");
    assert!(scene.names_in("blobs").iter().all(|name| [40, 64].contains(&name.len())), "{:?}", scene.names_in("blobs"));
    // Everything is there: nothing is fetched again.
    scene.hub.take_requests();
    let again = scene.run("fetch org/small --revisions step* --last 3", 0);
    assert!(again.contains("in the cache already"), "{again}");
    assert!(scene.hub.take_requests().iter().all(|head| head.starts_with("GET /api/")));
    let code = scene.run("fetch org/small@step4000 --code", 0);
    assert!(code.contains("next: `thalweg inspect org/small@step4000`"), "{code}");
    assert!(scene.names_in(&format!("snapshots/{commit}")).contains(&"modeling_x.py".to_owned()));
}

#[test]
fn every_command_takes_what_the_cache_holds() {
    let scene = Scene::new();
    scene.run("fetch org/small --every 1", 0);
    let run = scene.run("inspect org/small", 0);
    assert!(run.contains("a run of 4 checkpoints, 4 finished"), "{run}");
    scene.run("inspect org/small@step1000", 0);
    let plan = scene.run("plan org/small --last 2", 0);
    assert!(plan.contains("3000") && plan.contains("4000"), "{plan}");
    scene.run("sweep org/small --counts 2,3 -o sweep", 0);
    scene.run("explain org/small --last 3", 0);
    scene.run("merge -m org/small@step1000:1.5 -m org/small@step2000:-0.5 -o out", 0);
}

#[test]
fn a_revision_that_is_not_in_the_cache_is_an_error_with_the_command_that_fetches_it() {
    let scene = Scene::new();
    let none = scene.run("merge org/small --last 3 -o out", 2);
    assert!(none.contains("`thalweg fetch org/small --last 10`"), "{none}");
    let one = scene.run("inspect org/small@step1000", 2);
    assert!(one.contains("`thalweg fetch org/small --revisions step1000`"), "{one}");
    scene.run("fetch org/small --revisions step1000", 0);
    scene.run("inspect org/small@step1000", 0);
    let few = scene.run("merge org/small --last 3 -o out", 2);
    assert!(few.contains("fetch the others with `thalweg fetch org/small --last 3`"), "{few}");
    assert!(!few.contains("choose at most"), "{few}");
    let steps = scene.run("merge org/small --steps 1000,3000 -o out", 2);
    assert!(steps.contains("`thalweg fetch org/small --steps 1000,3000`"), "{steps}");
    let other = scene.run("inspect org/small@step2000", 2);
    assert!(other.contains("`thalweg fetch org/small --revisions step2000`"), "{other}");
}

#[test]
fn a_dry_run_says_what_would_be_fetched_and_fetches_nothing() {
    let scene = Scene::new();
    let said = scene.run("fetch org/small --revisions step* --last 2 --dry-run", 0);
    assert!(said.contains("2 revisions of `org/small`") && said.contains("step3000"), "{said}");
    assert!(!scene.repository().exists());
    let output = scene.command("fetch org/small --last 2 --dry-run --json").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["kind"], &document["n_refs"]), (&"thalweg-fetch".into(), &5.into()));
    assert_eq!(document["revisions"][1]["step"], 4000);
    assert_eq!(document["bytes"], document["missing_bytes"]);
    assert_eq!(document["fetched_bytes"], Value::Null);
    let output = scene.command("fetch org/small --last 2 --json").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["bytes"], document["fetched_bytes"]);
    assert_eq!(document["next"], "thalweg merge org/small --last 2 -o merged");
    let again = scene.run("fetch org/small --last 2 --dry-run", 0);
    assert!(again.contains("all of them in the cache"), "{again}");
}

#[test]
fn revisions_are_chosen_by_pattern_and_by_step() {
    let scene = Scene::new();
    scene.hub.use_pages_of(2);
    let steps = |line: &str| -> Vec<u64> {
        let output = scene.command(&format!("fetch {line} --dry-run --json")).output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        document["revisions"].as_array().unwrap().iter().map(|one| one["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("org/small --revisions step*000 --every 2"), [2000, 4000]);
    assert_eq!(steps("org/small --steps 3000,1000"), [1000, 3000]);
    assert_eq!(steps("org/small --count 2 --interval-steps 2000 --end-step 3000"), [1000, 3000]);
    assert_eq!(steps("org/small --revisions step2000 --revisions step1000"), [1000, 2000]);
    assert_eq!(steps("org/small --last 1 --checkpoint-pattern *{step}"), [4000]);
    for (line, facts) in [
        ("org/small", &["which revisions of `org/small`?", "--last 10"][..]),
        ("org/small --revisions ckpt*", &["no revision of `org/small` is called `ckpt*`", "`step1000`"]),
        (
            "org/small --revisions main --last 2",
            &["has a step in its name", "--revisions main", "--checkpoint-pattern"],
        ),
        ("org/small --last 9", &["4 checkpoints"]),
        ("org/small --revisions main", &["org/small@main", "README.md"]),
        ("../small --last 1", &["not a name of a repository"]),
    ] {
        let said = scene.run(&format!("fetch {line}"), 2);
        facts.iter().for_each(|fact| assert!(said.contains(fact), "{line}: {said}"));
    }
    // A tag of another stage in the cache: the printed command names the steps.
    scene.hub.put_folder(REPOSITORY, "stage2-step500", &scene.scratch.join("run/step1000"));
    let mixed = scene.run("fetch org/small --last 2", 2);
    assert!(mixed.contains("--checkpoint-pattern"), "{mixed}");
    scene.run("fetch org/small --revisions stage2*", 0);
    let said = scene.run("fetch org/small --revisions step* --last 2", 0);
    let next = said.split("next: `thalweg ").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
    assert!(next.starts_with("merge org/small --steps 3000,4000"), "{next}");
    scene.run(next, 0);
}

#[test]
fn a_download_that_breaks_off_resumes_where_it_stopped() {
    let scene = Scene::new();
    // Within one command.
    scene.hub.fail_next("/content/", HubServerFault::CutBody(300));
    scene.run("fetch org/small --revisions step1000", 0);
    let ranges = |scene: &Scene| -> Vec<String> {
        let heads = scene.hub.take_requests().into_iter();
        let range =
            |head: String| head.lines().find(|line| line.to_lowercase().starts_with("range:")).map(str::to_owned);
        heads.filter_map(range).map(|line| line.to_lowercase()).collect()
    };
    let asked = ranges(&scene);
    assert!(asked.contains(&"range: bytes=300-".to_owned()), "{asked:?}");
    // In the next one.
    scene.hub.fail_next("/content/", HubServerFault::CutBody(200));
    let broken = scene.run_once("fetch org/small --revisions step2000", 2);
    assert!(broken.contains("model.safetensors") && broken.contains("what was fetched is kept"), "{broken}");
    assert_eq!(scene.names_in("refs"), ["step1000"]);
    let partial = scene.names_in("blobs").into_iter().find(|name| name.ends_with(".incomplete")).unwrap();
    scene.hub.take_requests();
    scene.run("fetch org/small --revisions step2000", 0);
    assert_eq!(ranges(&scene), ["range: bytes=200-"; 2]);
    // A server without ranges, and a part that is not of this file.
    for (step, fault) in [(3000, Some(HubServerFault::NoRange)), (4000, None)] {
        scene.hub.fail_next("/content/", HubServerFault::CutBody(200));
        scene.run_once(&format!("fetch org/small --revisions step{step}"), 2);
        let partial = scene.names_in("blobs").into_iter().find(|name| name.ends_with(".incomplete")).unwrap();
        match fault {
            Some(fault) => scene.hub.fail_next("/content/", fault),
            None => fs::write(scene.repository().join("blobs").join(partial), [7; 200]).unwrap(),
        }
        scene.run(&format!("fetch org/small --revisions step{step}"), 0);
    }
    assert!(!scene.names_in("blobs").contains(&partial));
    scene.run("merge org/small --last 4 -o merged", 0);
    scene.run("merge run --last 4 -o local", 0);
    assert!(scene.merged("merged") == scene.merged("local"));
}

#[test]
fn a_busy_hub_is_asked_again() {
    let scene = Scene::new();
    scene.hub.fail_next("/refs", HubServerFault::Status(503, "Retry-After: 0"));
    scene.hub.fail_next("/tree/", HubServerFault::Status(429, "RateLimit: \"api\";r=0;t=0"));
    scene.hub.fail_next("/content/", HubServerFault::Status(500, "X-None: 1"));
    scene.run("fetch org/small --revisions step1000", 0);
    scene.hub.fail_next("/refs", HubServerFault::Status(429, "Retry-After: 300"));
    let busy = scene.run("fetch org/small --revisions step1000", 2);
    assert!(busy.contains("limits the rate of requests (429), and asks to wait 300 s"), "{busy}");
}

#[test]
fn a_wait_for_a_hub_is_said() {
    let scene = Scene::new();
    scene.hub.fail_next("/refs", HubServerFault::Status(503, "Retry-After: 5"));
    let child = scene.command("fetch org/small --revisions step1000").stderr(Stdio::piped()).spawn().unwrap();
    let hub = scene.hub.endpoint();
    let expected = format!("note: waiting for the hub at `{hub}`: the hub responded with 503; retrying for up to 20 s");
    check_first_line(child, &expected);
}

#[test]
fn what_a_hostile_hub_answers_is_refused_and_not_kept() {
    let scene = Scene::new();
    let line = "fetch org/small --revisions step1000";
    let tree = |path: &str| {
        let entry = serde_json::json!({"type": "file", "path": path, "size": 3, "oid": "a".repeat(40)});
        HubServerFault::Body(serde_json::json!([entry]).to_string().into_bytes())
    };
    let endless = format!("{}/org/small/resolve/again", scene.hub.endpoint());
    let length = fs::metadata(scene.scratch.join("run/step1000/model.safetensors")).unwrap().len();
    let mut cases: Vec<(&str, HubServerFault, &str)> = vec![
        ("/tree/", tree("../../../.bashrc"), "would be outside the cache"),
        ("/tree/", tree("/etc/passwd"), "would be outside the cache"),
        ("/tree/", HubServerFault::Body(b"<html>".to_vec()), "response is malformed"),
        (
            "/tree/",
            HubServerFault::Header("Link: <http://127.0.0.1:1/x>; rel=\"next\""),
            "the next page is at another server",
        ),
        (
            "/refs",
            HubServerFault::Body(br#"{"branches":[{"name":"../x","targetCommit":"a"}]}"#.to_vec()),
            "cannot be the name",
        ),
        ("model.safetensors", HubServerFault::Redirect("file:///etc/passwd".to_owned()), "is not on the web"),
        (
            "model.safetensors",
            HubServerFault::Header("X-Repo-Commit: 0000000000000000000000000000000000000000"),
            "another commit",
        ),
        ("model.safetensors", HubServerFault::Header("X-Linked-Etag: \"00\""), "other content than it lists"),
        ("/content/", HubServerFault::Body(vec![7; usize::try_from(length).unwrap()]), "differs from the digest"),
        ("/content/", HubServerFault::Body(vec![7; usize::try_from(length).unwrap() + 1]), "is longer than"),
        ("config.json", HubServerFault::Body(b"{}".to_vec()), "the answer ends after 2 of"),
    ];
    cases.extend((0..10).map(|_| ("again", HubServerFault::Redirect(endless.clone()), "")));
    cases.push(("model.safetensors", HubServerFault::Redirect(endless.clone()), "redirects more than 8 times"));
    for (what, fault, fact) in cases {
        scene.hub.fail_next(what, fault);
        if fact.is_empty() {
            continue;
        }
        let said = scene.run_once(line, 2);
        assert!(said.contains(fact), "{what}: {said}");
        assert!(scene.names_in("refs").is_empty() && scene.names_in("snapshots").is_empty(), "{what}");
        let _ = fs::remove_dir_all(scene.scratch.join("cache"));
    }
    assert!(!scene.scratch.join(".bashrc").exists());
}

#[test]
fn what_the_disk_cannot_hold_is_refused_before_anything_is_fetched() {
    let scene = Scene::new();
    let (size, digest) = (1_u64 << 55, "a".repeat(64));
    let lfs = serde_json::json!({"oid": digest, "size": size, "pointerSize": 130});
    let entry = serde_json::json!({"type": "file", "path": "model.safetensors", "size": size, "oid": "a".repeat(40), "lfs": lfs});
    scene.hub.fail_next("/tree/", HubServerFault::Body(serde_json::json!([entry]).to_string().into_bytes()));
    let full = scene.run("fetch org/small --revisions step1000", 2);
    assert!(full.contains("is free there") && full.contains("HF_HUB_CACHE"), "{full}");
    assert!(scene.names_in("blobs").is_empty());
}

#[test]
fn a_repository_that_does_not_exist_is_asked_for_once() {
    let scene = Scene::new();
    scene.hub.take_requests();
    let said = scene.run("fetch hff --json", 2);
    assert!(said.contains("no repository `hff`") && said.contains("`ORG/NAME`"), "{said}");
    assert!(said.contains("\"kind\":\"thalweg-error\"") && said.contains("\"reason\":\"Hub\""), "{said}");
    assert_eq!(scene.hub.take_requests().len(), 1);
}

#[test]
fn a_token_goes_to_the_hub_alone_and_is_never_shown() {
    let scene = Scene::new();
    scene.hub.require_token(TOKEN);
    let line = "fetch org/small --revisions step1000";
    let none = scene.run(line, 2);
    assert!(
        none.contains("no repository `org/small`, or it is private, and no token is set") && none.contains("HF_TOKEN"),
        "{none}"
    );
    let wrong = scene.command(line).env("HF_TOKEN", "hf_wrong").output().unwrap();
    let wrong = scene.check(&wrong, 2);
    assert!(wrong.contains("does not accept the token") && !wrong.contains("hf_wrong"), "{wrong}");
    let odd = scene.command(line).env("HF_TOKEN", "hf wrong").output().unwrap();
    assert!(scene.check(&odd, 2).contains("holds an invalid character"));
    scene.hub.take_requests();
    // By the file that `hf auth login` writes, or by the variable.
    fs::create_dir(scene.scratch.join("home")).unwrap();
    fs::write(scene.scratch.join("home/token"), format!("{TOKEN}\n")).unwrap();
    let by_file = scene.command(&format!("{line} -v")).env("HF_HOME", scene.scratch.join("home")).output().unwrap();
    scene.check(&by_file, 0);
    let by_variable = scene.command("fetch org/small --last 2 --json").env("HF_TOKEN", TOKEN).output().unwrap();
    scene.check(&by_variable, 0);
    let heads = scene.hub.take_requests();
    let content = |head: &&String| head.contains(&scene.hub.content_host());
    assert!(heads.iter().filter(content).count() > 0);
    for head in &heads {
        assert_eq!(head.contains(TOKEN), !content(&head), "{head}");
    }
    assert_no_token(scene.scratch.join("cache").as_path());
    // Terms that were not accepted.
    scene.hub.gate();
    let gated = scene.command(line).env("HF_TOKEN", TOKEN).output().unwrap();
    let gated = scene.check(&gated, 2);
    assert!(
        gated.contains("is gated") && gated.contains("/org/small") && gated.contains("accept the terms"),
        "{gated}"
    );
}

fn assert_no_token(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => assert_no_token(&path),
            false => assert!(!fs::read(&path).unwrap().windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes())),
        }
    }
}

#[test]
fn a_hub_that_cannot_be_reached_or_refuses_is_told_in_words() {
    let scene = Scene::new();
    for (fault, fact) in [
        (HubServerFault::Status(403, "X-None: 1"), "refuses access (403)"),
        (HubServerFault::Status(404, "X-Error-Code: RepoNotFound"), "no repository `org/small`"),
        (HubServerFault::Status(418, "X-None: 1"), "responded with 418"),
    ] {
        scene.hub.fail_next("/refs", fault);
        let said = scene.run("fetch org/small --last 1", 2);
        assert!(said.contains(fact), "{said}");
    }
    scene.hub.fail_next("/content/", HubServerFault::Status(404, "X-None: 1"));
    let said = scene.run("fetch org/small --last 1", 2);
    assert!(said.contains("the server with the content responded with 404"), "{said}");
    let with = |name: &str, value: &str| {
        let output =
            scene.command("fetch org/small --last 1").env(name, value).env("THALWEG_RETRY_SECONDS", "0").output();
        scene.check(&output.unwrap(), 2)
    };
    assert!(with("HF_ENDPOINT", "http://127.0.0.1:1").contains("connection refused"));
    assert!(with("HF_ENDPOINT", "hub").contains("not an address"));
    assert!(with("HF_ENDPOINT", "https://me:secret@hub.example").contains("holds a user name"));
    assert!(with("HF_HUB_OFFLINE", "1").contains("`HF_HUB_OFFLINE` is set"));
}
