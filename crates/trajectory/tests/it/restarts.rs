//! Logs as restarts, kills and other tools leave them: torn, glued, restarted, in several files, printed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use thalweg_trajectory::{
    ColumnMap, Error, LogEntry, LogError, LogField, LogNote, LogOptions, Step, StepLog, TokensPerStep, parse_console,
    parse_csv, parse_json_lines,
};

use crate::support::{disk, write};

fn columns() -> ColumnMap {
    ColumnMap::default()
}

fn entry(step: u64, loss: f64) -> LogEntry {
    LogEntry { step: Step(step), tokens: None, loss: Some(loss), learning_rate: None, grad_norm: None }
}

fn line(step: u64) -> String {
    format!("{{\"step\": {step}, \"loss\": {}}}\n", loss(step))
}

fn loss(step: u64) -> f64 {
    3.0 + step as f64 / 1024.0
}

fn steps(log: &StepLog) -> Vec<u64> {
    log.entries().iter().map(|entry| entry.step.0).collect()
}

/// Each step has its own loss.
fn check_entries(log: &StepLog, expected: &[u64]) {
    let entries: Vec<LogEntry> = expected.iter().map(|step| entry(*step, loss(*step))).collect();
    assert_eq!(log.entries(), entries);
}

#[test]
fn a_damaged_line_anywhere_is_counted_and_skipped() {
    let damaged = [
        "{\"step\": 30, \"loss\": 2.5\n".to_owned(),
        format!("{{\"step\": 30, \"loss\": 2.5{}", line(40)),
        format!("{}\n", "\0".repeat(64)),
        "{\"step\": 30, \"lo\0\0\0\0\0\0ss\": 2}\n".to_owned(),
        "Traceback (most recent call last):\n".to_owned(),
        format!("{}{}", line(30).trim_end(), line(40)),
        "\u{fffd}\u{fffd}\n".to_owned(),
    ];
    for text in &damaged {
        let text = format!("{}{}{text}{}", line(10), line(20), line(50));
        let log = parse_json_lines(text.as_bytes(), &columns()).unwrap();
        check_entries(&log, &[10, 20, 50]);
        assert_eq!(log.notes(), [LogNote::Damaged { n_lines: 1, first: "line 3".to_owned() }], "{text:?}");
    }
    // NUL bytes before a whole record, as a log has them that was truncated while it was being written.
    let text = format!("{}{}{}", "\0".repeat(5000), line(10), line(20));
    check_entries(&parse_json_lines(text.as_bytes(), &columns()).unwrap(), &[10, 20]);
}

#[test]
fn damaged_rows_and_repeated_headers_of_csv_are_counted() {
    let row = |step: u64| format!("{step},{},0.5\n", loss(step));
    for bad in ["30,2.5\n", "30,2.540,2.5,0.5\n", "30,2.5\"\n", "30,two,1\n", "\0\0\0\n", "30,2.5,1,\n"] {
        let text = format!("step,loss,lr\n{}{}{bad}{}{}", row(10), row(20), row(40), row(50));
        let log = parse_csv(text.as_bytes(), &columns()).unwrap();
        assert_eq!(steps(&log), [10, 20, 40, 50], "{bad:?}");
        assert_eq!(log.notes(), [LogNote::Damaged { n_lines: 1, first: "line 4".to_owned() }], "{bad:?}");
    }
    let header = "step,loss,lr\n";
    let log = parse_csv(format!("{header}{}{}{header}{}{}", row(10), row(20), row(20), row(30)).as_bytes(), &columns());
    assert_eq!(log.as_ref().unwrap().notes(), [LogNote::RepeatedHeader { n_lines: 1 }]);
    assert_eq!(steps(&log.unwrap()), [10, 20, 30]);
    // A resumed run may log other columns.
    let text = format!("{header}{}loss,grad_norm,lr,step\n{},0.25,0.5,20\n", row(10), loss(20));
    let log = parse_csv(text.as_bytes(), &columns()).unwrap();
    assert_eq!(log.entries()[1], LogEntry { grad_norm: Some(0.25), learning_rate: Some(0.5), ..entry(20, loss(20)) });
    assert_eq!(log.notes(), [LogNote::RepeatedHeader { n_lines: 1 }]);
}

