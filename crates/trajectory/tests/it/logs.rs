//! Step logs of all four kinds: the same numbers from each, and no harm from broken ones.

use std::fs;

use thalweg_trajectory::{
    ColumnMap, Error, LogEntry, LogError, LogField, LogNote, Step, StepLog, TextError, Tokens, parse_console,
    parse_csv, parse_database, parse_event_file, parse_json_lines, parse_trainer_progress, parse_trainer_state,
};

use crate::random::Random;
use crate::support::{disk, fixture, write};

fn columns() -> ColumnMap {
    ColumnMap::default()
}

fn lines(text: &str) -> Result<StepLog, LogError> {
    parse_json_lines(text.as_bytes(), &columns())
}

fn csv(text: &str) -> Result<StepLog, LogError> {
    parse_csv(text.as_bytes(), &columns())
}

fn state(text: &str) -> Result<StepLog, LogError> {
    parse_trainer_state(text.as_bytes(), &columns())
}

/// Entries with NaN made comparable.
fn bits(log: &StepLog) -> Vec<(Step, Option<Tokens>, [Option<u64>; 3])> {
    let bits = |x: Option<f64>| x.map(f64::to_bits);
    let row = |e: &LogEntry| (e.step, e.tokens, [bits(e.loss), bits(e.learning_rate), bits(e.grad_norm)]);
    log.entries().iter().map(row).collect()
}

fn entry(step: u64, loss: f64) -> LogEntry {
    LogEntry { step: Step(step), tokens: None, loss: Some(loss), learning_rate: None, grad_norm: None }
}

#[test]
fn event_files_of_three_writers_hold_what_was_written() {
    let folder = fixture("step-logs");
    let expected = StepLog::open(&disk(), &folder.join("expected.jsonl"), &columns()).unwrap();
    assert_eq!(expected.entries().len(), 20);
    assert!(expected.entries()[12].loss.is_some_and(f64::is_nan));
    for name in ["simple.tfevents", "tensor.tfevents", "torch.tfevents"] {
        let log = StepLog::open(&disk(), &folder.join(name), &columns()).unwrap();
        assert_eq!(bits(&log), bits(&expected), "{name}");
        assert!(log.notes().is_empty(), "{name}: {:?}", log.notes());
    }
}

#[test]
fn trackers_hold_what_was_logged() {
    let folder = fixture("step-logs");
    let expected = StepLog::open(&disk(), &folder.join("expected.jsonl"), &columns()).unwrap();
    // The newest rows of `wal.db` are in its write-ahead log.
    for name in ["trackio.db", "trackio.db#run", "wal.db", "mlflow.db#run", "mlflow-run", "wandb.jsonl"] {
        let log = StepLog::open(&disk(), &folder.join(name), &columns()).unwrap();
        assert_eq!(bits(&log), bits(&expected), "{name}");
        assert!(log.notes().is_empty(), "{name}: {:?}", log.notes());
    }
    let other = StepLog::open(&disk(), &folder.join("mlflow.db#other"), &columns()).unwrap();
    assert_eq!(bits(&other), bits(&expected)[..2]);
}

#[test]
fn a_database_of_several_runs_asks_which_one() {
    let folder = fixture("step-logs");
    for (name, said) in [
        ("mlflow.db", "it holds several runs: `other`, `run`"),
        ("mlflow.db#third", "it holds no run `third`, but `other`, `run`"),
        ("trackio.db#other", "it holds no run `other`, but `run`"),
    ] {
        let error = StepLog::open(&disk(), &folder.join(name), &columns()).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.hint().unwrap().contains("#NAME"), "{error}");
    }
}

#[test]
fn a_damaged_database_is_an_error_or_fewer_rows() {
    let folder = fixture("step-logs");
    let whole = fs::read(folder.join("wal.db")).unwrap();
    let log = fs::read(folder.join("wal.db-wal")).unwrap();
    let mut random = Random::new(23);
    for _ in 0..300 {
        let (mut file, mut log) = (whole.clone(), log.clone());
        for bytes in [&mut file, &mut log] {
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            bytes.truncate(bytes.len() - random.below(bytes.len() / 2));
        }
        // Whatever comes out, it ends.
        let _ = parse_database(&file, Some(&log), &columns());
    }
    // Without its log, or with one whose last transaction is torn, the rows before are there.
    let n_rows = |log: Option<&[u8]>| parse_database(&whole, log, &columns()).unwrap().entries().len();
    assert_eq!([n_rows(Some(&log)), n_rows(Some(&log[..log.len() - 1])), n_rows(None)], [20, 19, 15]);
}

