//! Which checkpoints a request chooses, and what is said where it cannot be met.

use thalweg_trajectory::{Error, Extent, StableRange, Step, Tokens, Window, WindowEnd, WindowNote, WindowSpec};

use crate::support::TestRun;

const NEWEST: WindowEnd = WindowEnd::Newest;

fn steps_of(window: &Window) -> Vec<u64> {
    window.checkpoints().iter().map(|checkpoint| checkpoint.step.0).collect()
}

fn check(run: &TestRun, spec: WindowSpec, steps: &[u64]) -> Window {
    let window = run.select(&spec).unwrap_or_else(|error| panic!("{spec:?}: {error} {:?}", error.details()));
    assert_eq!(steps_of(&window), steps, "{spec:?}");
    window
}

fn refuse(run: &TestRun, spec: WindowSpec) -> Error {
    match run.select(&spec) {
        Ok(window) => panic!("{spec:?} gave {:?}", steps_of(&window)),
        Err(error) => error,
    }
}

fn in_steps(n: u64) -> Extent {
    Extent::Steps(Step(n))
}

fn in_tokens(n: u64) -> Extent {
    Extent::Tokens(Tokens(n))
}

fn at(n: u64) -> WindowEnd {
    WindowEnd::At(in_steps(n))
}

fn last(n_checkpoints: usize) -> WindowSpec {
    WindowSpec::Last { n_checkpoints, end: NEWEST }
}

fn count(n_checkpoints: usize, interval: Extent, end: WindowEnd) -> WindowSpec {
    WindowSpec::Count { n_checkpoints, interval, end }
}

fn apart(from: u64, to: u64, steps: u64) -> WindowSpec {
    WindowSpec::Range { from: Some(Step(from)), to: Some(Step(to)), at_least_apart: Some(in_steps(steps)) }
}

#[test]
fn interval_selection_keeps_the_target_and_goes_back_at_least_so_far() {
    // The values of Megatron's selection by least interval.
    check(&TestRun::with_steps([100, 150, 210, 260, 300]), apart(100, 300, 100), &[150, 300]);
    check(&TestRun::with_steps([100, 180, 240, 300]), apart(100, 300, 100), &[180, 300]);
    let missing = refuse(&TestRun::with_steps([100, 150, 210, 260]), apart(100, 300, 100));
    assert!(matches!(missing, Error::NoCheckpointAt { wanted: Extent::Steps(Step(300)), .. }), "{missing}");
}

#[test]
fn last_takes_the_newest_finished_on_or_off_any_grid() {
    let run = TestRun::with_steps([1000, 2000, 2345, 3000]).write("step-4000/model.safetensors", "");
    let window = check(&run, last(3), &[2000, 2345, 3000]);
    assert_eq!(window.interval_steps(), None);
    assert_eq!(window.duration_steps(), 1000);
    assert!(window.notes().contains(&WindowNote::UnevenInterval { smallest: 345, largest: 655 }));
    assert!(window.notes().iter().any(|note| matches!(note, WindowNote::PassedOver { step: Step(4000), .. })));
    check(&run, WindowSpec::Last { n_checkpoints: 2, end: at(2345) }, &[2000, 2345]);
    check(&run, last(4), &[1000, 2000, 2345, 3000]);
    let error = refuse(&run, last(5));
    assert_eq!(error.to_string(), "the window needs 5 finished checkpoints, but there are 4");
    assert!(error.details()[0].contains("1000, 2000, 2345, 3000"), "{:?}", error.details());
    assert!(error.details()[1].starts_with("step 4000 cannot be used: "), "{:?}", error.details());
    assert!(matches!(refuse(&run, last(0)), Error::BadWindow { .. }));
}