#[test]
fn going_back_voids_what_lay_beyond_on_any_grid_of_steps() {
    let log_of = |steps: &[u64]| {
        parse_json_lines(steps.iter().map(|step| line(*step)).collect::<String>().as_bytes(), &columns()).unwrap()
    };
    let rewound = |from, to| LogNote::Rewound { from: Step(from), to: Step(to) };
    // Resumed on the same grid of steps, between its steps, on a coarser and on a finer one.
    let cases: [(&[u64], &[u64], u64); 4] = [
        (&[20, 30], &[10, 20, 30], 20),
        (&[25, 35], &[10, 20, 25, 35], 25),
        (&[25, 75], &[10, 20, 25, 75], 25),
        (&[21, 22], &[10, 20, 21, 22], 21),
    ];
    for (resumed, expected, to) in cases {
        let log = log_of(&[&[10, 20, 30, 40, 50], resumed].concat());
        check_entries(&log, expected);
        assert_eq!(log.notes(), [rewound(50, to)]);
    }
    // Twice, further back the second time.
    let log = log_of(&[10, 20, 30, 40, 25, 35, 15, 25]);
    check_entries(&log, &[10, 15, 25]);
    assert_eq!(log.notes(), [rewound(40, 25), rewound(35, 15)]);
    // A single line that fills a gap is out of order and not a restart.
    let log = log_of(&[10, 20, 40, 30, 50, 60]);
    check_entries(&log, &[10, 20, 30, 40, 50, 60]);
    assert!(log.notes().is_empty());
}

#[test]
fn values_without_a_loss_void_nothing_and_go_with_their_attempt() {
    let text = "{\"step\":10,\"loss\":3,\"lr\":1}\n{\"step\":20,\"loss\":2}\n{\"step\":10,\"grad_norm\":0.5}\n\
                {\"step\":15,\"lr\":0.5}\n{\"step\":30,\"loss\":1}\n";
    let log = parse_json_lines(text.as_bytes(), &columns()).unwrap();
    assert_eq!(steps(&log), [10, 15, 20, 30]);
    assert_eq!((log.entries()[0].grad_norm, log.entries()[1].learning_rate), (Some(0.5), Some(0.5)));
    // A late line of the abandoned attempt is discarded with it.
    let text = "{\"step\":10,\"loss\":3}\n{\"step\":20,\"loss\":2}\n{\"step\":30,\"loss\":2}\n{\"step\":25,\"lr\":9}\n\
                {\"step\":15,\"loss\":1}\n{\"step\":16,\"loss\":1}\n";
    let log = parse_json_lines(text.as_bytes(), &columns()).unwrap();
    assert_eq!(steps(&log), [10, 15, 16]);
}

fn open_all(paths: &[PathBuf]) -> StepLog {
    StepLog::open_all(&disk(), paths, &LogOptions::default()).unwrap()
}

#[test]
fn several_files_are_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, steps: &[u64]| {
        let path = folder.path().join(name);
        write(&path, steps.iter().map(|step| line(*step)).collect::<String>());
        path
    };
    let first = file("a.jsonl", &[10, 20, 30, 40]);
    let second = file("b.jsonl", &[25, 35, 45]);
    let log = open_all(&[first.clone(), second]);
    check_entries(&log, &[10, 20, 25, 35, 45]);
    assert_eq!(log.notes(), [LogNote::Rewound { from: Step(40), to: Step(25) }]);
    // As a shell lists `log.1`, `log.10`, `log.2`.
    let (later, last) = (file("c.jsonl", &[50, 60]), file("d.jsonl", &[70]));
    let log = open_all(&[first.clone(), last, later]);
    check_entries(&log, &[10, 20, 30, 40, 50, 60, 70]);
    assert_eq!(log.notes(), [LogNote::Reordered]);
    // The restart given first, and the newest first.
    let restart = file("r.jsonl", &[35, 45, 55, 65]);
    for files in [[&first, &restart], [&restart, &first]] {
        let log = open_all(&files.map(Clone::clone));
        check_entries(&log, &[10, 20, 30, 35, 45, 55, 65]);
    }
    let newest = file("s.jsonl", &[60, 75]);
    let log = open_all(&[newest, restart.clone(), first.clone()]);
    check_entries(&log, &[10, 20, 30, 35, 45, 55, 60, 75]);
    assert_eq!(log.notes().iter().filter(|note| **note == LogNote::Reordered).count(), 1);
    // A run that was started again from its beginning and came further is the newest, as given.
    let afresh = file("t.jsonl", &[5, 15, 25, 35, 45, 55, 65, 75]);
    check_entries(&open_all(&[restart, afresh]), &[5, 15, 25, 35, 45, 55, 65, 75]);
    // Files of several kinds; the note of damage names the file.
    let csv = folder.path().join("e.csv");
    write(&csv, format!("step,loss\n50,{}\n60\n70,{}\n", loss(50), loss(70)));
    let log = open_all(&[first, csv]);
    check_entries(&log, &[10, 20, 30, 40, 50, 70]);
    assert_eq!(log.notes(), [LogNote::Damaged { n_lines: 1, first: "`e.csv` line 3".to_owned() }]);
}

