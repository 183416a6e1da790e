//! Checkpoints in which every rank wrote its part of the model to a torch.save file: each part is merged with the
//! same part of the others, into files of the same names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use thalweg_testkit::{Scratch, copy_folder};

use crate::kill::{signal, wait_for_journal};
use crate::saved::Type::{Bf16, F32};
use crate::saved::{Node, Saved, dict, values};
use crate::support::{check, program, root};
use crate::torch::tensors;

type Tensors = BTreeMap<String, (String, String, Vec<u8>)>;

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures/ranks").join(name)
}

fn picotron(rank: u32) -> String {
    format!("weights_tp_rank_world_size={rank}_2_pp_rank_world_size=0_1.pth")
}

fn verl(rank: u32) -> String {
    format!("model_world_size_2_rank_{rank}.pt")
}

/// The mean of F32 tensors of two files, computed without the program's kernels.
fn mean(a: &Tensors, b: &Tensors) -> Tensors {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    };
    let of = |(name, (dtype, shape, bytes)): (&String, &(String, String, Vec<u8>))| {
        assert_eq!((dtype.as_str(), shape), ("F32", &b[name].1), "{name}");
        let both = floats(bytes).into_iter().zip(floats(&b[name].2));
        let mean = both.flat_map(|(a, b)| f32::midpoint(a, b).to_le_bytes()).collect();
        (name.clone(), (dtype.clone(), shape.clone(), mean))
    };
    assert_eq!(a.len(), b.len());
    a.iter().map(of).collect()
}

#[track_caller]
fn assert_equal(found: &Tensors, expected: &Tensors) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    found.iter().for_each(|(name, tensor)| assert!(*tensor == expected[name], "{name}"));
}

/// What the files of ranks in a folder hold, each opened by itself.
fn in_files(folder: &Path, files: &[String]) -> Vec<Tensors> {
    files.iter().map(|file| tensors(&folder.join(file))).collect()
}

/// Every file in a folder and below, with its bytes.
fn all_files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => {
                    found.insert(entry.strip_prefix(folder).unwrap().to_owned(), fs::read(&entry).unwrap());
                }
            }
        }
    }
    found
}

#[test]
fn each_file_that_picotron_wrote_is_merged_with_the_same_file_of_the_other_steps() {
    let scratch = Scratch::new();
    copy_folder(&fixture("picotron"), &scratch.join("run"));
    for step in [100, 200] {
        fs::write(scratch.join(format!("run/{step}/config.json")), "{\"model_type\": \"llama\"}").unwrap();
    }
    let told =
        ["the model is cut into ranks", "such as `weights_tp_rank_world_size=0_2_pp_rank_world_size=0_1.norm.weight`"];
    check(&scratch, "inspect run/100", 0, &told);
    check(&scratch, "inspect run", 0, &["2 finished; format: torch"]);
    let told = ["merged 2 checkpoints (steps 100, 200)", "everything else is as in `200`", "verify out --inputs"];
    let told = check(&scratch, "merge run --last 2 -o out", 0, &told);
    assert!(scratch.join("out/config.json").exists());
    assert!(!told.contains("thalweg eval"), "parts cannot be scored: {told}");
    check(&scratch, "verify out --inputs", 0, &["matches its receipt"]);
    check(&scratch, "diff run/100 run/200", 1, &["pp_rank_world_size=0_1.up_proj.weight"]);
    let files = [0, 1].map(picotron);
    let [old, new, merged] = ["run/100", "run/200", "out"].map(|folder| in_files(&scratch.join(folder), &files));
    for (rank, (merged, (old, new))) in (0..).zip(merged.iter().zip(old.iter().zip(&new))) {
        assert_equal(merged, &mean(old, new));
        // As by itself, byte for byte: its optimizer, too.
        let file = picotron(rank);
        check(&scratch, &format!("merge run/100/{file} run/200/{file} -o alone{rank}"), 0, &[]);
        let bytes = |folder: &str| fs::read(scratch.join(folder).join(&file)).unwrap();
        assert!(bytes(&format!("alone{rank}")) == bytes("out"), "{file}");
    }
    assert!(merged[0] != merged[1] && merged[0].contains_key("norm.weight"));
    check(&scratch, "sweep run --counts 2 --schemes sma,wma --dry-run -o swept", 0, &["sma", "wma"]);

    // The moments are in the same files.
    let told = check(&scratch, "merge run --last 2 --optimizer average -o averaged", 0, &[]);
    assert!(told.contains("8 moments of the optimizer are averaged"), "{told}");
    for rank in 0..2 {
        let file = picotron(rank);
        check(&scratch, &format!("merge run/100/{file} run/200/{file} --optimizer average -o moments{rank}"), 0, &[]);
        let [alone, together] = [format!("moments{rank}"), "averaged".to_owned()];
        let bytes = |folder: &str| fs::read(scratch.join(folder).join(&file)).unwrap();
        assert!(bytes(&alone) == bytes(&together) && bytes(&together) != bytes("out"), "{file}");
    }
}

