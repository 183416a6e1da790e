//! The clock and the counters of a process, as a face hands them to everything below.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::machine;

/// Clock and counters of the process, handed in so that nothing below the faces asks the system.
pub trait Host: Sync {
    /// Seconds since some fixed moment; never goes back.
    fn elapsed_seconds(&self) -> f64;
    /// Seconds since 1970-01-01 UTC.
    fn unix_seconds(&self) -> u64;
    /// Largest resident memory so far, where the system tells.
    fn peak_memory_bytes(&self) -> Option<u64>;
    /// Memory of the machine, where the system tells.
    fn physical_memory_bytes(&self) -> Option<u64>;
}

/// The host that this process really runs on. Only faces make one.
#[derive(Debug, Clone, Copy)]
pub struct ProcessHost {
    started: Instant,
}

impl ProcessHost {
    /// A host whose clock starts at 0 now.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Whether the process was started so that it survives the end of its terminal, as by `nohup`; `None` where the
    /// system does not tell.
    pub fn ignores_hangup(&self) -> Option<bool> {
        machine::ignores_hangup()
    }
}

impl Host for ProcessHost {
    fn elapsed_seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        machine::peak_memory_bytes()
    }

    fn physical_memory_bytes(&self) -> Option<u64> {
        machine::physical_memory_bytes()
    }
}

/// Who is told how far an upload is. Called from many threads.
pub trait UploadWatcher: Sync {
    /// An upload of `total_bytes` bytes begins, of which an earlier one sent `bytes_sent`.
    fn begin_upload(&self, total_bytes: u64, bytes_sent: u64);
    /// So many bytes more are sent.
    fn advance_upload(&self, n_bytes: u64);
}

impl UploadWatcher for Unwatched {
    fn begin_upload(&self, _total_bytes: u64, _bytes_sent: u64) {}

    fn advance_upload(&self, _n_bytes: u64) {}
}

/// Nothing is shown or measured: a stopped clock, unknown memory, progress that is discarded.
///
/// For callers without a terminal. Receipts then say 0 seconds, so equal acts leave equal bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Host for Unwatched {
    fn elapsed_seconds(&self) -> f64 {
        0.0
    }

    fn unix_seconds(&self) -> u64 {
        0
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        None
    }

    fn physical_memory_bytes(&self) -> Option<u64> {
        None
    }
}