/// An event file with one scalar per record.
fn events(rows: &[(u64, &str, f64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (step, tag, value) in rows {
        #[expect(clippy::cast_possible_truncation, reason = "event files hold single precision")]
        let number = (*value as f32).to_le_bytes();
        let small = |n: usize| u8::try_from(n).unwrap();
        let scalar = [&[0x0a, small(tag.len())], tag.as_bytes(), &[0x15], &number].concat();
        let summary = [&[0x0a, small(scalar.len())], &scalar[..]].concat();
        let step = [u8::try_from(step % 128).unwrap() | 0x80, u8::try_from(step / 128).unwrap()];
        let data = [&[0x10], &step[..], &[0x2a, small(summary.len())], &summary].concat();
        let mask = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
        let length = (data.len() as u64).to_le_bytes();
        bytes.extend([&length[..], &mask(&length), &data, &mask(&data)].concat());
    }
    bytes
}

fn loss_events(steps: &[u64]) -> Vec<u8> {
    let rows: Vec<_> = steps.iter().map(|step| (*step, "train/loss", loss(*step))).collect();
    events(&rows)
}

#[test]
fn a_tree_of_event_files_is_read_in_the_order_of_their_times() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: Vec<u8>| write(&folder.path().join(name), bytes);
    put("runs/Jan10_host/events.out.tfevents.1700000200.h.1.0", loss_events(&[30, 40]));
    put("runs/Jan9_host/events.out.tfevents.1700000100.h.1.0", loss_events(&[10, 20, 30]));
    put("runs/Jan11_host/sub/events.out.tfevents.1700000300.h.1.0", loss_events(&[35, 45]));
    put("runs/hparams.yaml", b"x".to_vec());
    check_entries(&open_all(&[folder.path().to_owned()]), &[10, 20, 30, 35, 45]);
    // Losses of an evaluation, in a separate folder, are ignored.
    put("runs/eval/events.out.tfevents.1700000400.h.1.0", events(&[(10, "train/loss", 9.0), (40, "loss", 9.0)]));
    check_entries(&open_all(&[folder.path().to_owned()]), &[10, 20, 30, 35, 45]);
}

#[test]
fn lightning_versions_are_read_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, steps: &[u64]| {
        let mut text = "epoch,lr-AdamW,step,train_loss_epoch,train_loss_step\n".to_owned();
        for step in steps {
            let _ = write!(text, "0,0.5,{step},,\n0,,{step},9.0,{}\n", loss(*step));
        }
        write(&folder.path().join(name), text);
    };
    put("version_10/metrics.csv", &[40, 50]);
    put("version_2/metrics.csv", &[20, 30, 40]);
    put("version_1/metrics.csv", &[10, 20]);
    let log = open_all(&[folder.path().to_owned()]);
    assert_eq!(steps(&log), [10, 20, 30, 40, 50]);
    assert!(
        log.entries().iter().all(|entry| entry.loss == Some(loss(entry.step.0)) && entry.learning_rate == Some(0.5))
    );
    assert_eq!(log.columns()[&LogField::LearningRate], "lr-AdamW");
}

