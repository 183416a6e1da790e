//! Shell commands that score: run with a limit of time, and ended whole, with every process that they started.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use thalweg_merge::context::RunContext;

use crate::error::Error;
use crate::options::Seconds;

/// Time that a command has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);
const LONGEST_NAP: Duration = Duration::from_millis(50);

/// Why a command was ended early.
enum Cut {
    TimeOver(Seconds),
    Interrupted,
}

/// Runs a shell command for a model at `path`. What it prints goes to standard error.
///
/// # Errors
/// `Usage` where it fails or takes longer than `limit`; `Interrupted`. Its whole process group was ended then.
pub(crate) fn run_shell(line: &str, path: &Path, limit: Option<Seconds>, cx: &RunContext<'_>) -> Result<(), Error> {
    let mut command = Command::new("sh");
    // What the command prints is for people; standard output is kept for our own result. A group for itself can be
    // ended as one: `sh` alone would leave the programs that it started.
    command.arg("-c").arg(line).stdin(Stdio::null()).stdout(std::io::stderr()).process_group(0);
    let no_shell = |error: std::io::Error| Error::usage(format!("the shell `sh` cannot be started: {error}"));
    let mut child = command.spawn().map_err(no_shell)?;
    match wait(&mut child, limit, cx).map_err(no_shell)? {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::usage_with_hint(
            format!("the command failed for `{}`: {status}", path.display()),
            "what it printed is above; run it on this checkpoint by hand, with paths for `{checkpoint}` and `{out}`",
        )),
        Err(Cut::Interrupted) => Err(thalweg_merge::Error::Interrupted.into()),
        Err(Cut::TimeOver(Seconds(seconds))) => Err(Error::usage_with_hint(
            format!("the command took longer than {seconds} s for `{}` and was stopped", path.display()),
            "give it more time with `--eval-timeout`",
        )),
    }
}

fn wait(child: &mut Child, limit: Option<Seconds>, cx: &RunContext<'_>) -> std::io::Result<Result<ExitStatus, Cut>> {
    let (began, mut nap) = (Instant::now(), Duration::from_millis(1));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ok(status));
        }
        let over = limit.filter(|Seconds(seconds)| began.elapsed().as_secs_f64() >= *seconds).map(Cut::TimeOver);
        let cut = over.or_else(|| cx.check_interrupt().is_err().then_some(Cut::Interrupted));
        if let Some(cut) = cut {
            end_group(child)?;
            return Ok(Err(cut));
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(LONGEST_NAP);
    }
}

/// Asks every process of a group to end, then ends it.
fn end_group(child: &mut Child) -> std::io::Result<()> {
    let group = Pid::from_child(child);
    // Either fails where the group has ended by itself.
    let _ = kill_process_group(group, Signal::TERM);
    let asked = Instant::now();
    // The shell stays unreaped until the end, so that no other group can get its number.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while asked.elapsed() < GRACE && matches!(waitid(WaitId::Pid(group), options), Ok(None)) {
        std::thread::sleep(LONGEST_NAP);
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().map(drop)
}
