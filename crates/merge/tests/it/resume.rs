//! Interrupted merges go on, to the same bytes; what does not belong to them is refused.

use std::path::Path;

use thalweg_merge::Error;
use thalweg_merge::engine::PartialStage;
use thalweg_merge::resume::stage_path;
use thalweg_storage::publish::Replace;

use crate::support::{Setting, Watch, execute, make_sources, merge, plan, read_tensors, write_tensors};

const N_ELEMENTS: u64 = 6_000_000;
const SOURCE_BYTES: u64 = 3 * 2 * (N_ELEMENTS + 7);

fn interrupt(sources: &[std::path::PathBuf], out: &Path, after: u64) {
    let watch = Watch { stop_after: Some(after), ..Watch::default() };
    let outcome = execute(&plan(sources, "sma", out), Setting::default(), &watch);
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    assert!(!out.exists(), "an interrupted merge leaves no output");
    assert!(stage_path(out).exists());
}

#[test]
fn an_interrupted_merge_goes_on_to_the_same_bytes_without_reading_again() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 3, N_ELEMENTS);
    let expected = merge(&plan(&sources, "sma", &scratch.path().join("expected")), Setting::default()).unwrap();
    let out = scratch.path().join("out");
    interrupt(&sources, &out, SOURCE_BYTES / 2);
    let watch = Watch::default();
    let outcomes = execute(&plan(&sources, "sma", &out), Setting::default(), &watch).unwrap();
    assert_eq!(read_tensors(&out), expected);
    assert!(!stage_path(&out).exists());
    let receipt = std::fs::read(scratch.path().join("expected/thalweg.json")).unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!(outcomes[0].receipt.digest.as_deref(), receipt["digest"].as_str());
    assert_eq!(outcomes[0].receipt.sources[2].digest.as_deref(), receipt["sources"][2]["digest"].as_str());
}

#[test]
fn a_damaged_stage_is_noticed_and_mended() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 3, N_ELEMENTS);
    let expected = merge(&plan(&sources, "sma", &scratch.path().join("expected")), Setting::default()).unwrap();
    let out = scratch.path().join("out");
    interrupt(&sources, &out, SOURCE_BYTES / 2);
    let shard = stage_path(&out).join("model.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    for at in (1000..bytes.len()).step_by(700_000) {
        bytes[at] ^= 0x40;
    }
    std::fs::write(&shard, bytes).unwrap();
    assert_eq!(merge(&plan(&sources, "sma", &out), Setting::default()).unwrap(), expected);
}

#[test]
fn a_torn_journal_is_read_as_far_as_it_is_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 3, N_ELEMENTS);
    let expected = merge(&plan(&sources, "sma", &scratch.path().join("expected")), Setting::default()).unwrap();
    for cut in [0, 5, 50, 100, 333, 1000] {
        let out = scratch.path().join(format!("out{cut}"));
        interrupt(&sources, &out, SOURCE_BYTES / 2);
        let journal = stage_path(&out).join("thalweg-journal");
        let bytes = std::fs::read(&journal).unwrap();
        std::fs::write(&journal, &bytes[..cut.min(bytes.len())]).unwrap();
        assert_eq!(merge(&plan(&sources, "sma", &out), Setting::default()).unwrap(), expected, "cut at {cut}");
    }
}

#[test]
fn a_stage_of_another_plan_or_of_changed_sources_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 3, N_ELEMENTS);
    let out = scratch.path().join("out");
    interrupt(&sources, &out, SOURCE_BYTES / 3);
    let other = merge(&plan(&sources, "wma", &out), Setting::default());
    assert!(matches!(other, Err(Error::ForeignStage { what: "another plan", .. })), "{other:?}");
    let small = crate::support::noise(77, 14);
    let large = crate::support::noise(78, 2 * usize::try_from(N_ELEMENTS).unwrap());
    write_tensors(
        &sources[1].join("model.safetensors"),
        &[
            ("model.large.weight", "BF16", vec![N_ELEMENTS], large),
            ("model.norm.weight", "BF16", vec![7], small),
            ("model.empty", "BF16", vec![0, 3], vec![]),
        ],
    );
    let changed = merge(&plan(&sources, "sma", &out), Setting::default());
    assert!(matches!(changed, Err(Error::ForeignStage { .. })), "{changed:?}");
    let discard = Setting { partial: PartialStage::Discard, ..Setting::default() };
    assert!(merge(&plan(&sources, "sma", &out), discard).is_ok());
}

#[test]
fn an_existing_output_is_recognised_refused_or_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 2, 5000);
    let out = scratch.path().join("new/parent/out");
    let sma = plan(&sources, "sma", &out);
    let expected = merge(&sma, Setting::default()).unwrap();
    let again = execute(&sma, Setting::default(), &Watch::default()).unwrap();
    assert!(again[0].was_done);
    let other = plan(&sources, "wma", &out);
    let refused = merge(&other, Setting::default());
    assert!(matches!(refused, Err(Error::OutputExists { is_receipt: true, .. })), "{refused:?}");
    assert_eq!(read_tensors(&out), expected, "a refusal touches nothing");
    let force = Setting { replace: Replace::Force, ..Setting::default() };
    assert_ne!(merge(&other, force).unwrap(), expected);
    let over_source = plan(&sources, "sma", &sources[0]);
    let refused = merge(&over_source, force);
    assert!(matches!(refused, Err(Error::OutputIsSource { .. })), "{refused:?}");
}
