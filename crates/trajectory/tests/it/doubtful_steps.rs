//! Steps that may not be those of the run: columns that differ, bars of epochs, names of other stages and epochs, logs
//! that reach beyond the checkpoints. None is taken without a word.

use thalweg_trajectory::{
    ColumnMap, Error, LogError, LogOptions, Step, StepLog, TrajectoryNote, WindowEnd, WindowSpec, parse_console,
    parse_csv, parse_json_lines,
};

use crate::support::{TestRun, disk, write};

const LAST_TWO: WindowSpec = WindowSpec::Last { n_checkpoints: 2, end: WindowEnd::Newest };

/// JSON lines in which these columns count 40 and 10 times the line's number.
fn two_counters(fast: &str, slow: &str) -> String {
    (1..=20).map(|i| format!("{{\"{fast}\": {}, \"{slow}\": {}, \"loss\": 2.5}}\n", 40 * i, 10 * i)).collect()
}

#[test]
fn two_columns_that_mean_the_step_and_differ_are_refused_until_one_is_named() {
    let pairs =
        [("step", "global_step"), ("iteration", "step"), ("step", "num_updates"), ("Step", "run - train/global_step")];
    for (fast, slow) in pairs {
        let text = two_counters(fast, slow);
        let error = parse_json_lines(text.as_bytes(), &ColumnMap::default()).unwrap_err();
        assert!(matches!(error, LogError::StepsDisagree { .. }), "{fast} {slow}: {error}");
        assert!(error.to_string().contains("such as 10 and 40"), "{error}");
        let named: ColumnMap = format!("step={slow}").parse().unwrap();
        let log = parse_json_lines(text.as_bytes(), &named).unwrap();
        assert_eq!(log.last_step(), Some(Step(200)), "{slow}");
    }
    let csv = "iteration,global_step,loss\n4,1,3.0\n8,2,2.9\n12,3,2.8\n";
    assert!(matches!(parse_csv(csv.as_bytes(), &ColumnMap::default()), Err(LogError::StepsDisagree { .. })));
}

#[test]
fn a_name_that_says_what_it_counts_needs_no_word() {
    for (other, clear) in [
        ("step", "completed_steps"),
        ("step", "optimizer_step"),
        ("iteration", "optim_step"),
        ("_step", "train/global_step"),
        ("iter", "step"),
        ("micro_step", "step"),
    ] {
        let log = parse_json_lines(two_counters(other, clear).as_bytes(), &ColumnMap::default());
        assert_eq!(log.unwrap().last_step(), Some(Step(200)), "{other} {clear}");
    }
    // From 0 or from 1.
    let near: String =
        (1..=9).map(|i| format!("{{\"step\": {i}, \"iteration\": {}, \"loss\": 2.5}}\n", i - 1)).collect();
    assert_eq!(parse_json_lines(near.as_bytes(), &ColumnMap::default()).unwrap().last_step(), Some(Step(9)));
}

/// What Lightning draws: each bar twice, the batches of each epoch from the beginning.
fn lightning_bars(epochs: u64, value: &str) -> String {
    let bar = |epoch: u64, done: u64| {
        format!("Epoch {epoch}: {:3}%|##   | {done}/50 [00:10<01:00, 9.9it/s, v_num=0, {value}=2.5]\r", 2 * done)
    };
    (0..epochs).flat_map(|epoch| (1..=5).map(move |i| (epoch, 10 * i))).map(|(e, d)| bar(e, d).repeat(2)).collect()
}

#[test]
fn bars_of_epochs_are_no_steps_and_can_be_counted() {
    for value in ["loss", "train_loss", "train_loss_step"] {
        for epochs in [1, 3] {
            let text = lightning_bars(epochs, value);
            let error = parse_console(text.as_bytes(), &ColumnMap::default()).unwrap_err();
            assert_eq!(error, LogError::EpochBars, "{value} {epochs}");
            let run = TestRun::with_steps([10]);
            let path = run.path().join("train.log");
            write(&path, &text);
            let options = LogOptions { log_every: Some(10), ..LogOptions::default() };
            let log = StepLog::open_all(&disk(), &[path], &options).unwrap();
            assert_eq!((log.entries().len() as u64, log.last_step()), (5 * epochs, Some(Step(50 * epochs))));
        }
    }
    // Beside lines with steps, the bars are only drawings.
    let lines = format!("{}\nstep: 20 loss: 2.5\nstep: 40 loss: 2.4\n", lightning_bars(1, "loss"));
    assert_eq!(parse_console(lines.as_bytes(), &ColumnMap::default()).unwrap().last_step(), Some(Step(40)));
}