#[test]
fn parts_of_distributed_tensors_are_merged_and_everything_else_is_kept() {
    let scratch = Scratch::new();
    copy_folder(&fixture("verl"), &scratch.join("run"));
    check(&scratch, "inspect run/global_step_100", 0, &["such as `model_world_size_2_rank_0.norm.weight`"]);
    check(&scratch, "merge run --last 2 -o out", 0, &["merged 2 checkpoints (steps 100, 200)"]);
    check(&scratch, "verify out --inputs", 0, &["matches its receipt"]);
    let [old, new, merged] =
        ["run/global_step_100", "run/global_step_200", "out"].map(|folder| tensors(&scratch.join(folder)));
    assert_equal(&merged, &mean(&old, &new));
    // Five rows over two ranks.
    let shape = |rank: u32| merged[&format!("model_world_size_2_rank_{rank}.up_proj.weight")].1.clone();
    assert_eq!([shape(0), shape(1)], ["[3, 4]", "[2, 4]"]);
    let mut kept = all_files(&scratch.join("run/global_step_200"));
    let mut written = all_files(&scratch.join("out"));
    assert!(written.remove(Path::new("thalweg.json")).is_some() && written.remove(Path::new("README.md")).is_some());
    for rank in 0..2 {
        let name = PathBuf::from(verl(rank));
        assert_ne!(kept.remove(&name), written.remove(&name));
    }
    assert_eq!(kept, written);
    assert!(kept.contains_key(Path::new("huggingface/config.json")), "{:?}", kept.keys());

    // One rank alone, given by itself.
    let one = format!("merge run/global_step_100/{0} run/global_step_200/{0} -o alone", verl(1));
    check(&scratch, &format!("{one} --format safetensors"), 0, &["merged 2 checkpoints (steps 100, 200)"]);
    let alone = tensors(&scratch.join("alone"));
    assert!(alone["up_proj.weight"] == merged["model_world_size_2_rank_1.up_proj.weight"]);

    // A part alone is not a model.
    fs::remove_file(scratch.join("run/global_step_200").join(verl(1))).unwrap();
    let facts = ["is unfinished", "model_world_size_2_rank_1.pt"];
    check(&scratch, "merge run/global_step_200 run/global_step_100 -o x", 2, &facts);
    check(&scratch, "inspect run", 0, &["1 finished"]);
}

#[test]
fn parts_of_sharded_tensors_are_merged_too() {
    let scratch = Scratch::new();
    let floats = |first: u8| (first..first + 6).flat_map(|value| f32::from(value).to_le_bytes()).collect::<Vec<_>>();
    for (rank, first) in [(0, 0), (1, 6)] {
        let name = format!("rank{rank}.pt");
        let saved = fs::read(fixture("sharded").join(&name)).unwrap();
        // The checksum in the archive is then wrong, which is not looked at.
        let values = floats(first);
        let at = saved.windows(values.len()).position(|window| window == values).unwrap();
        let other = [&saved[..at], &floats(first + 20), &saved[at + values.len()..]].concat();
        for (step, bytes) in [(1, saved), (2, other)] {
            fs::create_dir_all(scratch.join(format!("run/step{step}"))).unwrap();
            fs::write(scratch.join(format!("run/step{step}/{name}")), bytes).unwrap();
        }
    }
    check(&scratch, "merge run --last 2 -o out", 0, &["merged 2 checkpoints (steps 1, 2)"]);
    let merged = tensors(&scratch.join("out"));
    let expected = |first| ("F32".to_owned(), "[3, 2]".to_owned(), floats(first));
    assert_eq!(merged, BTreeMap::from([("rank0.w".to_owned(), expected(10)), ("rank1.w".to_owned(), expected(16))]));
}

