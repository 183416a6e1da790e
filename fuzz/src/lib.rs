//! What must hold for any bytes: one function for each parser of untrusted input.
//!
//! Plain functions, so that whatever makes bytes can drive them: `tests/it` replays the kept corpus on any toolchain,
//! `libfuzzer` looks for new inputs. A function panics where a promise is broken; a refused input is not a fault.
#![expect(clippy::unwrap_used, reason = "a panic is how a target says no")]

mod arrays;
mod checkpoint_text;
mod dcp;
mod folder;
mod header;
mod logs;
mod merge_text;
mod torch;
mod trainers;
mod zip;

pub use trainers::open_folder;

use std::fmt;

use peak_alloc::PeakAlloc;

// Counts what a parser holds, for every binary that links this crate.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What any parser may hold, in bytes, whatever its input.
const ALLOWED_BYTES: usize = 2 << 20;
/// What a parser and the checks on its result may hold for each byte of input. A JSON value takes 72 bytes for two
/// bytes of text, and up to four such values are held at once.
const ALLOWED_BYTES_PER_BYTE: usize = 400;

/// A parser and what must hold for it.
pub struct Target {
    /// Name: also of the folder of its inputs in `corpus`.
    pub name: &'static str,
    act: fn(&[u8]),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Target {
    /// Checks one input.
    ///
    /// # Panics
    /// If a promise of the parser is broken, or if it holds more memory than its input can ask for. Memory is counted
    /// for the whole process, so no other thread should be busy.
    pub fn check(&self, bytes: &[u8]) {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        (self.act)(bytes);
        let held = ALLOCATOR.peak_usage().saturating_sub(before);
        let allowed = ALLOWED_BYTES + ALLOWED_BYTES_PER_BYTE * bytes.len();
        assert!(held <= allowed, "{}: {held} bytes held for an input of {}", self.name, bytes.len());
    }
}

/// Every target.
pub const TARGETS: [Target; 22] = [
    Target { name: "safetensors_header", act: header::check_header },
    Target { name: "pickle", act: torch::check_pickle },
    Target { name: "torch_file", act: torch::check_file },
    Target { name: "zip_directory", act: zip::check_directory },
    Target { name: "torch_folder", act: trainers::check_torch_folder },
    Target { name: "dcp_metadata", act: dcp::check_metadata },
    Target { name: "dcp_folder", act: trainers::check_dcp_folder },
    Target { name: "megatron", act: trainers::check_megatron },
    Target { name: "deepspeed", act: trainers::check_deepspeed },
    Target { name: "nanotron", act: trainers::check_nanotron },
    Target { name: "torch_checkpointing", act: trainers::check_torch_checkpointing },
    Target { name: "npz_file", act: arrays::check_npz },
    Target { name: "gguf_file", act: arrays::check_gguf },
    Target { name: "orbax_folder", act: arrays::check_orbax },
    Target { name: "shard_index", act: checkpoint_text::check_index },
    Target { name: "config", act: checkpoint_text::check_config },
    Target { name: "recipe_toml", act: merge_text::check_recipe_toml },
    Target { name: "recipe_yaml", act: merge_text::check_recipe_yaml },
    Target { name: "receipt", act: merge_text::check_receipt_and_plan },
    Target { name: "event_file", act: logs::check_event_file },
    Target { name: "step_log", act: logs::check_step_log },
    Target { name: "tracker_database", act: logs::check_tracker_database },
];

/// The target of this name.
pub fn find_target(name: &str) -> Option<&'static Target> {
    static ALL: &[Target] = &TARGETS;
    ALL.iter().find(|target| target.name == name)
}

/// What a person reads must be printable: text of the input must not reach a terminal as control characters.
fn check_message(error: &impl fmt::Display) {
    let message = error.to_string();
    let odd = message.chars().find(|c| c.is_control() && *c != '\n');
    assert!(odd.is_none(), "{odd:?} in {message:?}");
    assert!(!message.is_empty());
}