#[test]
fn series_of_add_scalars_have_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: Vec<u8>| write(&folder.path().join(name).join("events.out.tfevents.1.h"), bytes);
    let row = |step, value| (step, "loss", value);
    put("loss_eval", events(&[row(10, 9.0), row(20, 9.0)]));
    put("loss_train", events(&[row(10, loss(10)), row(20, loss(20))]));
    put(".", events(&[(10, "lr", 0.5), (20, "lr", 0.25)]));
    let log = open_all(&[folder.path().to_owned()]);
    assert_eq!(log.entries()[1], LogEntry { learning_rate: Some(0.25), ..entry(20, loss(20)) });
    assert_eq!(log.columns()[&LogField::Loss], "loss_train");
    // tensorboardX nests the folders.
    let other = tempfile::tempdir().unwrap();
    for series in ["train", "val"] {
        let path = other.path().join("loss").join(series).join("events.out.tfevents.1.h");
        write(&path, events(&[row(10, if series == "train" { loss(10) } else { 9.0 })]));
    }
    check_entries(&open_all(&[other.path().to_owned()]), &[10]);
    // Names that say nothing must be chosen from.
    let third = tempfile::tempdir().unwrap();
    for series in ["loss_a", "loss_b"] {
        write(&third.path().join(series).join("events.out.tfevents.1.h"), events(&[row(10, loss(10))]));
    }
    let paths = [third.path().to_owned()];
    let error = StepLog::open_all(&disk(), &paths, &LogOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("`loss_a`, `loss_b`"), "{error}");
    let options = LogOptions { columns: "loss=loss_b".parse().unwrap(), ..LogOptions::default() };
    check_entries(&StepLog::open_all(&disk(), &paths, &options).unwrap(), &[10]);
}

#[test]
fn a_step_that_is_not_whole_is_named_with_its_value() {
    let text: String = (1..=12).map(|i| format!("{{\"step\": {i}.5, \"loss\": 2}}\n")).collect();
    for columns in [columns(), "step=step".parse().unwrap()] {
        let error = parse_json_lines(text.as_bytes(), &columns).unwrap_err();
        assert_eq!(error, LogError::NotWhole { name: "step".to_owned(), value: "1.5".to_owned() });
    }
    // Another column may count the steps.
    let text: String = (1..=12).map(|i| format!("{{\"step\": {i}.5, \"global_step\": {i}, \"loss\": 2}}\n")).collect();
    assert_eq!(
        parse_json_lines(text.as_bytes(), &"step=global_step".parse().unwrap()).unwrap().last_step(),
        Some(Step(12))
    );
}

#[test]
fn litgpt_counts_micro_batches_and_its_tokens_give_the_steps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.csv");
    let mut text = "epoch,iter,iter_time,learning_rate,loss,remaining_time,step,tokens,total_tokens\n".to_owned();
    for iter in 1..=12u64 {
        let _ = writeln!(text, "0,{iter},0.5,0.001,{},9,{},{},{}", loss(iter), iter - 1, 256 * iter, 512 * iter);
    }
    write(&path, &text);
    let error = StepLog::open(&disk(), &path, &columns()).unwrap_err();
    assert!(error.to_string().contains("counts micro-batches"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("--tokens-per-step") && hint.contains("--log-columns step=iter"), "{hint}");
    // Four micro-batches of two devices make a step.
    let options = LogOptions { tokens_per_step: Some(TokensPerStep(2048)), ..LogOptions::default() };
    let log = StepLog::open_all(&disk(), std::slice::from_ref(&path), &options).unwrap();
    assert_eq!(steps(&log), [0, 1, 2, 3]);
    assert_eq!(log.entries()[3].loss, Some(loss(12)));
    let named = StepLog::open(&disk(), &path, &"step=iter".parse().unwrap()).unwrap();
    assert_eq!(named.last_step(), Some(Step(12)));
    // Without tokens, only counting is left.
    let bare: String = "iter,loss,step\n".to_owned()
        + &(1..=12u64).map(|iter| format!("{},2,{}\n", 4 * iter, 4 * iter - 1)).collect::<String>();
    write(&path, &bare);
    let hint = StepLog::open(&disk(), &path, &columns()).unwrap_err().hint().unwrap();
    assert!(hint.contains("--log-every") && !hint.contains("--tokens-per-step"), "{hint}");
    let options = LogOptions { log_every: Some(1), ..LogOptions::default() };
    assert_eq!(StepLog::open_all(&disk(), std::slice::from_ref(&path), &options).unwrap().last_step(), Some(Step(12)));
    // If the two columns differ in another way, `step` counts steps.
    let real: String = text.lines().take(1).map(|line| format!("{line}\n")).collect::<String>()
        + &(1..=12u64).map(|iter| format!("0,{iter},0.5,0.001,2,9,{},1,1\n", iter / 4)).collect::<String>();
    assert_eq!(parse_csv(real.as_bytes(), &columns()).unwrap().last_step(), Some(Step(3)));
}