/// Writes files of ranks, which have these names in each step.
fn write_run(scratch: &Scratch, run: &str, steps: &[u32], files: &[&str]) {
    for step in steps {
        for (rank, file) in (0..).zip(files) {
            let mut saved = Saved::default();
            let embedding = saved.tensor(F32, &[4, 2], &values(step + 10 * rank, 8));
            let norm = saved.tensor(Bf16, &[2], &[1.5, 0.25]);
            let model = dict([("tok_embeddings.weight", embedding), ("norm.weight", norm)]);
            saved.write(&scratch.join(format!("{run}/step_{step}/{file}")), &model);
        }
    }
}

#[test]
fn sums_of_files_of_ranks_are_kept_and_added_to() {
    let scratch = Scratch::new();
    for (step, file) in [1, 2, 3].into_iter().flat_map(|step| META.map(|file| (step, file))) {
        let mut saved = Saved::default();
        let seed = step + u32::try_from(file.len()).unwrap() + u32::from(file == META[1]) * 10;
        let embedding = saved.tensor(F32, &[4, 2], &values(seed, 8));
        saved.write(&scratch.join(format!("run/step_{step}/{file}")), &dict([("tok_embeddings.weight", embedding)]));
    }
    check(&scratch, "merge run/step_1 run/step_2 --keep-sums sums -o two", 0, &["merged 2 checkpoints"]);
    check(&scratch, "merge --append two -m run/step_3 --sums sums -o three", 0, &[]);
    check(&scratch, "merge run --last 3 -o all", 0, &["merged 3 checkpoints"]);
    let [found, expected] =
        ["three", "all"].map(|folder| META.map(|file| fs::read(scratch.join(folder).join(file)).unwrap()));
    assert!(found == expected && found[0] != found[1]);
}

const META: [&str; 2] = ["consolidated.00.pth", "consolidated.01.pth"];
const FAIRSEQ2: [&str; 4] = [
    "model/pp_00/tp_00/sdp_00.pt",
    "model/pp_00/tp_00/sdp_01.pt",
    "model/pp_00/tp_01/sdp_00.pt",
    "model/pp_00/tp_01/sdp_01.pt",
];
const OLMO: [&str; 2] = ["model/rank0.pt", "model/rank1.pt"];
const NEMO: [&str; 2] = ["tp_rank_00_pp_rank_000/model_weights.ckpt", "tp_rank_01_pp_rank_000/model_weights.ckpt"];
const FSDP: [&str; 2] = ["pytorch_model_fsdp_rank0.bin", "pytorch_model_fsdp_rank1.bin"];