#[test]
fn counts_skip_what_is_off_the_grid_and_refuse_holes() {
    let run = TestRun::with_steps([1000, 2000, 2345, 3000, 4000, 6000]);
    let window = check(&run, count(3, in_steps(1000), at(4000)), &[2000, 3000, 4000]);
    assert_eq!(window.interval_steps(), Some(1000));
    assert!(window.notes().is_empty(), "{:?}", window.notes());
    check(&run, count(3, in_steps(2000), NEWEST), &[2000, 4000, 6000]);
    check(&run, count(1, in_steps(7), NEWEST), &[6000]);
    let hole = refuse(&run, count(2, in_steps(1000), NEWEST));
    assert_eq!(hole.to_string(), "the window needs a finished checkpoint at step 5000, but there is none");
    assert!(hole.details().contains(&"nearest: step 4000 and step 6000".to_owned()), "{:?}", hole.details());
    let short = refuse(&run, count(5, in_steps(1000), at(4000)));
    assert!(matches!(short, Error::NoCheckpointAt { wanted: Extent::Steps(Step(0)), .. }), "{short}");
    let short = refuse(&run, count(9, in_steps(1000), at(4000)));
    assert!(matches!(short, Error::NoCheckpointAt { .. }), "{short}");
    assert!(matches!(refuse(&run, count(3, in_steps(0), NEWEST)), Error::BadWindow { .. }));
}

#[test]
fn an_unfinished_checkpoint_on_the_grid_is_said() {
    let run = TestRun::with_steps([1000, 3000]).write("step-2000/model-00001-of-00002.safetensors", "");
    let error = refuse(&run, count(3, in_steps(1000), NEWEST));
    assert!(error.to_string().contains("not usable (unfinished: 1 shard is there, but no"), "{error}");
}

#[test]
fn a_grid_may_end_before_the_beginning() {
    let run = TestRun::with_steps([500, 1000]);
    let error = refuse(&run, count(3, in_steps(500), NEWEST));
    assert!(matches!(error, Error::NoCheckpointAt { wanted: Extent::Steps(Step(0)), .. }), "{error}");
    let error = refuse(&run, count(4, in_steps(600), at(1000)));
    assert!(matches!(error, Error::NoCheckpointAt { wanted: Extent::Steps(Step(400)), .. }), "{error}");
    let error = refuse(&TestRun::with_steps([400, 1000]), count(3, in_steps(600), NEWEST));
    assert_eq!(
        error.to_string(),
        "the window needs 3 finished checkpoints every 600 steps up to step 1000, but there are 2"
    );
}

#[test]
fn durations_take_all_within_or_a_count_of_equal_parts() {
    let run = TestRun::with_steps([1000, 2000, 2500, 3000, 4000, 5000]);
    let duration =
        |steps, n_checkpoints| WindowSpec::Duration { duration: in_steps(steps), n_checkpoints, end: NEWEST };
    check(&run, duration(3000, None), &[2000, 2500, 3000, 4000, 5000]);
    check(&run, duration(4000, Some(3)), &[1000, 3000, 5000]);
    check(&run, duration(4000, Some(2)), &[1000, 5000]);
    let error = refuse(&run, duration(3500, None));
    assert!(error.details().contains(&"nearest: step 1000 and step 2000".to_owned()), "{:?}", error.details());
    assert!(matches!(refuse(&run, duration(4000, Some(4))), Error::BadWindow { .. }));
    assert!(matches!(refuse(&run, duration(4000, Some(1))), Error::BadWindow { .. }));
    let longer = refuse(&run, duration(6000, None));
    assert!(longer.to_string().contains("6000 steps is longer than the run"), "{longer}");
    let all = longer.hint().unwrap();
    assert!(all.contains("`--duration-steps 4000`"), "{all}");
    check(&run, duration(4000, None), &[1000, 2000, 2500, 3000, 4000, 5000]);
}

