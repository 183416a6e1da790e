//! Power fails, or the disk is full, at any act of a run: what is published is whole, and the run resumes and produces
//! the same bytes.

use std::path::Path;

use thalweg_checkpoint::open_checkpoint;
use thalweg_testkit::crash_disk::{Aftermath, CrashDisk, Mishap};
use thalweg_trajectory::layout::parse_folder_name;

use crate::support::{TINY, World};

/// Four steps, two checkpoints, both kinds of average.
fn config() -> String {
    let averages = r#"
[[average]]
name = "window"
scheme = "sma"
count = 2
[[average]]
name = "running"
scheme = "ema:0.5"
every_steps = 1
"#;
    let text = TINY.replace("steps = 12", "steps = 4").replace("every_steps = 3", "every_steps = 2");
    let text = text.replace("anneal_steps = 4", "anneal_steps = 1").replace("keep_states = 0", "keep_states = 1");
    text + averages
}

fn disk_with_corpus() -> CrashDisk {
    let disk = CrashDisk::new();
    World::on(disk.storage());
    disk.settle();
    disk
}

/// Every checkpoint of the run opens; what names say is there is there.
fn assert_published_is_whole(world: &World) {
    for folder in ["run", "run/state", "run/averages/window", "run/averages/running"] {
        let Ok(entries) = world.storage.list_folder(&Path::new("/disk").join(folder)) else { continue };
        for entry in entries.iter().filter(|entry| parse_folder_name(&entry.name).is_some()) {
            let path = Path::new("/disk").join(folder).join(&entry.name);
            open_checkpoint(&world.storage, &path).unwrap();
        }
    }
}

#[test]
fn a_run_that_lost_power_at_any_act_goes_on_to_the_same_bytes() {
    let text = config();
    let clean = disk_with_corpus();
    let before = clean.copy();
    let expected = World::resume_on(clean.storage());
    expected.train(&text, "run");
    let n_acts = clean.n_acts() - before.n_acts();
    assert!(n_acts > 60, "{n_acts}");
    let expected = expected.files("run");
    // Every third act, each with another aftermath: all of them take minutes.
    for (at, aftermath) in (1..=n_acts).step_by(3).zip(
        [Aftermath::OnlySynced, Aftermath::NamesFirst, Aftermath::Everything, Aftermath::Reordered(7)].iter().cycle(),
    ) {
        let disk = before.copy();
        disk.plan_mishap(at, if at % 2 == 0 { Mishap::PowerFails } else { Mishap::PowerFailsTorn });
        let _ = World::resume_on(disk.storage()).train_until(&text, "run", 0);
        let world = World::resume_on(disk.after_crash(*aftermath).storage());
        assert_published_is_whole(&world);
        world.train(&text, "run");
        assert!(world.files("run") == expected, "act {at} of {n_acts}, {aftermath:?}");
    }
}

#[test]
fn a_full_disk_is_said_and_room_lets_the_run_go_on() {
    let text = config();
    let clean = disk_with_corpus();
    let before = clean.copy();
    let expected = World::resume_on(clean.storage());
    expected.train(&text, "run");
    let n_acts = clean.n_acts() - before.n_acts();
    let mut n_refused = 0;
    for at in (2..=n_acts).step_by(7) {
        let disk = before.copy();
        disk.plan_mishap(at, Mishap::DiskFull);
        let world = World::resume_on(disk.storage());
        if let Err(error) = world.train_until(&text, "run", 0) {
            n_refused += 1;
            assert!(error.to_string().starts_with("cannot "), "{error}");
            assert_published_is_whole(&world);
            world.train(&text, "run");
        }
        assert!(world.files("run") == expected.files("run"), "act {at} of {n_acts}");
    }
    assert!(n_refused > 5, "{n_refused}");
}