#[test]
fn every_layout_of_files_of_ranks_is_merged_into_the_same_files() {
    for (files, first) in [
        (&META[..], "consolidated.00."),
        (&FAIRSEQ2, "pp_00.tp_00.sdp_00."),
        (&OLMO, "rank0."),
        (&NEMO, "tp_rank_00_pp_rank_000.model_weights."),
        (&FSDP, "pytorch_model_fsdp_rank0."),
    ] {
        let scratch = Scratch::new();
        write_run(&scratch, "run", &[1, 2], files);
        for step in [1, 2] {
            let state = dict([("state", Node::Number(step))]);
            for other in ["trainer/rank_00.pt", "optimizer/pp_00/tp_00/sdp_00.pt"] {
                Saved::default().write(&scratch.join(format!("run/step_{step}/{other}")), &state);
            }
            if files == META {
                fs::write(scratch.join(format!("run/step_{step}/params.json")), "{\"dim\": 2}").unwrap();
            }
        }
        check(&scratch, "inspect run/step_1", 0, &[&format!("{first}norm.weight")]);
        check(&scratch, "merge run --last 2 -o out", 0, &["merged 2 checkpoints (steps 1, 2)"]);
        check(&scratch, "verify out --inputs", 0, &["matches its receipt"]);
        let [newest, merged] = ["run/step_2", "out"].map(|folder| all_files(&scratch.join(folder)));
        for (name, bytes) in &newest {
            let is_part = files.iter().any(|file| Path::new(file) == name);
            assert_eq!(*bytes != merged[name], is_part, "{}", name.display());
        }
        let [old, new, merged] = ["run/step_1", "run/step_2", "out"].map(|folder| {
            let mut all = tensors(&scratch.join(folder));
            all.retain(|name, _| !name.ends_with("norm.weight"));
            all
        });
        assert_equal(&merged, &mean(&old, &new));
        assert_eq!(merged.len(), files.len());
        check(&scratch, "diff run/step_2 out", 1, &["embeddings.weight"]);
    }
}

/// Writes a run of Megatron with a tensor whose cut is not known, under these keys in files in these folders.
fn write_megatron(scratch: &Scratch, keys: &[&str], folders: &[&str]) {
    for step in [1, 2] {
        for (rank, folder) in (0..).zip(folders) {
            let mut saved = Saved::default();
            let unknown = saved.tensor(F32, &[4, 2], &values(step + 10 * rank, 8));
            let norm = saved.tensor(F32, &[2], &values(step, 2));
            let model = dict([("decoder.mixer.in_proj.weight", unknown), ("decoder.final_norm.weight", norm)]);
            let models = keys.iter().map(|key| ((*key).to_owned(), model.clone()));
            let root = models.chain([("iteration".to_owned(), Node::Number(step.into()))]).collect();
            saved.write(&scratch.join(format!("run/iter_000000{step}/{folder}/model_optim_rng.pt")), &Node::Dict(root));
        }
    }
}

#[test]
fn ranks_of_megatron_whose_cut_is_not_known_are_merged_by_their_files() {
    let tensor_ranks = ["mp_rank_00", "mp_rank_01"];
    let stages = ["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001"];
    let experts = ["mp_rank_00_000_000", "mp_rank_00_000_001", "mp_rank_01_000_000", "mp_rank_01_000_001"];
    for folders in [&tensor_ranks[..], &stages, &experts] {
        check_megatron(folders);
    }
}

fn check_megatron(folders: &[&str]) {
    let scratch = Scratch::new();
    write_megatron(&scratch, &["model"], folders);
    fs::write(scratch.join("run/latest_checkpointed_iteration.txt"), "2").unwrap();
    check(&scratch, "merge run --last 2 -o out", 0, &["merged 2 checkpoints (steps 1, 2)", "written as torch"]);
    check(&scratch, "verify out --inputs", 0, &["matches its receipt"]);
    let files: Vec<String> = folders.iter().map(|folder| format!("{folder}/model_optim_rng.pt")).collect();
    let [old, new, merged] =
        ["run/iter_0000001", "run/iter_0000002", "out"].map(|folder| in_files(&scratch.join(folder), &files));
    for (merged, (old, new)) in merged.iter().zip(old.iter().zip(&new)) {
        assert_equal(merged, &mean(old, new));
    }
    assert!(merged[0] != merged[1]);
    let told = format!("in {} files of ranks", folders.len());
    check(&scratch, "merge run --last 2 -o x --format safetensors", 2, &[&told]);
    // Megatron writes this last.
    fs::write(scratch.join("run/latest_checkpointed_iteration.txt"), "1").unwrap();
    check(&scratch, "inspect run", 0, &["1 finished", "says that step 1 is the last finished one"]);
}