#[test]
fn the_same_log_is_read_from_all_kinds_of_text() {
    let expected = [
        LogEntry {
            step: Step(10),
            tokens: Some(Tokens(18_014_398_509_481_985)),
            loss: Some(3.5),
            learning_rate: Some(1e-4),
            grad_norm: Some(0.25),
        },
        LogEntry { step: Step(20), tokens: None, loss: Some(f64::INFINITY), learning_rate: None, grad_norm: None },
    ];
    let json = "{\"step\":10,\"loss\":3.5,\"lr\":1e-4,\"grad_norm\":0.25,\"tokens\":18014398509481985}\n\n\
                {\"loss\":Infinity,\"other\":[1,{\"loss\":2}],\"step\":20,\"grad_norm\":null}\n";
    assert_eq!(lines(json).unwrap().entries(), expected);
    let text = "\u{feff}step,\"train/loss\",learning-rate,Grad_Norm,consumed tokens,note\r\n\
                10,3.5,0.0001,\"0.25\",18014398509481985,\"a \"\"b\"\", c\nd\"\r\n20.0,inf,,NA,,x\r\n";
    assert_eq!(csv(text).unwrap().entries(), expected);
    assert_eq!(csv(&text.replace(',', ";")).unwrap().entries(), expected);
    assert_eq!(csv("step\tloss\n10\t3.5\n").unwrap().entries(), [entry(10, 3.5)]);
    let history = "{\"best\": null, \"log_history\": [{\"step\":10,\"loss\":3.5,\"learning_rate\":1e-4,\"grad_norm\":0.25,\
                   \"num_input_tokens_seen\":18014398509481985}, {\"step\":20,\"loss\":Infinity}], \"global_step\": 20}";
    assert_eq!(state(history).unwrap().entries(), expected);
}

