//! Standard output. If it is closed or cannot be written, that is an error: the user would miss the answer.
//!
//! The standard library opens `/dev/null` instead of a closed descriptor, so a closed standard output looks like one
//! that the user redirected to `/dev/null`. Only before `main` can the two be distinguished.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

ctor::declarative::ctor! {
    // One system call and one store: neither needs the standard library to be set up.
    #[ctor(unsafe)]
    fn look_at_stdout() {
        WAS_CLOSED.store(rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err(), Ordering::Relaxed);
    }
}

/// Writes to standard output. A reader that went away (`| head`) is reported as a broken pipe.
pub(crate) fn write_stdout(text: &str) -> std::io::Result<()> {
    if WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(std::io::Error::other("it is closed"));
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