#[test]
fn exports_of_weights_and_biases_need_no_flag() {
    let one = "\"Step\",\"run-7 - train/loss\",\"run-7 - train/loss__MIN\",\"run-7 - train/loss__MAX\"\n10,2.5,2,3\n";
    assert_eq!(parse_csv(one.as_bytes(), &columns()).unwrap().entries(), [entry(10, 2.5)]);
    let own = "\"Step\",\"run-7 - pretrain/my_loss\",\"run-7 - pretrain/my_loss__MIN\"\n10,2.5,2\n";
    let log = parse_csv(own.as_bytes(), &columns()).unwrap();
    assert_eq!(log.entries(), [entry(10, 2.5)]);
    assert!(matches!(log.notes(), [LogNote::LossByEnding { .. }]));
    // Of two runs side by side, or two columns of one run, the user must choose one.
    let two = "Step,a - train/loss,b - train/loss\n10,2.5,3.5\n";
    let error = parse_csv(two.as_bytes(), &columns()).unwrap_err();
    assert!(matches!(error, LogError::Ambiguous { field: LogField::Loss, .. }), "{error}");
    let log = parse_csv(two.as_bytes(), &"loss=b - train/loss".parse().unwrap()).unwrap();
    assert_eq!(log.entries(), [entry(10, 3.5)]);
    let error = parse_csv(b"Step,x/first_loss,x/second_loss\n10,2,3\n", &columns()).unwrap_err();
    assert!(matches!(error, LogError::NoColumn { field: LogField::Loss, .. }), "{error}");
    // Two runs one after the other are a restart.
    let text = "Step,a - train/loss\n10,2.5\n20,2.25\nStep,b - train/loss\n20,2.125\n";
    assert_eq!(parse_csv(text.as_bytes(), &columns()).unwrap().entries(), [entry(10, 2.5), entry(20, 2.125)]);
}

fn console(text: &str) -> StepLog {
    parse_console(text.as_bytes(), &columns()).unwrap()
}

#[test]
fn console_lines_of_trainers_are_read() {
    let whole = |step| LogEntry { learning_rate: Some(3e-4), grad_norm: Some(0.5), ..entry(step, loss(step)) };
    let megatron: String = [10, 20]
        .iter()
        .map(|step| {
            format!(
                " [2026-01-02 03:04:05] iteration {step:8}/  500000 | consumed samples: {:12} | elapsed time per iteration \
                 (ms): 1234.5 | learning rate: 3.000000E-04 | global batch size:   128 | lm loss: {:E} | loss scale: 1.0 | \
                 grad norm: 0.500 | number of skipped iterations:   0 | number of nan iterations:   0 |\n\
                 validation loss at iteration {step} | lm loss value: 9.9E+00 | lm loss PPL: 1.0E+01 | \n",
                128 * step,
                loss(*step)
            )
        })
        .collect();
    let text = format!("using world size: 8\nstep-by-step loss scaling\n{megatron}done\n");
    assert_eq!(console(&text).entries(), [whole(10), whole(20)]);
    let line = |rank: usize, step: u64| {
        format!(
            "[rank{rank}]:[titan] 2026-01-02 03:04:05,678 - root - INFO - \x1b[31mstep: {step:2}  \x1b[32mloss: \
             {:8.6}  \x1b[38;2;180;60;0mgrad_norm:  0.5000  \x1b[34mmemory: 10.00GiB(12%)  tps: 1,234  mfu: 12.3%\x1b[39m\n",
            loss(step)
        )
    };
    let text: String = [10u64, 20].iter().flat_map(|step| [line(0, *step), line(1, *step)]).collect();
    let log = console(&text);
    assert_eq!(log.entries()[1], LogEntry { grad_norm: Some(0.5), ..entry(20, 3.019531) });
    let olmo = "2026 olmo_core.train INFO [step=10/1000,epoch=1]\n    optim/LR (group 0)=0.0003\n    optim/total grad \
                norm=0.5000\n    train/CE loss=3.009765625\n    train/z loss=9\n2026 INFO other\n";
    assert_eq!(console(olmo).entries(), [whole(10)]);
    let nano =
        "step 0: train loss 4.1, val loss 4.2\niter 10: loss 3.009765625, time 12ms\niter 20: loss nan, time 1ms\n";
    let log = console(nano);
    assert_eq!(steps(&log), [10, 20]);
    assert!(log.entries()[1].loss.is_some_and(f64::is_nan));
}

