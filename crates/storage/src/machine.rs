//! What the system says about this process and machine: its memory, where it says so.

use std::fs;

fn field_kib(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// Largest resident memory of this process so far, in bytes.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    field_kib("/proc/self/status", "VmHWM")
}

/// Memory of the machine, in bytes.
pub(crate) fn physical_memory_bytes() -> Option<u64> {
    field_kib("/proc/meminfo", "MemTotal")
}
