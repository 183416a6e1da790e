//! Tiny checkpoints are read by the format's own library and by ours.

use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use thalweg_checkpoint::open_checkpoint;
use thalweg_storage::{MemoryStorage, Storage};
use thalweg_tensor::{Dtype, TensorSource};
use thalweg_testkit::{RunLayout, RunLog, Sharding, TinyCheckpoint, TinyRun, TinySchedule};

fn two_tensors() -> TinyCheckpoint {
    TinyCheckpoint::new()
        .tensor("b", Dtype::Bf16, &[2, 2], &[1.0, -2.0, 0.5, 0.0])
        .tensor("a", Dtype::F32, &[], &[0.25])
        .tensor("empty", Dtype::I64, &[0, 3], &[])
}

#[test]
fn the_formats_own_library_reads_them() {
    let files = two_tensors().files();
    let file = SafeTensors::deserialize(&files["model.safetensors"]).unwrap();
    let tensor = file.tensor("b").unwrap();
    assert_eq!((tensor.shape(), tensor.dtype()), (&[2, 2][..], safetensors::Dtype::BF16));
    assert_eq!(tensor.data(), [0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3f, 0x00, 0x00]);
    assert_eq!(file.tensor("a").unwrap().data(), 0.25_f32.to_le_bytes());
    assert_eq!(file.tensor("empty").unwrap().shape(), [0, 3]);
    assert_eq!(file.len(), 3);
}

#[test]
fn shards_and_index_name_every_tensor_once() {
    let files = two_tensors().sharding(Sharding::Shards(2)).files();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(names, [shards[0], shards[1], "model.safetensors.index.json"]);
    let index: serde_json::Value = serde_json::from_slice(&files["model.safetensors.index.json"]).unwrap();
    assert_eq!(index["metadata"]["total_size"], 12);
    for (name, file) in index["weight_map"].as_object().unwrap() {
        SafeTensors::deserialize(&files[file.as_str().unwrap()]).unwrap().tensor(name).unwrap();
    }
    assert_eq!(index["weight_map"].as_object().unwrap().len(), 3);
}

#[test]
fn our_reader_opens_them_from_memory() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    for sharding in [Sharding::Single, Sharding::Shards(5)] {
        let folder = Path::new("/checkpoint").join(format!("{sharding:?}"));
        TinyCheckpoint::llama(Dtype::F16, 1.5).sharding(sharding).write_to(&*storage, &folder);
        let checkpoint = open_checkpoint(&storage, &folder).unwrap();
        let entries = checkpoint.catalog().entries();
        assert_eq!(entries.iter().map(|entry| entry.n_elements()).sum::<u64>(), 40);
        for (tensor_idx, entry) in entries.iter().enumerate() {
            let mut bytes = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
            checkpoint.read_elements(tensor_idx, 0..entry.n_elements(), &mut bytes).unwrap();
            assert!(bytes.chunks(2).all(|element| element == [0x00, 0x3e]), "{}", entry.name);
        }
    }
}

#[test]
fn runs_stand_where_their_layout_says() {
    let names = RunLayout::ALL.map(|layout| {
        let storage = MemoryStorage::new();
        let folder = Path::new("/run");
        let run = TinyRun::new(layout, &[1000]);
        run.write_to(&storage, folder);
        let entries = storage.list_folder(folder).unwrap();
        assert_eq!(entries.len(), 1);
        assert!(storage.file_info(&run.checkpoint_path(folder, 1000)).is_ok());
        entries[0].name.clone()
    });
    let expected = [
        "checkpoint-1000",
        "step1000",
        "step-1000",
        "step_1000",
        "global_step1000",
        "iter_0001000",
        "ep0-ba1000",
        "step1000-tokens4B",
        "1000",
        "step_1000.safetensors",
    ];
    assert_eq!(names, expected);
}

#[test]
fn logs_say_what_the_schedule_says() {
    let schedule = TinySchedule { warmup_steps: 20, stable_until: 80, n_steps: 100 };
    let run = TinyRun::new(RunLayout::Checkpoint, &[50, 100]).schedule(schedule).unfinished(110);
    let shares: Vec<f64> = run.rows(u64::MAX).map(|row| row.learning_rate * 1000.0).collect();
    assert_eq!(shares, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]);
    let folder = Path::new("/run");
    let read = |log: RunLog, name: &str| {
        let storage = MemoryStorage::new();
        run.clone().log(log).write_to(&storage, folder);
        assert!(storage.file_info(&folder.join("checkpoint-110/model-00001-of-00002.safetensors")).is_ok());
        String::from_utf8(storage.read_file(&folder.join(name), 10_000).unwrap()).unwrap()
    };
    let state: serde_json::Value =
        serde_json::from_str(&read(RunLog::TrainerState, "checkpoint-50/trainer_state.json")).unwrap();
    assert_eq!((&state["global_step"], &state["num_input_tokens_seen"]), (&50.into(), &200_000_000.into()));
    assert_eq!(state["log_history"].as_array().unwrap().len(), 5);
    assert_eq!(state["log_history"][4]["loss"], 3.0);
    let csv = read(RunLog::Csv, "log.csv");
    assert_eq!(csv.lines().nth(5), Some("50,200000000,3,0.001,0.6"));
    let line: serde_json::Value =
        serde_json::from_str(read(RunLog::JsonLines, "log.jsonl").lines().nth(9).unwrap()).unwrap();
    assert_eq!((&line["step"], &line["learning_rate"]), (&100.into(), &0.0.into()));
}