#[test]
fn printed_dictionaries_take_their_step_from_the_bar_behind_them() {
    let dictionary =
        |step: u64| format!("{{'loss': {}, 'grad_norm': '0.5', 'learning_rate': 0.0003, 'epoch': 0.1}}\n", loss(step));
    let bar = |step: u64| format!("\r  1%|▏         | {step}/5000 [00:10<1:23:20,  1.00s/it]");
    let mut text = String::new();
    for step in 1..=30 {
        text += &bar(step);
        if step % 10 == 0 {
            text += &format!("\r        \r{}{}", dictionary(step), bar(step));
        }
        if step == 20 {
            text += "\r 50%|█████     | 5/10 [00:01<00:01]\n{'eval_loss': 9.0, 'epoch': 0.2}\n";
        }
    }
    let whole = |step| LogEntry { learning_rate: Some(3e-4), grad_norm: Some(0.5), ..entry(step, loss(step)) };
    assert_eq!(console(&text).entries(), [whole(10), whole(20), whole(30)]);
    // A dictionary on the line of the bar, or where the bar left the cursor.
    let text =
        format!("{}{}\n{}\n     {}{}\n", bar(10).trim_start(), dictionary(10).trim(), bar(19), dictionary(20), bar(20));
    assert_eq!(console(&text).entries(), [whole(10), whole(20)]);
    // A dictionary may have its own step, and a bar its own values.
    assert_eq!(console("{'loss': 2.5, 'step': 10}\n").entries(), [entry(10, 2.5)]);
    assert_eq!(console("Steps:   1%|▏ | 10/5000 [00:10<1:23:20, loss=2.5]").entries(), [entry(10, 2.5)]);
    // Without either there is no step, unless the user says how far apart the losses are.
    let bare: String = [10, 20, 30].into_iter().map(dictionary).collect();
    let error = parse_console(bare.as_bytes(), &columns()).unwrap_err();
    assert!(matches!(error, LogError::NoColumn { field: LogField::Step, .. }), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.log");
    write(&path, &bare);
    let error = StepLog::open(&disk(), &path, &columns()).unwrap_err();
    assert!(error.hint().unwrap().contains("--log-every N"), "{:?}", error.hint());
    let options = LogOptions { log_every: Some(10), ..LogOptions::default() };
    assert_eq!(StepLog::open_all(&disk(), &[path], &options).unwrap().entries(), [whole(10), whole(20), whole(30)]);
}

/// What Trainer prints after these bars of the preparation of its data.
fn check_trainer_after(bars: &str) {
    let bar = |step: u64| format!("\r  0%|          | {step}/5000 [00:10<1:23:20,  1.00s/it]");
    let mut text = format!("{bars}\n\r  0%|          | 0/5000 [00:00<?, ?it/s]");
    for step in 1..=30 {
        text += &bar(step);
        if step % 10 == 0 {
            let dictionary = format!("{{'loss': {}, 'grad_norm': 0.5, 'epoch': 0.1}}", loss(step));
            text += &format!("\n{:60}\n{dictionary}\n{}", "", bar(step));
        }
        if step % 15 == 0 {
            text += "\n\r 50%|█████     | 5/10 [00:01<00:01]\r100%|██████████| 10/10 [00:02<00:00]\n";
            text += "{'eval_loss': 9.0, 'epoch': 0.2}\n";
        }
    }
    let whole = |step| LogEntry { grad_norm: Some(0.5), ..entry(step, loss(step)) };
    assert_eq!(console(&text).entries(), [whole(10), whole(20), whole(30)], "{bars}");
}

#[test]
fn larger_bars_before_training_do_not_hide_its_steps() {
    check_trainer_after("");
    check_trainer_after("Map: 100%|██████████| 500/500 [00:01<00:00, 8000.00 examples/s]");
    check_trainer_after(
        "\rMap:   0%|          | 0/50000 [00:00<?, ? examples/s]\rMap: 100%|██████████| 50000/50000 [00:06<00:00]",
    );
    check_trainer_after(
        "Filter: 100%|██████████| 60000/60000 [00:06<00:00]\nGrouping: 100%|██████████| 50000/50000 [00:06<00:00]",
    );
}

#[test]
fn a_smaller_bar_takes_over_only_where_it_directly_follows_a_dictionary() {
    let dictionary = |step| format!("{{'loss': {}}}\n", loss(step));
    let bar = |step: u64, n: u64| format!("\r  0%|          | {step}/{n} [00:10<1:23:20]");
    // The bar of training has given its steps, so that a bar of an evaluation gives none.
    let training = format!("{}{}\n", dictionary(10), bar(10, 5000));
    let text = format!("{training}{}{}{}", dictionary(20), bar(3, 100), bar(20, 5000));
    assert_eq!(console(&text).entries(), [entry(10, loss(10)), entry(20, loss(20))]);
    // Another line comes between.
    let text = format!("{}\n{}Evaluating\n{}{}", bar(0, 5000), dictionary(10), bar(3, 100), bar(10, 5000));
    assert_eq!(console(&text).entries(), [entry(10, loss(10))]);
}

#[test]
fn the_kind_of_a_log_is_recognised_after_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, text: String| -> Result<StepLog, Error> {
        let path: &Path = &folder.path().join(name);
        write(path, text);
        StepLog::open(&disk(), path, &columns())
    };
    let lines = line(10) + &line(20) + &line(30);
    check_entries(&open("cut.jsonl", format!("oss\": 2.5}}\n{lines}")).unwrap(), &[10, 20, 30]);
    check_entries(&open("nul.jsonl", format!("{}{lines}", "\0".repeat(4096))).unwrap(), &[10, 20, 30]);
    let text = "W0102 launcher.py: starting\n iteration 10/ 20 | lm loss: 2.5E+00 |\n".to_owned();
    assert_eq!(open("slurm-1.out", text).unwrap().entries(), [entry(10, 2.5)]);
    let text = "{\"config\": 1}\nlaunching\nranks: 8\ndone\nready\n iteration 10/ 20 | lm loss: 2.5E+00 |\n".to_owned();
    assert_eq!(open("slurm-2.out", text).unwrap().entries(), [entry(10, 2.5)]);
    assert_eq!(open("print.log", "{'loss': 2.5, 'step': 10}\n".to_owned()).unwrap().entries(), [entry(10, 2.5)]);
    let unknown = open("own.csv", "it,ce\n5,1.5\n".to_owned()).unwrap_err();
    assert!(unknown.to_string().ends_with("; the columns are `ce`, `it`"), "{unknown}");
}

