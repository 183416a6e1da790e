//! Kills at any moment: no output, or the whole one; and the same command resumes and produces the same bytes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::program;

/// Enough that a merge takes a while in a debug build.
const N_ELEMENTS: usize = 4 << 20;
const N_SOURCES: usize = 6;

fn write_source(path: &Path, seed: usize) {
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{N_ELEMENTS}],"data_offsets":[0,{}]}}}}"#, 4 * N_ELEMENTS);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    let value = |i: usize| ((i * 31 + seed * 7919) % 1009) as f32 * 0.001 - 0.5;
    bytes.extend((0..N_ELEMENTS).flat_map(|i| value(i).to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

fn make_run(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    std::fs::create_dir(&run).unwrap();
    for i in 0..N_SOURCES {
        write_source(&run.join(format!("step_{}.safetensors", 100 * (i + 1))), i);
    }
    run
}

fn merge(run: &Path, out: &Path) -> Command {
    let mut command = program();
    command.args(["merge", "-q", "--last", "6", "--scheme", "wma", "-j", "2"]).arg(run).arg("-o").arg(out);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits until the stage's journal has grown to `n_bytes`, so that a kill comes at a known place on any machine.
pub(crate) fn wait_for_journal(child: &mut Child, out: &Path, n_bytes: u64) {
    let mut stage = out.as_os_str().to_owned();
    stage.push(".thalweg-partial/thalweg-journal");
    loop {
        let length = std::fs::metadata(&stage).map_or(0, |metadata| metadata.len());
        if length >= n_bytes || child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::yield_now();
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // The child may have ended on its own just now.
    let _ = kill_process(pid, signal);
}

#[test]
fn a_merge_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one() {
    let scratch = tempfile::tempdir().unwrap();
    let run = make_run(scratch.path());
    let expected = scratch.path().join("expected");
    assert!(merge(&run, &expected).status().unwrap().success());
    let expected = std::fs::read(expected.join("model.safetensors")).unwrap();
    let out = scratch.path().join("out");
    for n_bytes in [1, 500, 1500, 2500, 3500] {
        let mut child = merge(&run, &out).spawn().unwrap();
        wait_for_journal(&mut child, &out, n_bytes);
        signal(&child, Signal::KILL);
        let status = child.wait().unwrap();
        let is_whole = out.exists() && std::fs::read(out.join("model.safetensors")).unwrap() == expected;
        assert!(!out.exists() || is_whole, "a killed merge leaves nothing or everything ({status})");
    }
    // A machine so fast that it was done already has nothing to resume.
    let resumes = !out.exists();
    let last = merge(&run, &out).stdout(Stdio::piped()).output().unwrap();
    assert!(last.status.success());
    let said = String::from_utf8_lossy(&last.stdout);
    assert!(!resumes || said.contains(" by an earlier run, wrote "), "{said}");
    assert!(std::fs::read(out.join("model.safetensors")).unwrap() == expected, "the same bytes");
    assert!(!scratch.path().join("out.thalweg-partial").exists());
}

#[test]
fn ctrl_c_ends_with_130_and_leaves_no_output() {
    let scratch = tempfile::tempdir().unwrap();
    let run = make_run(scratch.path());
    let out = scratch.path().join("out");
    let mut child = merge(&run, &out).spawn().unwrap();
    wait_for_journal(&mut child, &out, 300);
    signal(&child, Signal::INT);
    let status = child.wait().unwrap();
    // A machine so fast that it was done already has nothing to interrupt.
    if !out.exists() {
        assert_eq!(status.code(), Some(130));
        assert!(scratch.path().join("out.thalweg-partial").exists(), "the stage stays and is named");
    }
    assert!(merge(&run, &out).status().unwrap().success());
}
