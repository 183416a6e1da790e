//! What the system says about this process and machine, where it says so.

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

/// Whether this process ignores the end of its terminal, as `nohup` has it do.
pub(crate) fn ignores_hangup() -> Option<bool> {
    const HANGUP: u32 = 1;
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let mask = text.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (HANGUP - 1) & 1 == 1)
}