fn segments(steps: impl IntoIterator<Item = u64>) -> String {
    steps.into_iter().map(line).collect()
}

#[test]
fn steps_that_count_within_an_epoch_are_refused_by_name() {
    let epoch = || (0..500).step_by(10);
    for last in [10, 200, 500] {
        let text = segments(epoch().chain(epoch()).chain((0..last).step_by(10)));
        let error = parse_json_lines(text.as_bytes(), &columns()).unwrap_err();
        let LogError::WithinEpoch { column, n_restarts, last } = error else { panic!("{error}") };
        assert_eq!((column.as_deref(), n_restarts, last), (Some("step"), 2, Step(490)));
    }
    // Batches that are logged by a counter of the whole run: epochs begin and end within one spacing.
    let text = segments((0..2000).step_by(30).map(|step| step % 500));
    assert!(matches!(parse_json_lines(text.as_bytes(), &columns()), Err(LogError::WithinEpoch { .. })));
}

#[test]
fn runs_that_crashed_and_began_again_are_not_epochs() {
    let run = |to: u64| (10..=to).step_by(10);
    // Two crashes at different steps; one crash; restarts from checkpoints.
    for (text, expected) in [
        (segments(run(50).chain(run(120)).chain(run(300))), 300),
        (segments(run(100).chain(run(300))), 300),
        (segments(run(100).chain((60..=100).step_by(10)).chain((60..=300).step_by(10))), 300),
        (segments(run(100).chain(run(100)).chain(run(300))), 300),
    ] {
        let log = parse_json_lines(text.as_bytes(), &columns()).unwrap();
        assert_eq!((log.last_step(), log.entries().len()), (Some(Step(expected)), 30));
    }
}