#[test]
fn names_are_taken_as_trainers_write_them() {
    for step in ["step", "global_step", "iteration", "_step", "train/global_step", "trainer/global_step", "Step"] {
        for loss in ["loss", "train_loss", "train/loss", "lm loss", "lm-loss", "train.loss"] {
            let log = lines(&format!("{{\"{step}\": 7, \"{loss}\": 2.5}}")).unwrap();
            assert_eq!(log.entries(), [entry(7, 2.5)], "{step} {loss}");
        }
    }
    let nested =
        lines(r#"{"train": {"loss": 2.5, "lr": 0.5}, "global_step": 7, "opt": {"a": {"b": {"c": {"d": 1}}}}}"#)
            .unwrap();
    assert_eq!(nested.entries(), [LogEntry { learning_rate: Some(0.5), ..entry(7, 2.5) }]);
    assert_eq!(nested.columns()[&LogField::Loss], "train/loss");
    // Numbers in strings, as some exports have them.
    assert!(lines(r#"{"step": "7", "loss": "NaN"}"#).unwrap().entries()[0].loss.is_some_and(f64::is_nan));
}

#[test]
fn the_mean_loss_of_a_whole_run_is_not_taken_for_its_last_loss() {
    let log = state(
        r#"{"log_history": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 25, "train_loss": 2.9, "total_flos": 1e18}]}"#,
    );
    assert_eq!(log.unwrap().entries(), [entry(10, 3.0), entry(20, 2.0)]);
}

#[test]
fn a_log_without_step_or_loss_lists_the_names_it_has() {
    let error = lines("{\"epoch\": 1, \"loss\": 2}\n{\"epoch\": 2, \"lr\": 2}\n").unwrap_err();
    assert_eq!(error.to_string(), "no column holds the step; the columns are `epoch`, `loss`, `lr`");
    let error = csv("step,ce\n1,2\n").unwrap_err();
    assert_eq!(error, LogError::NoColumn { field: LogField::Loss, found: vec!["ce".to_owned(), "step".to_owned()] });
    assert!(matches!(csv(""), Err(LogError::NoColumn { field: LogField::Step, .. })));
    assert_eq!(state("{\"global_step\": 5}"), Err(LogError::NoHistory));
}

#[test]
fn columns_can_be_named() {
    let map: ColumnMap = "loss=ce, step=it".parse().unwrap();
    let log = parse_csv(b"it,ce,loss,step\n5,1.5,9,9\n", &map).unwrap();
    assert_eq!(log.entries(), [entry(5, 1.5)]);
    let error = parse_csv(b"it,loss\n5,1.5\n", &map).unwrap_err();
    assert!(error.to_string().starts_with("there is no column `ce` for the loss"), "{error}");
    for bad in ["loss", "loss=", "los=x", "loss=a,loss=b", "", "=x"] {
        assert!(matches!(bad.parse::<ColumnMap>(), Err(TextError::BadColumns { .. })), "{bad}");
    }
}

#[test]
fn mostly_broken_lines_are_errors_with_their_number_and_a_torn_end_is_noted() {
    let good = "{\"step\":1,\"loss\":2}\n";
    let broken = lines(&format!("{{\"step\":2,\"lo\n[1]\n{good}")).unwrap_err();
    assert!(matches!(broken, LogError::Line { line: 1, .. }), "{broken}");
    assert!(matches!(lines(&format!("{good}[1]\n[1]\n")), Err(LogError::Line { line: 2, .. })));
    assert!(matches!(lines("{} x\n"), Err(LogError::Line { line: 1, .. })));
    let torn = lines(&format!("{good}{{\"step\":2,\"loss\":3,\"l")).unwrap();
    assert_eq!(torn.entries(), [entry(1, 2.0)]);
    assert_eq!(torn.notes(), [LogNote::TornEnd { at: "line 2".to_owned() }]);
    let torn = csv("step,loss,lr\n1,2,3\n2,3").unwrap();
    assert_eq!(torn.notes(), [LogNote::TornEnd { at: "line 3".to_owned() }]);
    assert!(matches!(csv("step,loss\n1,2,3\n"), Err(LogError::Line { line: 2, .. })));
    assert!(matches!(csv("step,loss\n1,\"2\n"), Err(LogError::Line { line: 2, .. })));
    let cell = csv("step,loss\n2,two\n").unwrap_err();
    assert_eq!(cell.to_string(), "line 2: column `loss` holds `two`, which is not a number");
    assert!(matches!(state("{\"log_history\": [{\"step\": 1, \"loss\": 2}, "), Err(LogError::Json { .. })));
}

#[test]
fn a_run_that_went_back_keeps_what_it_did_last() {
    let text = |steps: &[(u64, f64)]| {
        steps.iter().map(|(step, loss)| format!("{{\"step\":{step},\"loss\":{loss}}}\n")).collect::<String>()
    };
    let log = lines(&text(&[(10, 5.0), (20, 4.0), (30, 9.0), (40, 9.5), (20, 4.1), (30, 3.5)])).unwrap();
    assert_eq!(log.entries(), [entry(10, 5.0), entry(20, 4.1), entry(30, 3.5)]);
    assert_eq!(log.notes(), [LogNote::Rewound { from: Step(40), to: Step(20) }]);
    // Lines merely out of order are put in order, and lines of one step are joined.
    let log = lines("{\"step\":2,\"loss\":2}\n{\"step\":1,\"loss\":3}\n{\"step\":1,\"lr\":0.5}\n").unwrap();
    assert_eq!(log.entries(), [LogEntry { learning_rate: Some(0.5), ..entry(1, 3.0) }, entry(2, 2.0)]);
    assert!(log.notes().is_empty());
}

#[test]
fn records_without_a_whole_step_are_counted() {
    let log =
        lines("{\"step\":1,\"loss\":2}\n{\"loss\":2}\n{\"step\":1.5,\"loss\":2}\n{\"step\":-3,\"loss\":1}\n").unwrap();
    assert_eq!(log.entries(), [entry(1, 2.0)]);
    assert_eq!(log.notes(), [LogNote::NoStep { n_records: 3 }]);
}

#[test]
fn words_in_strings_are_left_alone() {
    let log = lines("{\"note\":\"NaN \\\" Infinity\",\"step\":1,\"loss\":-Infinity}\n").unwrap();
    assert_eq!(log.entries(), [entry(1, f64::NEG_INFINITY)]);
}

#[test]
fn progress_is_read_from_states_of_any_age() {
    let read = |text: &str| parse_trainer_progress(text.as_bytes()).unwrap();
    let state = read(r#"{"log_history": [{"loss": NaN}], "global_step": 500, "num_input_tokens_seen": 4096}"#);
    assert_eq!((state.step, state.tokens), (Some(Step(500)), Some(Tokens(4096))));
    let state = read(r#"{"global_step": [[1]], "num_input_tokens_seen": 0}"#);
    assert_eq!((state.step, state.tokens), (None, None));
    assert!(parse_trainer_progress(b"{").is_err() && parse_trainer_progress(b"[]").is_err());
}

#[test]
fn the_kind_is_seen_from_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, text: &str| {
        let path = folder.path().join(name);
        write(&path, text);
        StepLog::open(&disk(), &path, &columns()).map(|log| log.entries().to_vec())
    };
    let expected = vec![entry(1, 2.0)];
    assert_eq!(open("a.log", "{\"step\":1,\"loss\":2}\n").unwrap(), expected);
    assert_eq!(open("a.json", "{\"step\":1,\"loss\":2}\n").unwrap(), expected);
    assert_eq!(open("b.txt", "step,loss\n1,2\n").unwrap(), expected);
    assert_eq!(open("trainer_state.json", "{\"log_history\":[{\"step\":1,\"loss\":2}]}").unwrap(), expected);
    assert_eq!(open("state", "{\n \"log_history\":[{\"step\":1,\"loss\":2}]}").unwrap(), expected);
    for list in [
        "[{\"step\":1,\"loss\":2}]",
        "[\n  {\n    \"step\": 1,\n    \"loss\": 2\n  }\n]\n",
        "\u{feff}[ {\"step\": 1, \"loss\": 2, \"grad_norm\": NaN} ]",
        "[\n{\"step\": 1, \"loss\": 2},\n{\"lr\": 0.5}\n]",
    ] {
        assert_eq!(open("history.json", list).unwrap()[0].loss, Some(2.0), "{list}");
    }
    assert!(matches!(open("torn.json", "[{\"step\":1,\"loss\":2},"), Err(Error::Log { .. })));
    for (name, text) in [("empty", ""), ("list", "[1]"), ("binary", "\0\0\0"), ("prose", "It was a dark night\n")] {
        let error = open(name, text).unwrap_err();
        assert!(matches!(&error, Error::Log { source, .. } if **source == LogError::UnknownKind), "{name}: {error}");
        assert!(error.hint().is_some());
    }
    let missing = StepLog::open(&disk(), &folder.path().join("nothing"), &columns());
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[test]
fn a_folder_of_event_files_is_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(fixture("step-logs/simple.tfevents")).unwrap();
    write(&folder.path().join("events.out.tfevents.2.host"), &bytes);
    // The first file was cut off by a crash; the second begins again before its end.
    write(&folder.path().join("events.out.tfevents.1.host"), &bytes[..2000]);
    write(&folder.path().join("other.txt"), "x");
    let log = StepLog::open(&disk(), folder.path(), &columns()).unwrap();
    let whole = parse_event_file(&bytes, &columns()).unwrap();
    assert_eq!(bits(&log), bits(&whole));
    assert!(matches!(log.notes(), [LogNote::TornEnd { .. }, LogNote::Rewound { .. }]), "{:?}", log.notes());
    let empty = tempfile::tempdir().unwrap();
    assert!(StepLog::open(&disk(), empty.path(), &columns()).is_err());
}

#[test]
fn damaged_records_are_skipped_and_torn_ones_are_noted() {
    let bytes = fs::read(fixture("step-logs/tensor.tfevents")).unwrap();
    for cut in [bytes.len() - 1, bytes.len() - 6, bytes.len() - 100] {
        let log = parse_event_file(&bytes[..cut], &columns()).unwrap();
        assert!(matches!(log.notes(), [LogNote::TornEnd { .. }]), "{cut}");
    }
    let mut damaged = bytes.clone();
    damaged[1000] ^= 1;
    let whole = parse_event_file(&bytes, &columns()).unwrap();
    let log = parse_event_file(&damaged, &columns()).unwrap();
    assert!(matches!(log.notes(), [LogNote::Damaged { n_lines: 1, .. }]), "{:?}", log.notes());
    assert!(log.entries().len() + 1 >= whole.entries().len());
    // Damage to the head of the file, a hole in the middle, and bytes that are not an event file.
    damaged = bytes.clone();
    damaged[0] ^= 1;
    assert_eq!(bits(&parse_event_file(&damaged, &columns()).unwrap()), bits(&whole));
    damaged = bytes.clone();
    damaged[800..1000].fill(0);
    let log = parse_event_file(&damaged, &columns()).unwrap();
    assert!(matches!(log.notes(), [LogNote::Damaged { n_lines: 1, .. }]), "{:?}", log.notes());
    assert!(!log.entries().is_empty());
    let error = parse_event_file(&[7; 1000], &columns()).unwrap_err();
    assert!(error.to_string().starts_with("record at byte 0: the checksum of the length is wrong"), "{error}");
}

fn record(data: &[u8]) -> Vec<u8> {
    let mask = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &mask(&length), data, &mask(data)].concat()
}

#[test]
fn lengths_beyond_the_file_and_messages_beyond_the_record_do_no_harm() {
    let huge = u64::MAX.to_le_bytes();
    let mask = crc32c::crc32c(&huge).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let torn = parse_event_file(&[&huge[..], &mask, b"x"].concat(), &columns());
    assert!(matches!(torn, Err(LogError::NoColumn { .. })), "{torn:?}");
    // A length that reaches over the message, a varint without end, a group, an empty value.
    for data in [&[0x2a, 0xff, 0xff, 0xff, 0x7f][..], &[0x10; 1], &[0x80; 12], &[0x0b], &[0x2a, 2, 0x0a, 9]] {
        let bytes = [record(data), record(&[0x10, 1])].concat();
        let error = parse_event_file(&bytes, &columns()).unwrap_err();
        assert!(matches!(error, LogError::Record { at_byte: 0, .. }), "{data:?}: {error}");
    }
    let large = record(&vec![0; (1 << 20) + 1]);
    let mut bytes = fs::read(fixture("step-logs/simple.tfevents")).unwrap();
    bytes.extend_from_slice(&large);
    assert_eq!(parse_event_file(&bytes, &columns()).unwrap().notes(), [LogNote::LargeRecords { n_records: 1 }]);
}

#[test]
fn no_bytes_make_a_parser_panic() {
    let seeds: [Vec<u8>; 4] = [
        fs::read(fixture("step-logs/simple.tfevents")).unwrap(),
        fs::read(fixture("step-logs/expected.jsonl")).unwrap(),
        b"step,\"loss\",lr\n1,2,\"3\"\n2,NaN,4\n".repeat(4),
        br#"{"a": [[{}]], "log_history": [{"step": 1, "loss": NaN, "x": {"y": {}}}, {"step": 2, "loss": 1e999}]}"#
            .to_vec(),
    ];
    let mut random = Random::new(1);
    for round in 0..4000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next().to_le_bytes()[0],
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"\"{}[],\n:\\0Ne"[random.below(12)]),
            }
        }
        let _ = parse_json_lines(&bytes, &columns());
        let _ = parse_csv(&bytes, &columns());
        let _ = parse_console(&bytes, &columns());
        let _ = parse_trainer_state(&bytes, &columns());
        let _ = parse_trainer_progress(&bytes);
        let _ = parse_event_file(&bytes, &columns());
    }
    let deep = "[".repeat(1_000_000);
    assert!(lines(&format!("{{\"a\":{deep}\n{{}}\n")).is_err());
    assert!(lines(&format!("{}\n{{}}\n", "{\"a\":".repeat(1_000_000))).is_err());
    assert!(state(&format!("{{\"log_history\":{deep}")).is_err());
}