#[test]
fn a_log_far_beyond_the_newest_checkpoint_is_noted() {
    let far = |last: u64, steps: &[u64]| {
        let lines: String = (1..=20).map(|i| format!("{{\"step\": {}, \"loss\": 2.5}}\n", last / 20 * i)).collect();
        let run = TestRun::with_steps(steps.iter().copied()).write("log.jsonl", lines);
        run.trajectory().notes().iter().any(|note| matches!(note, TrajectoryNote::LogAhead { .. }))
    };
    assert!(far(8000, &[1600, 1800, 2000]), "micro-batches, four to a step");
    assert!(far(2_000_000, &[1600, 1800, 2000]), "tokens");
    assert!(far(4000, &[1600, 1800, 2000]), "twice");
    assert!(!far(2000, &[1600, 1800, 2000]), "of the run");
    assert!(!far(2300, &[1600, 1800, 2000]), "training on");
    assert!(!far(8000, &[2000]), "nothing says when the next is due");
}

#[test]
fn stages_and_epochs_whose_steps_do_not_order_them_have_no_newest() {
    for (names, pattern, left) in [
        (["stage1-step100", "stage1-step300", "stage2-step200"], "stage2-step*{step}*", 1),
        (
            ["stage1-step100-tokens1B", "stage2-ingredient1-step300-tokens3B", "step50"],
            "stage2-ingredient1-step*{step}*",
            1,
        ),
        (["epoch=0-step=100", "epoch=1-step=200", "epoch=2-step=50"], "epoch=*-step={step}", 3),
        (["epoch_1_step_10", "epoch_1_step_20", "epoch_2_step_15"], "epoch_*_step_{step}", 3),
    ] {
        let run = TestRun::new(names);
        let error = run.select(&LAST_TWO).unwrap_err();
        assert!(matches!(error, Error::MixedStages { .. } | Error::EpochsDisagree { .. }), "{names:?}: {error}");
        // What the hint says works.
        let hint = error.hint().unwrap();
        assert!(hint.contains(&format!("--checkpoint-pattern '{pattern}'")), "{hint}");
        let mut run = TestRun::new(names);
        run.options.pattern = Some(pattern.parse().unwrap());
        assert_eq!(run.select(&WindowSpec::All).unwrap().checkpoints().len(), left, "{pattern}");
        let steps = TestRun::new(names).trajectory().finished().map(|one| one.step).collect::<Vec<_>>();
        TestRun::new(names).select(&WindowSpec::Steps(vec![steps[0]])).unwrap();
    }
    for names in [
        ["epoch=0-step=100", "epoch=0-step=200", "epoch=1-step=300"],
        ["ep0-ba100", "ep1-ba200", "ep1-ba300"],
        ["model--val_loss=2.31-step=100", "model--val_loss=2.30-step=200", "model--val_loss=2.29-step=300"],
    ] {
        assert_eq!(TestRun::new(names).select(&LAST_TWO).unwrap().checkpoints().len(), 2, "{names:?}");
    }
}

#[test]
fn a_pattern_keeps_the_tokens_that_names_have() {
    let mut run = TestRun::new(["stage1-step100-tokens1B", "stage1-step200-tokens2B", "stage2-step300-tokens9B"]);
    run.options.pattern = Some("stage1-step*{step}*".parse().unwrap());
    let tokens: Vec<Option<u64>> = run.trajectory().finished().map(|one| one.tokens.map(|tokens| tokens.0)).collect();
    assert_eq!(tokens, [Some(1_000_000_000), Some(2_000_000_000)]);
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_named() {
    for name in ["checkpoint-300", "step_300", "step-300.safetensors"] {
        let run = TestRun::new(["checkpoint-100", "checkpoint-200"]);
        std::os::unix::fs::symlink("gone", run.path().join(name)).unwrap();
        let notes: Vec<String> = run.trajectory().notes().iter().map(ToString::to_string).collect();
        assert_eq!(notes, [format!("broken links are ignored: `{name}`")]);
    }
    let other = TestRun::new(["checkpoint-100"]);
    std::os::unix::fs::symlink("gone", other.path().join("latest")).unwrap();
    assert_eq!(other.trajectory().notes(), []);
}

#[test]
fn a_folder_or_file_that_is_no_plain_log_says_how_to_make_one() {
    let refuse = |name: &str, bytes: &[u8]| {
        let run = TestRun::with_steps([10]).write(&format!("logs/{name}"), bytes);
        let refused = |path: &str| {
            let paths = [run.path().join(path)];
            let error = StepLog::open_all(&disk(), &paths, &LogOptions::default()).unwrap_err();
            (error.to_string(), error.hint().unwrap())
        };
        (refused("logs"), refused(&format!("logs/{name}")))
    };
    let ((folder, hint), _) = refuse("a.jsonl", b"{}");
    assert!(folder.contains("it holds `a.jsonl`") && hint.contains("logs/a.jsonl`"), "{folder}; {hint}");
    for (bytes, what, command) in [
        (&b"\x1f\x8b\x08"[..], "gzip", "gunzip -k "),
        (b"\x28\xb5\x2f\xfd", "zstd", "unzstd "),
        (b"\xff\xfes\0t\0", "UTF-16", "iconv "),
    ] {
        let (_, (error, hint)) = refuse("log.bin", bytes);
        assert!(error.contains(what) && hint.contains(command), "{error}; {hint}");
    }
}