#[test]
fn losses_are_counted_where_the_user_says_how_far_apart_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    write(&path, segments((0..500).step_by(10).chain((0..500).step_by(10)).chain((0..500).step_by(10))).as_bytes());
    let options = LogOptions { log_every: Some(10), ..LogOptions::default() };
    let log = StepLog::open_all(&disk(), &[path], &options).unwrap();
    assert_eq!((log.entries().len(), log.last_step()), (150, Some(Step(1500))));
    assert_eq!(log.notes(), [LogNote::StepsCounted { log_every: 10 }]);
}

#[test]
fn a_count_at_the_beginning_of_a_line_is_its_step() {
    let lines: String =
        (0..40).map(|i| format!("{}/2000 train_loss:{} train_time:12ms\n", 10 * i, loss(10 * i))).collect();
    let log = parse_console(lines.as_bytes(), &columns()).unwrap();
    check_entries(&log, &(0..40).map(|i| 10 * i).collect::<Vec<_>>());
}

#[test]
fn a_loss_that_is_written_as_missing_to_the_end_is_nan() {
    for absent in ["null", "\"N/A\"", "\"None\""] {
        let text: String = (1..=40)
            .map(|i| if i <= 30 { line(10 * i) } else { format!("{{\"step\": {}, \"loss\": {absent}}}\n", 10 * i) })
            .collect();
        let log = parse_json_lines(text.as_bytes(), &columns()).unwrap();
        assert!(log.entries().last().unwrap().loss.unwrap().is_nan(), "{absent}");
        assert!(matches!(log.notes(), [LogNote::NullLosses { from: Step(310), n_records: 10 }]), "{absent}");
    }
}

#[test]
fn a_log_that_begins_with_its_newest_record_is_read_from_its_end() {
    let newest_first = |steps: &[u64]| steps.iter().rev().map(|step| line(*step)).collect::<String>();
    let read = |text: &str| parse_json_lines(text.as_bytes(), &columns()).unwrap();
    let ascending: Vec<u64> = (1..=40).map(|step| step * 10).collect();
    for expected in [&ascending[..], &ascending[..4]] {
        let log = read(&newest_first(expected));
        check_entries(&log, expected);
        assert_eq!(log.notes(), [LogNote::NewestFirst]);
    }
    // The run went back once: what it did last counts, and that is what comes first.
    let again: Vec<u64> = ascending.iter().copied().chain((20..30).map(|step| step * 10)).collect();
    let log = read(&newest_first(&again));
    check_entries(&log, &ascending[..29]);
    assert_eq!(log.notes(), [LogNote::NewestFirst, LogNote::Rewound { from: Step(400), to: Step(200) }]);
    // A better column for the loss appears in an older record.
    let mixed =
        "{\"step\":4,\"my_loss\":9}\n{\"step\":3,\"my_loss\":9}\n{\"step\":2,\"loss\":7}\n{\"step\":1,\"loss\":8}\n";
    assert_eq!(read(mixed).entries(), [entry(1, 8.0), entry(2, 7.0)]);
    // Three steps that fall are one resumption after another.
    assert_eq!(read(&newest_first(&[10, 20, 30])).notes(), [LogNote::Rewound { from: Step(30), to: Step(20) }]);
}