#[test]
fn ranges_every_steps_and_all_take_just_those() {
    let run = TestRun::with_steps([1000, 2000, 2500, 3000, 4000, 5000]);
    let range = |from: Option<u64>, to: Option<u64>| WindowSpec::Range {
        from: from.map(Step),
        to: to.map(Step),
        at_least_apart: None,
    };
    check(&run, range(Some(2000), Some(4000)), &[2000, 2500, 3000, 4000]);
    check(&run, range(None, Some(2000)), &[1000, 2000]);
    check(&run, range(Some(4000), None), &[4000, 5000]);
    assert!(matches!(refuse(&run, range(Some(0), None)), Error::NoCheckpointAt { .. }));
    assert!(matches!(refuse(&run, range(None, Some(9000))), Error::NoCheckpointAt { .. }));
    assert!(matches!(refuse(&run, range(Some(4000), Some(2000))), Error::BadWindow { .. }));
    let every = |k, n_checkpoints| WindowSpec::Every { k, n_checkpoints, end: NEWEST };
    check(&run, every(2, None), &[2000, 3000, 5000]);
    check(&run, every(2, Some(2)), &[3000, 5000]);
    check(&run, every(100, None), &[5000]);
    assert!(matches!(refuse(&run, every(2, Some(4))), Error::TooFew { wanted: 4, found: 3, .. }));
    assert!(matches!(refuse(&run, every(0, None)), Error::BadWindow { .. }));
    check(&run, WindowSpec::Steps(vec![Step(4000), Step(1000)]), &[1000, 4000]);
    assert!(matches!(refuse(&run, WindowSpec::Steps(vec![Step(10)])), Error::NoCheckpointAt { .. }));
    assert!(matches!(refuse(&run, WindowSpec::Steps(vec![Step(1000), Step(1000)])), Error::BadWindow { .. }));
    assert!(matches!(refuse(&run, WindowSpec::Steps(vec![])), Error::BadWindow { .. }));
    check(&run, WindowSpec::All, &[1000, 2000, 2500, 3000, 4000, 5000]);
}

/// Names as a trainer writes them that counts 4,194,304 tokens a step and rounds down to billions.
fn rounded_run() -> TestRun {
    TestRun::new((1..=12u64).map(|n| format!("step{}-tokens{}B", n * 1000, n * 4_194_304_000 / 1_000_000_000)))
}

#[test]
fn intervals_in_tokens_are_met_within_a_tenth_and_said() {
    let run = rounded_run();
    let window = check(&run, count(3, in_tokens(8_000_000_000), NEWEST), &[8000, 10000, 12000]);
    assert_eq!(window.interval_steps(), Some(2000));
    assert_eq!(window.duration_tokens(), Some(Tokens(17_000_000_000)));
    assert_eq!(window.interval_tokens(), Some(Tokens(8_500_000_000)));
    let (asked, smallest, largest) = (Tokens(8_000_000_000), Tokens(8_000_000_000), Tokens(9_000_000_000));
    assert!(window.notes().contains(&WindowNote::IntervalDiffers { asked, smallest, largest }), "{:?}", window.notes());
    // A drift of 5 % an interval adds up to whole intervals, and is still met one by one.
    check(
        &run,
        count(10, in_tokens(4_000_000_000), NEWEST),
        &[3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000, 11000, 12000],
    );
    let error = refuse(&run, count(3, in_tokens(6_000_000_000), NEWEST));
    assert!(matches!(error, Error::NoCheckpointAt { wanted: Extent::Tokens(_), .. }), "{error}");
    assert!(
        error.details().iter().any(|line| line.starts_with("nearest: step 10000 (41B tokens)")),
        "{:?}",
        error.details()
    );
    let error = refuse(&run, count(13, in_tokens(4_000_000_000), NEWEST));
    assert!(matches!(error, Error::NoCheckpointAt { .. }), "{error}");
}

#[test]
fn windows_may_end_at_tokens() {
    let run = rounded_run();
    let end = |tokens| WindowEnd::At(in_tokens(tokens));
    check(&run, WindowSpec::Last { n_checkpoints: 1, end: end(20_000_000_000) }, &[5000]);
    check(&run, WindowSpec::Last { n_checkpoints: 1, end: end(20_971_520_000) }, &[5000]);
    let error = refuse(&run, WindowSpec::Last { n_checkpoints: 1, end: end(23_000_000_000) });
    assert_eq!(error.to_string(), "the window needs a finished checkpoint at 23B tokens, but there is none");
    let nearest = "nearest: step 5000 (20B tokens) and step 6000 (25B tokens)".to_owned();
    assert!(error.details().contains(&nearest), "{:?}", error.details());
}

