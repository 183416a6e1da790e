//! Archives made by hand: what the directory may say, and which part of a file is the model.

use thalweg_storage::{Error, FileInfo, FileKind, ReadAt};

use super::archive::{Archive, ArchiveError};
use super::*;
use crate::ZipError;

#[derive(Debug)]
struct MemoryFile(Vec<u8>);

impl ReadAt for MemoryFile {
    fn info(&self) -> FileInfo {
        FileInfo { kind: FileKind::File, len_bytes: self.0.len() as u64, modified_ns: 0, changed_ns: 0, id: (0, 0) }
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0[start..start + out.len()]);
        Ok(())
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A stored archive with these records, in this order; `large` writes every number of the end in 64 bits.
fn archive(records: &[(&str, &[u8])], large: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    let n_records = u16::try_from(records.len()).unwrap();
    for (name, content) in records {
        let (offset, n_name) = (u32::try_from(bytes.len()).unwrap(), u16::try_from(name.len()).unwrap());
        let n_content = u32::try_from(content.len()).unwrap();
        // Sizes before a record are zero, as torch.save leaves them.
        bytes.extend(b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(n_name.to_le_bytes());
        bytes.extend([2, 0]);
        bytes.extend(name.as_bytes());
        bytes.extend(b"ZZ");
        bytes.extend(*content);
        directory.extend(b"PK\x01\x02\0\0\0\0\x08\x08\0\0\0\0\0\0\x01\0\0\0");
        let stated = |number: u32| if large { u32::MAX } else { number }.to_le_bytes();
        directory.extend(stated(n_content));
        directory.extend(stated(n_content));
        directory.extend(n_name.to_le_bytes());
        directory.extend(if large { [28, 0] } else { [0, 0] });
        directory.extend([0; 10]);
        directory.extend(stated(offset));
        directory.extend(name.as_bytes());
        if large {
            directory.extend([1, 0, 24, 0]);
            [n_content, n_content, offset].iter().for_each(|n| directory.extend(u64::from(*n).to_le_bytes()));
        }
    }
    let (start, length) = (bytes.len() as u64, directory.len() as u64);
    bytes.extend(directory);
    let end = bytes.len() as u64;
    if large {
        bytes.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        [n_records.into(), n_records.into(), length, start].iter().for_each(|n: &u64| bytes.extend(n.to_le_bytes()));
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(end.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
    }
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    let count = if large { u16::MAX } else { n_records }.to_le_bytes();
    bytes.extend([count, count].concat());
    let small = |n: u64| if large { u32::MAX } else { u32::try_from(n).unwrap() }.to_le_bytes();
    bytes.extend([small(length), small(start)].concat());
    bytes.extend([0, 0]);
    bytes
}

/// Text as a pickle has it.
fn text(text: &str) -> Vec<u8> {
    [&b"\x8c"[..], &[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// A dictionary as a pickle has it.
fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> = pairs.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [&b"}("[..], &pairs, b"u"].concat()
}

/// A tensor of two elements in storage `0`, which has eight bytes.
fn tensor() -> Vec<u8> {
    view(b"K\x02\x85K\x01\x85")
}

/// A view of the same storage with this size and these strides.
fn view(size_and_strides: &[u8]) -> Vec<u8> {
    let class = [&b"ctorch\nFloatStorage\n"[..]].concat();
    let id = [&b"("[..], &text("storage"), &class, &text("0"), &text("cpu"), b"K\x02tQ"].concat();
    [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &id, b"K\0", size_and_strides, b"\x89}tR"].concat()
}

fn file(object: &[u8]) -> MemoryFile {
    let pickle = [&b"\x80\x02"[..], object, b"."].concat();
    MemoryFile(archive(&[("a/data.pkl", &pickle), ("a/data/0", &[1; 8]), ("a/version", b"3\n")], false))
}

fn reading(key: Option<&str>) -> ReadOptions {
    ReadOptions { key: key.map(str::to_owned), ..ReadOptions::default() }
}

fn names(file: &MemoryFile, key: Option<&str>) -> Result<Vec<String>, TorchError> {
    let content = read_content(file, 0, &reading(key))?;
    Ok(content.entries.iter().map(|entry| entry.name.to_string()).collect())
}

#[track_caller]
fn check_names(object: &[u8], key: Option<&str>, wanted: &[&str]) {
    assert_eq!(names(&file(object), key).unwrap(), wanted);
}

#[track_caller]
fn check_refusal(object: &[u8], key: Option<&str>, wanted: &str) {
    let message = names(&file(object), key).unwrap_err().to_string();
    assert!(message.contains(wanted), "{message}");
}

#[test]
fn a_plain_state_dict_is_the_whole_file() {
    check_names(&dict(&[("w", tensor()), ("b", tensor())]), None, &["w", "b"]);
    check_names(&dict(&[("a", dict(&[("w", tensor())])), ("b", tensor())]), None, &["a.w", "b"]);
    check_names(&[&b"]("[..], &tensor(), &tensor(), b"e"].concat(), None, &["0", "1"]);
}

#[test]
fn the_model_is_found_beside_training_state() {
    let state = [("model", dict(&[("w", tensor())])), ("optimizer", dict(&[("m", tensor())])), ("loss", tensor())];
    check_names(&dict(&state), None, &["w"]);
    let content = read_content(&file(&dict(&state)), 0, &reading(None)).unwrap();
    assert_eq!(content.findings.key.as_deref(), Some("model"));
    assert_eq!(content.findings.other_keys, [("optimizer".to_owned(), 1)]);
    let deep = [("state", dict(&[("model", dict(&[("w", tensor())])), ("optimizers", dict(&[("m", tensor())]))]))];
    check_names(&dict(&deep), None, &["w"]);
    check_names(&dict(&[("anything", dict(&[("w", tensor())])), ("step", b"K\x05".to_vec())]), None, &["w"]);
}

#[test]
fn the_state_of_the_optimizer_is_listed_by_its_path_if_asked_for() {
    let check = |object: &[u8], key: Option<&str>, wanted: &[&str], n_state: usize| {
        let options = ReadOptions { optimizer: true, ..reading(key) };
        let content = read_content(&file(object), 0, &options).unwrap();
        let names: Vec<&str> = content.entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!((names.as_slice(), content.n_state), (wanted, n_state));
        assert_eq!(content.findings.other_keys, []);
    };
    let moments = dict(&[("exp_avg", tensor()), ("step", b"K\x05".to_vec())]);
    let optimizer = dict(&[("state", dict(&[("0", moments)]))]);
    let state = dict(&[("model", dict(&[("w", tensor())])), ("optimizer", optimizer.clone()), ("loss", tensor())]);
    check(&state, None, &["w", "optimizer.state.0.exp_avg"], 1);
    check(&state, Some("model"), &["w", "optimizer.state.0.exp_avg"], 1);
    check(&state, Some("."), &["model.w", "optimizer.state.0.exp_avg", "loss"], 1);
    // Beside the model, at any level; in a list; or not at all.
    let list = [&b"]("[..], &optimizer, b"e"].concat();
    let deep = dict(&[("state", dict(&[("model", dict(&[("w", tensor())])), ("optimizer_states", list)]))]);
    check(&deep, None, &["w", "optimizer_states.0.state.0.exp_avg"], 1);
    check(&dict(&[("model", dict(&[("w", tensor())])), ("optimizer_name", text("adamw"))]), None, &["w"], 0);
}

#[test]
fn modules_that_are_called_model_are_not_taken_for_the_whole() {
    let inner = dict(&[("model", dict(&[("w", tensor())])), ("head", dict(&[("h", tensor())]))]);
    check_names(&dict(&[("state_dict", inner)]), None, &["model.w", "head.h"]);
}

#[test]
fn what_is_not_clear_is_asked_for() {
    let two = dict(&[("model", dict(&[("w", tensor())])), ("state_dict", dict(&[("w", tensor())]))]);
    check_refusal(&two, None, "the tensors are under `model`, `state_dict`, and it is not clear which");
    let other = dict(&[("encoder", dict(&[("w", tensor())])), ("decoder", dict(&[("w", tensor())]))]);
    check_refusal(&other, None, "the tensors are under `encoder`, `decoder`");
    check_names(&other, Some("decoder"), &["w"]);
    check_names(&other, Some("."), &["encoder.w", "decoder.w"]);
}

#[test]
fn a_file_of_several_models_is_ambiguous_and_not_damaged() {
    let fault = |object: &[u8], key: Option<&str>| {
        let source = Box::new(names(&file(object), key).unwrap_err());
        crate::Error::Torch { path: "x.pt".into(), source }.fault()
    };
    let models = |a: &str, b: &str| dict(&[(a, dict(&[("w", tensor())])), (b, dict(&[("w", tensor())]))]);
    for (a, b) in [("model_ema", "teacher"), ("model", "state_dict"), ("encoder", "decoder")] {
        assert_eq!(fault(&models(a, b), None), crate::Fault::Ambiguous, "{a} {b}");
    }
    assert_eq!(fault(&models("encoder", "decoder"), Some("model")), crate::Fault::Unreadable);
    assert_eq!(fault(b"I1\n", None), crate::Fault::Damaged);
}

#[test]
fn keys_are_followed_through_levels_and_points() {
    let ema = dict(&[("ema.shadow", dict(&[("w", tensor())])), ("model", dict(&[("v", tensor())]))]);
    check_names(&ema, None, &["v"]);
    check_names(&ema, Some("ema.shadow"), &["w"]);
    let averages = dict(&[("ema", dict(&[("params", dict(&[("w", tensor())]))])), ("model", dict(&[("v", tensor())]))]);
    check_names(&averages, Some("ema"), &["w"]);
    check_names(&averages, Some("ema.params"), &["w"]);
    check_refusal(&averages, Some("eam"), "no tensors are under the key `eam`; the tensors are under `ema`, `model`");
    let content = read_content(&file(&averages), 0, &reading(Some("ema"))).unwrap();
    assert_eq!(content.findings.other_keys, [("model".to_owned(), 1)]);
}

#[test]
fn names_lose_what_wrappers_put_there() {
    check_names(&dict(&[("module.w", tensor()), ("module.b", tensor())]), None, &["w", "b"]);
    check_names(&dict(&[("module.w", tensor()), ("b", tensor())]), None, &["module.w", "b"]);
    check_names(&dict(&[("_orig_mod.w", tensor()), ("l.0._orig_mod.b", tensor())]), None, &["w", "l.0.b"]);
    check_names(&dict(&[("module._orig_mod.w", tensor())]), None, &["w"]);
    check_names(&dict(&[("_fsdp_wrapped_module.a._checkpoint_wrapped_module.w", tensor())]), None, &["a.w"]);
    check_names(&dict(&[("x_orig_mod.w", tensor())]), None, &["x_orig_mod.w"]);
    // Two names that would become one keep what tells them apart.
    check_names(&dict(&[("_orig_mod.w", tensor()), ("w", tensor())]), None, &["_orig_mod.w", "w"]);
    let lightning = |names: &[&str]| {
        let tensors: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (*name, tensor())).collect();
        dict(&[("pytorch-lightning_version", text("2.6")), ("state_dict", dict(&tensors))])
    };
    check_names(&lightning(&["model.w", "model.b"]), None, &["w", "b"]);
    check_names(&lightning(&["model.w", "loss.b"]), None, &["model.w", "loss.b"]);
    check_names(&dict(&[("model.w", tensor())]), None, &["model.w"]);
}

#[test]
fn values_that_contain_themselves_end() {
    let object = [&b"}\x94("[..], &text("w"), &tensor(), &text("self"), b"h\0u"].concat();
    check_names(&object, None, &["w"]);
    // Each of thirty dictionaries holds the one before it twice.
    let mut object = dict(&[("w", tensor())]);
    for i in 0..30 {
        object.extend([&b"\x940}("[..], &text("a"), &[b'h', i], &text("b"), &[b'h', i], b"u"].concat());
    }
    check_refusal(&object, Some("."), "more than");
}

#[test]
fn what_cannot_be_read_is_named() {
    let sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n)R".to_vec();
    let content = read_content(&file(&dict(&[("w", tensor()), ("s", sparse.clone())])), 0, &reading(None)).unwrap();
    let one = &content.findings.unreadable[0];
    assert_eq!((&*one.name, &*one.reason), ("s", "it is sparse (`torch._utils._rebuild_sparse_tensor`)"));
    check_refusal(&dict(&[("s", sparse)]), None, "`s`: it is sparse");
    check_refusal(&dict(&[("s", b"cos\nsystem\n)R".to_vec())]), None, "it is an object of `os.system`");
    check_refusal(
        b"cmy.module\nNet\n)\x81",
        None,
        "it is an object of `my.module.Net`, which thalweg does not construct",
    );
    check_refusal(&tensor(), None, "one unnamed tensor");
    check_refusal(b"K\x05", None, "it holds an integer");
    check_refusal(b"}", None, "it holds no tensors");
}

#[test]
fn a_long_name_that_many_tensors_share_is_not_kept_for_each() {
    let shared = |class: &str| {
        let first = [&b"c"[..], class.as_bytes(), b"\nNet\n)R\x94"].concat();
        let others = (1..20).map(|n| (format!("s{n}"), b"h\0".to_vec()));
        let all: Vec<(String, Vec<u8>)> = [("s0".to_owned(), first)].into_iter().chain(others).collect();
        let pairs: Vec<(&str, Vec<u8>)> = all.iter().map(|(name, value)| (&**name, value.clone())).collect();
        dict(&[("w", tensor()), ("t", dict(&pairs))])
    };
    let found = read_content(&file(&shared("my.module")), 0, &reading(Some("."))).unwrap();
    assert_eq!(found.findings.unreadable.len(), 20);
    check_refusal(&shared(&"m".repeat(1 << 16)), Some("."), "bytes of names");
}

#[test]
fn a_view_that_repeats_a_few_bytes_up_to_gigabytes_is_named() {
    // Two columns for each row, which all begin at the first element: eight bytes a row.
    let rows = |n: u32| [&b"J"[..], &n.to_le_bytes(), b"K\x02\x86K\0K\x01\x86"].concat();
    let found = |n: u32| read_content(&file(&dict(&[("w", tensor()), ("r", view(&rows(n)))])), 0, &reading(None));
    let (small, large) = (found(1 << 25).unwrap(), found((1 << 25) + 1).unwrap());
    assert_eq!((small.entries.len(), small.findings.unreadable.len()), (2, 0));
    let reason = "it repeats 8 B of stored elements to make 268.44 MB, as `Tensor.expand` does";
    assert_eq!(large.findings.unreadable, [Unreadable { name: "r".to_owned(), reason: reason.to_owned() }]);
}

#[test]
fn directories_of_both_sizes_are_read_and_parts_of_files_too() {
    let records: [(&str, &[u8]); 2] = [("a/data.pkl", b"x"), ("a/data/k", b"1234")];
    for large in [false, true] {
        let bytes = archive(&records, large);
        let whole = MemoryFile(bytes.clone());
        let found = Archive::open(&whole, 0..bytes.len() as u64).unwrap();
        let range = found.find_storage(&whole, "k").unwrap().unwrap();
        assert_eq!(&bytes[usize::try_from(range.start).unwrap()..][..4], b"1234");
        assert_eq!(found.find_storage(&whole, "../k").unwrap(), None);
        let shifted = MemoryFile([&b"before"[..], &bytes, b"after"].concat());
        let part = Archive::open(&shifted, 6..6 + bytes.len() as u64).unwrap();
        assert_eq!(part.find_storage(&shifted, "k").unwrap().unwrap().start, range.start + 6);
        let prefixed = Archive::open(&shifted, 0..6 + bytes.len() as u64);
        assert!(matches!(prefixed, Err(ArchiveError::Zip(ZipError::Directory { .. }))), "{prefixed:?}");
    }
}

#[test]
fn archives_that_torch_did_not_write_are_refused() {
    let refuse = |records: &[(&str, &[u8])]| {
        let bytes = archive(records, false);
        Archive::open(&MemoryFile(bytes.clone()), 0..bytes.len() as u64).unwrap_err()
    };
    assert_eq!(refuse(&[("a/x", b"")]), ArchiveError::NoPickle);
    assert_eq!(refuse(&[("a/data.pkl", b""), ("b/data.pkl", b"")]), ArchiveError::SeveralPickles { n_roots: 2 });
    assert_eq!(refuse(&[("a/data.pkl", b""), ("a/constants.pkl", b"")]), ArchiveError::TorchScript);
    let order = refuse(&[("a/data.pkl", b""), ("a/byteorder", b"big")]);
    assert_eq!(order, ArchiveError::ByteOrder { found: "big".to_owned() });
    assert!(matches!(refuse(&[("a/data.pkl", b""), ("a/version", b"99")]), ArchiveError::Version { .. }));
    assert!(matches!(
        refuse(&[("a/data.pkl", b""), ("a/data.pkl", b"")]),
        ArchiveError::Zip(ZipError::DuplicateRecord { .. })
    ));
}

#[test]
fn every_cut_of_an_archive_is_refused() {
    let MemoryFile(bytes) = file(&dict(&[("w", tensor())]));
    for n_bytes in 0..bytes.len() {
        let cut = MemoryFile(bytes[..n_bytes].to_vec());
        assert!(read_content(&cut, 0, &reading(None)).is_err(), "{n_bytes}");
    }
}

#[test]
fn every_changed_byte_is_read_or_refused() {
    let MemoryFile(bytes) = file(&dict(&[("w", tensor())]));
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            // The bytes of the storage may be any; everything else must be noticed or make no difference.
            if let Ok(content) = read_content(&MemoryFile(changed), 0, &reading(None)) {
                assert_eq!(content.entries.len(), 1);
            }
        }
    }
}

#[test]
fn a_file_without_data_is_refused() {
    let mut bytes = file(&dict(&[("w", tensor())])).0;
    let name = b"a/data/0";
    let at = (0..bytes.len()).rfind(|at| bytes[*at..].starts_with(name)).unwrap();
    bytes[at - 30..at - 26].fill(0);
    let error = read_content(&MemoryFile(bytes), 0, &reading(None)).unwrap_err();
    assert_eq!(error, TorchError::Archive(ArchiveError::WithoutData));
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let says = |bytes: &[u8]| read_content(&MemoryFile(bytes.to_vec()), 0, &reading(None)).unwrap_err().to_string();
    assert!(says(b"").contains("the file is empty"));
    assert!(says(b"<html>").contains("web page"));
    assert!(says(b"{\"a\": 1}").contains("neither a zip archive nor a pickle"));
    assert!(says(b"\x80\x02cos\nsystem\n)R.").contains("its first pickle is an object of `os.system`"));
    assert!(says(b"\x80\x02K\x05.").contains("not the number that PyTorch writes"));
}

#[test]
fn folders_have_one_model_among_files_of_other_things() {
    let choose = |names: &[&str]| {
        let entry =
            |name: &&str| thalweg_storage::FolderEntry { name: (*name).to_owned(), kind: FileKind::File, len_bytes: 1 };
        let place = Place::Folder { path: "x".into(), entries: names.iter().map(entry).collect() };
        match choose_entrance(&place) {
            Ok(Entrance::Single { name, .. } | Entrance::Index(name)) => name,
            Ok(Entrance::Shards(names)) => names.join(" and "),
            Ok(Entrance::Ranks(files)) => {
                files.complete(place.path()).map_or_else(|error| error.to_string(), |names| names.join(" and "))
            }
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(choose(&["optimizer.pt", "pytorch_model.bin", "training_args.bin"]), "pytorch_model.bin");
    let sharded = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"];
    assert_eq!(choose(&sharded), "pytorch_model.bin.index.json");
    assert_eq!(choose(&["lit_model.pth", "other.pth"]), "lit_model.pth");
    assert_eq!(choose(&["mine.ckpt", "rng_state_0.pth"]), "mine.ckpt");
    assert!(choose(&["a.pt", "b.pt"]).contains("2 files, any of which could be"));
    assert!(choose(&sharded[..1]).contains("1 shard is there, but no `pytorch_model.bin.index.json`"));
    assert_eq!(
        choose(&["m-00002-of-00002.bin", "m-00001-of-00002.bin"]),
        "m-00002-of-00002.bin and m-00001-of-00002.bin"
    );
    assert!(choose(&["m-00001-of-00002.bin", "n-00002-of-00002.bin"]).contains("2 shards are there, but no"));
    assert!(choose(&["pytorch_model_fsdp_0_rank0.bin"]).contains("one rank's part"));
    let ranks = ["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"];
    let beside = ["optim_world_size_2_rank_0.pt", "extra_state_world_size_2_rank_0.pt"];
    assert_eq!(choose(&[&ranks[..], &beside].concat()), ranks.join(" and "));
    assert!(choose(&["optimizer.pt"]).contains("`optimizer.pt`, which is not a model"));
}

#[test]
fn what_describes_flat_parameters_is_not_a_tensor() {
    let numbers = b"(\x88K\0K\x03K\0K\x02t\x81";
    for (class, n_unreadable) in
        [("torch.distributed.fsdp._flat_param\n_ShardParamInfo", 0), ("torch.distributed.fsdp._flat_param\n_Other", 1)]
    {
        let info = [b"c", class.as_bytes(), b"\n", numbers].concat();
        let object = dict(&[("w", tensor()), ("info", info)]);
        let content = read_content(&file(&object), 0, &reading(None)).unwrap();
        assert_eq!((content.entries.len(), content.findings.unreadable.len()), (1, n_unreadable), "{class}");
    }
}
