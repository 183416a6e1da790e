//! What the system says about this process and machine: memory and I/O counters, where it says so.

use std::fs;

fn field_kib(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// Largest resident memory of this process so far, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    field_kib("/proc/self/status", "VmHWM")
}

/// Memory of the machine, in bytes.
pub fn physical_memory_bytes() -> Option<u64> {
    field_kib("/proc/meminfo", "MemTotal")
}

/// Bytes that this process asked the system to read and to write so far, cached or not.
pub fn io_counters() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok();
    Some((field("rchar:")?, field("wchar:")?))
}
