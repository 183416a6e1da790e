//! Whole runs through the door: resumed, forked, averaged, broken on purpose.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]
#![expect(clippy::float_cmp, reason = "the same bits is what is asserted")]
#![expect(clippy::cast_possible_truncation, reason = "fixtures and event files have single precision")]

mod averages;
mod crash;
mod faults;
mod fork;
mod grid;
mod optimizer;
mod resume;
mod run_folder;
mod support;