#[test]
fn exact_tokens_give_an_exact_interval() {
    let run = TestRun::with_steps((1..=6).map(|n| n * 1000)).write("thalweg.toml", "tokens_per_step = 4_000_000");
    let window = check(&run, count(4, in_tokens(4_000_000_000), NEWEST), &[3000, 4000, 5000, 6000]);
    assert_eq!(window.interval_tokens(), Some(Tokens(4_000_000_000)));
    assert!(window.notes().is_empty());
    let duration = WindowSpec::Duration { duration: in_tokens(16_000_000_000), n_checkpoints: Some(3), end: NEWEST };
    check(&run, duration, &[2000, 4000, 6000]);
    let duration = WindowSpec::Duration { duration: in_tokens(8_000_000_000), n_checkpoints: None, end: NEWEST };
    check(&run, duration, &[4000, 5000, 6000]);
}

#[test]
fn requests_in_tokens_need_tokens_that_rise() {
    let error = refuse(&TestRun::with_steps([1, 2]), count(2, in_tokens(5), NEWEST));
    assert!(matches!(error, Error::TokensUnknown { step: Step(1) }));
    assert!(error.hint().unwrap().contains("--tokens-per-step"));
    let run = TestRun::new(["step1-tokens500", "step2-tokens400"]);
    assert!(matches!(refuse(&run, count(2, in_tokens(5), NEWEST)), Error::TokensNotRising { .. }));
}

#[test]
fn windows_over_the_end_of_the_stable_phase_are_said() {
    let mut run = TestRun::with_steps((1..=10).map(|n| n * 2000));
    run.options.stable = Some(StableRange { from: Step(3000), to: Step(17_000) });
    let window = check(&run, last(3), &[16_000, 18_000, 20_000]);
    assert_eq!(window.notes(), [WindowNote::CrossesStableEnd { at: Step(17_000) }]);
    assert_eq!(window.notes()[0].to_string(), "the window crosses the end of the stable phase at step 17000");
    assert!(check(&run, count(3, in_steps(2000), at(16_000)), &[12_000, 14_000, 16_000]).notes().is_empty());
    let window = check(&run, WindowSpec::Last { n_checkpoints: 2, end: at(4000) }, &[2000, 4000]);
    assert_eq!(window.notes(), [WindowNote::StartsInWarmup { until: Some(Step(2999)) }]);
}

#[test]
fn a_step_that_stands_twice_stops_only_windows_that_hold_it() {
    let run = TestRun::new(["step_100", "checkpoint-100", "step_200", "step_300"]);
    check(&run, last(2), &[200, 300]);
    let error = refuse(&run, last(3));
    assert_eq!(error.to_string(), "step 100 appears more than once: `checkpoint-100`, `step_100`");
    assert!(error.hint().unwrap().contains("`--checkpoint-pattern 'checkpoint-{step}'`"), "{:?}", error.hint());
    // Both names match the pattern of either.
    let padded = refuse(&TestRun::new(["checkpoint-100", "checkpoint-0100", "checkpoint-200"]), last(2));
    assert_eq!(padded.hint().unwrap(), "move all but one of them out of the run folder");
}

#[test]
fn stages_are_not_mixed() {
    let run = TestRun::new(["stage1-step100-tokens1B", "stage1-step300-tokens3B", "stage2-step200-tokens1B"]);
    // Not one of them is the newest either: step 200 of the second stage comes after step 300 of the first.
    for spec in [last(3), last(1)] {
        assert!(matches!(refuse(&run, spec), Error::MixedStages { .. }));
    }
    check(&run, WindowSpec::Steps(vec![Step(100), Step(300)]), &[100, 300]);
}

#[test]
fn a_run_with_nothing_finished_says_why() {
    let run = TestRun::new(["x"]).write("step-1/model.safetensors", "");
    let error = refuse(&run, last(1));
    assert!(matches!(error, Error::NothingFinished { n_checkpoints: 1, .. }), "{error}");
    assert!(error.details()[0].starts_with("step 1: "), "{:?}", error.details());
}