#[test]
fn what_is_wrong_with_ranks_of_megatron_is_not_taken_for_an_unknown_cut() {
    let scratch = Scratch::new();
    write_megatron(&scratch, &["model"], &["mp_rank_00", "mp_rank_01"]);
    let said = check(&scratch, "inspect run/iter_0000001 --key modle", 2, &["`modle`"]);
    assert!(!said.contains("it is unknown how"), "{said}");
    copy_folder(&scratch.join("run/iter_0000001"), &scratch.join("iter_0000009"));
    check(&scratch, "inspect iter_0000009", 0, &["is from step 1, but the name of the folder says 9"]);
    let stages = Scratch::new();
    write_megatron(&stages, &["model0", "model1"], &["mp_rank_00", "mp_rank_01"]);
    check(
        &stages,
        "inspect run/iter_0000001",
        2,
        &["it is unknown how tensor `decoder.mixer.in_proj.weight` is split"],
    );
}

#[test]
fn parts_of_distributed_tensors_are_read_in_folders_of_ranks_and_of_one_gpu() {
    let scratch = Scratch::new();
    for step in [100, 200] {
        for rank in 0..2 {
            let from = fixture("verl").join(format!("global_step_{step}")).join(verl(rank));
            let folder = scratch.join(format!("run/step_{step}/tp_rank_0{rank}_pp_rank_000"));
            let alone = scratch.join(format!("one/step_{step}"));
            fs::create_dir_all(&folder).unwrap();
            fs::create_dir_all(&alone).unwrap();
            fs::copy(&from, folder.join("model_weights.ckpt")).unwrap();
            if rank == 0 {
                fs::copy(&from, alone.join("model_world_size_1_rank_0.pt")).unwrap();
            }
        }
    }
    check(&scratch, "merge run --last 2 -o out", 0, &["merged 2 checkpoints (steps 100, 200)"]);
    let name = "tp_rank_01_pp_rank_000.model_weights.up_proj.weight";
    assert!(tensors(&scratch.join("out")).contains_key(name));
    check(&scratch, "merge one --last 2 -o alone", 0, &["merged 2 checkpoints (steps 100, 200)"]);
    assert!(tensors(&scratch.join("alone")).contains_key("up_proj.weight"));
}

#[test]
fn files_of_ranks_in_a_folder_of_the_model_are_one_checkpoint() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &[1, 2], &OLMO);
    check(&scratch, "merge run/step_1 run/step_2 -o two", 0, &["merged 2 checkpoints (steps 1, 2)"]);
    let said = check(&scratch, "merge run/step_1 -o one", 0, &[]);
    assert!(!said.contains("a run"), "{said}");
    // A file of another name may hold what is not in those of the ranks.
    fs::copy(scratch.join("run/step_1/model/rank0.pt"), scratch.join("run/step_1/model/shared.pt")).unwrap();
    check(&scratch, "inspect run/step_1", 2, &[]);
}

#[test]
fn one_rank_of_a_grid_is_the_whole_model_under_its_own_names() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &[1, 2], &FAIRSEQ2[..1]);
    for step in [1, 2] {
        fs::write(scratch.join(format!("run/step_{step}/config.json")), "{\"model_type\": \"llama\"}").unwrap();
    }
    check(
        &scratch,
        "merge run --last 2 -o out",
        0,
        &["merged 2 checkpoints (steps 1, 2)", "`thalweg eval out --suite"],
    );
    assert!(tensors(&scratch.join("out")).contains_key("norm.weight"));
    check(&scratch, "merge run --last 2 --format safetensors -o st", 0, &[]);
    assert!(tensors(&scratch.join("st")).contains_key("norm.weight"));
}

#[test]
fn other_files_than_those_of_the_ranks_are_refused_with_a_way_on() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &[1, 2], &META);
    let facts = ["the newest source is in 2 files of ranks", "hint: leave that out", "rank by rank"];
    for (option, why) in [
        ("--format safetensors", "it is to be written as `safetensors`"),
        ("--format dcp", "it is to be written as `dcp`"),
        ("--dtype f16", "`--dtype` gives its tensors another element type"),
        ("--drop norm.weight", "because `--drop` leaves out tensors"),
        ("--optimizer drop", "the state of the optimizer is left out"),
        ("--out-shard-size 1kB", "its files would have a different size"),
    ] {
        check(&scratch, &format!("merge run --last 2 -o out {option}"), 2, &[facts[0], facts[1], facts[2], why]);
    }
    check(&scratch, "convert run/step_1 -o out --dtype f32", 2, &facts);
    assert!(!scratch.join("out").exists());
    // What the hint says works.
    let one = "merge run/step_1/consolidated.00.pth run/step_2/consolidated.00.pth";
    check(&scratch, &format!("{one} --format safetensors -o alone"), 0, &["merged 2 checkpoints (steps 1, 2)"]);
    check(&scratch, "convert run/step_1 --format torch -o copy", 0, &[]);
    assert!(
        fs::read(scratch.join("copy/consolidated.01.pth")).unwrap()
            == fs::read(scratch.join("run/step_1/consolidated.01.pth")).unwrap()
    );
}

