//! Standard output, which must be there and take what is written: an answer that nobody gets is an error.
//!
//! The standard library opens `/dev/null` in the place of a descriptor that is closed, so that a closed standard output
//! looks like one that was thrown away on purpose. Only before `main` can the two be told apart.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

ctor::declarative::ctor! {
    // One system call and one store: nothing here needs what the standard library sets up.
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