#[test]
fn masters_in_files_of_ranks_are_named_and_no_other_format_is_chosen() {
    let scratch = Scratch::new();
    for step in [1, 2] {
        for rank in 0..2 {
            let mut saved = Saved::default();
            let weight = values(step + 10 * rank, 8);
            let param = saved.tensor(Bf16, &[4, 2], &weight);
            let master = saved.tensor(F32, &[4, 2], &weight);
            let state = dict([("fp32_from_fp16_params", Node::List(vec![master]))]);
            let root = dict([("model", dict([("w", param)])), ("optimizer", state)]);
            saved.write(&scratch.join(format!("run/step_{step}/rank{rank}.pt")), &root);
        }
    }
    let facts = ["in 2 files of ranks", "such as `optimizer.fp32_from_fp16_params.0`", "hint: merge rank by rank"];
    check(&scratch, "merge run --last 2 -o out", 2, &facts);
    // What the hint says works.
    let told = ["merged 2 checkpoints (steps 1, 2)", "it is left out"];
    check(&scratch, "merge run/step_1/rank0.pt run/step_2/rank0.pt -o alone", 0, &told);
    assert!(tensors(&scratch.join("alone")).contains_key("w"));
}

#[test]
fn sources_of_other_ranks_are_refused_in_a_few_words() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &[1], &META);
    write_run(&scratch, "run", &[2], &["consolidated.00.pth", "consolidated.01.pth", "consolidated.02.pth"]);
    let facts = ["cut into different files of ranks", "step 1  2 files", "step 2  3 files", "`consolidated.02.pth`"];
    let said = check(&scratch, "merge run --last 2 -o out", 2, &facts);
    assert!(
        !said.contains("tok_embeddings") && said.contains("hint: merge checkpoints saved by the same number of ranks"),
        "{said}"
    );
    write_run(&scratch, "whole", &[2], &META[..1]);
    check(&scratch, "merge run/step_1 whole/step_2 -o out", 2, &["a whole model"]);
    fs::remove_file(scratch.join("run/step_2/consolidated.01.pth")).unwrap();
    check(&scratch, "inspect run/step_2", 2, &["is unfinished", "consolidated.01.pth"]);
}

#[test]
fn a_merge_of_files_of_ranks_that_was_killed_resumes_with_the_same_bytes() {
    let scratch = Scratch::new();
    write_run(&scratch, "run", &[1, 2, 3, 4], &FAIRSEQ2);
    check(&scratch, "merge run --last 4 --scheme wma -o expected", 0, &[]);
    let out = scratch.join("out");
    for n_bytes in [1, 500, 900] {
        let mut command = program();
        command.current_dir(scratch.path()).args("merge -q run --last 4 --scheme wma -j 1 -o out".split(' '));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for_journal(&mut child, &out, n_bytes);
        signal(&child, Signal::KILL);
        child.wait().unwrap();
    }
    // A machine so fast that it was done already has nothing to resume.
    if !out.exists() {
        check(&scratch, "merge run --last 4 --scheme wma -o out", 0, &[" by an earlier run, wrote "]);
    }
    let [found, expected] = ["out", "expected"].map(|folder| {
        let mut all = all_files(&scratch.join(folder));
        all.retain(|name, _| name.extension().is_some_and(|end| end == "pt"));
        all
    });
    assert_eq!(found.len(), 4);
    assert!(found == expected);
    check(&scratch, "verify out --inputs", 0, &["matches its receipt"]);
}
