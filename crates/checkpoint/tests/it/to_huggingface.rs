//! A Llama of torchtitan read as Hugging Face's: against torchtitan's own export, and against the definition.

use std::path::Path;

use thalweg_checkpoint::{Checkpoint, Error, LlamaHeads, Look, ReadOptions, open_checkpoint, open_checkpoint_with};
use thalweg_tensor::{Dtype, TensorSource};
use thalweg_testkit::TinyCheckpoint;

use crate::support::{disk, f32_bytes, fixture, tensor_bytes};

fn open(path: &Path, heads: (u64, u64, u64)) -> Result<Checkpoint, Error> {
    let (num_attention_heads, num_key_value_heads, head_dim) = heads;
    let heads = LlamaHeads { num_attention_heads, num_key_value_heads, head_dim };
    open_checkpoint_with(&disk(), path, &ReadOptions { to_huggingface: Some(heads), ..ReadOptions::default() })
}

/// The model of `fixtures/make/make_torchtitan.py`.
const FIXTURE_HEADS: (u64, u64, u64) = (4, 2, 4);

fn names(checkpoint: &Checkpoint) -> Vec<String> {
    checkpoint.catalog().entries().iter().map(|entry| entry.name.to_string()).collect()
}

#[test]
fn torchtitan_exports_the_same_bytes() {
    let read = open(&fixture("trainers/torchtitan-final/step-40"), FIXTURE_HEADS).unwrap();
    let exported = open_checkpoint(&disk(), &fixture("trainers/torchtitan-final-hf/step-40")).unwrap();
    assert_eq!(names(&read), names(&exported));
    read.look_inside(Look::EachPiece).unwrap();
    for (tensor_idx, entry) in exported.catalog().entries().iter().enumerate() {
        let wanted = tensor_bytes(&exported, &entry.name);
        assert!(tensor_bytes(&read, &entry.name) == wanted, "{}", entry.name);
        let found = &read.catalog().entries()[tensor_idx];
        assert_eq!((&found.dtype, &found.shape), (&entry.dtype, &entry.shape));
        // Any part of it is the same part.
        let n = entry.n_elements();
        for (start, end) in [(n / 3, n - n / 4), (n / 2, n / 2 + 1), (1, n)] {
            let mut out = vec![0; usize::try_from((end - start) * 2).unwrap()];
            read.read_elements(tensor_idx, start..end, &mut out).unwrap();
            let range = usize::try_from(start * 2).unwrap()..usize::try_from(end * 2).unwrap();
            assert!(out == wanted[range], "{} {start}..{end}", entry.name);
        }
    }
}

/// A Llama of torchtitan with one column, in which the rows of queries and keys are their numbers.
fn numbered(heads: (u64, u64, u64), names: [&str; 3], head: &str) -> TinyCheckpoint {
    let (n_heads, n_kv_heads, head_dim) = heads;
    let rows = |n: u64| (0..n).map(|row| row as f64).collect::<Vec<_>>();
    let sized = |tiny: TinyCheckpoint, name: &str, n: u64| tiny.tensor(name, Dtype::F32, &[n, 1], &rows(n));
    let tiny = sized(TinyCheckpoint::new(), "tok_embeddings.weight", 3);
    let tiny = sized(tiny, head, 3);
    let [q, k, v] = names;
    let tiny = sized(tiny, &format!("layers.0.attention.{q}.weight"), n_heads * head_dim);
    let tiny = sized(tiny, &format!("layers.0.attention.{k}.weight"), n_kv_heads * head_dim);
    sized(tiny, &format!("layers.0.attention.{v}.weight"), n_kv_heads * head_dim)
}

const OLD_NAMES: [&str; 3] = ["wq", "wk", "wv"];
const NEW_NAMES: [&str; 3] = ["qkv_linear.wq", "qkv_linear.wk", "qkv_linear.wv"];

/// What `view(n_heads, head_dim / 2, 2, columns).transpose(1, 2)` makes of rows that are numbered.
fn transposed(n_heads: u64, head_dim: u64) -> Vec<u8> {
    let mut rows = Vec::new();
    for head in 0..n_heads {
        for side in 0..2 {
            rows.extend((0..head_dim / 2).map(|pair| (head * head_dim + 2 * pair + side) as f32));
        }
    }
    f32_bytes(&rows)
}

fn check_order(heads: (u64, u64, u64), names: [&str; 3], head: &str) {
    let scratch = tempfile::tempdir().unwrap();
    numbered(heads, names, head).write_to_disk(scratch.path());
    let read = open(scratch.path(), heads).unwrap();
    let of = |name: &str| tensor_bytes(&read, &format!("model.layers.0.self_attn.{name}.weight"));
    assert_eq!(of("q_proj"), transposed(heads.0, heads.2));
    assert_eq!(of("k_proj"), transposed(heads.1, heads.2));
    let untouched: Vec<f32> = (0..heads.1 * heads.2).map(|row| row as f32).collect();
    assert_eq!(of("v_proj"), f32_bytes(&untouched));
    assert_eq!(tensor_bytes(&read, "lm_head.weight"), f32_bytes(&[0.0, 1.0, 2.0]));
}

#[test]
fn every_row_of_queries_and_keys_is_where_hugging_face_expects_it() {
    check_order((4, 4, 6), OLD_NAMES, "output.weight");
    check_order((8, 2, 16), NEW_NAMES, "lm_head.weight");
    check_order((6, 3, 2), OLD_NAMES, "lm_head.weight");
    check_order((1, 1, 128), NEW_NAMES, "output.weight");
}

#[test]
fn a_table_of_rotations_is_left_out_with_a_note() {
    let scratch = tempfile::tempdir().unwrap();
    let tiny = numbered((2, 2, 4), OLD_NAMES, "output.weight");
    tiny.raw_tensor("freqs_cis", Dtype::C64, &[2, 2], &[0; 32]).write_to_disk(scratch.path());
    let read = open(scratch.path(), (2, 2, 4)).unwrap();
    assert!(!names(&read).iter().any(|name| name.contains("freqs_cis")));
    let notes: Vec<String> = read.notes().iter().map(ToString::to_string).collect();
    assert!(notes.iter().any(|note| note.contains("`freqs_cis` is left out")), "{notes:?}");
}

/// The message for a small checkpoint with these tensors, and its hint.
fn refusal(tiny: &TinyCheckpoint, heads: (u64, u64, u64)) -> String {
    let scratch = tempfile::tempdir().unwrap();
    tiny.write_to_disk(scratch.path());
    let error = open(scratch.path(), heads).unwrap_err();
    format!("{error}; {}", error.hint().unwrap())
}

#[test]
fn what_is_not_torchtitans_llama_is_refused_by_name_with_its_exporter() {
    let one = |name: &str| TinyCheckpoint::new().tensor(name, Dtype::F32, &[1], &[0.0]);
    let titan = |name: &str| one(name).tensor("tok_embeddings.weight", Dtype::F32, &[1], &[0.0]);
    for (tiny, facts) in [
        (
            titan("layers.0.moe.experts.w1"),
            ["`layers.0.moe.experts.w1`", "scripts/checkpoint_conversion/convert_to_hf.py"],
        ),
        (titan("layers.0.attention.q_norm.weight"), ["`layers.0.attention.q_norm.weight`", "torchtitan's `scripts/"]),
        (
            titan("layers.0.attention.wq.bias"),
            ["`layers.0.attention.wq.bias` is not in torchtitan's Llama", "convert_to_hf"],
        ),
        (
            titan("layers.0.attention.qkv_linear.wqkv.weight"),
            ["wqkv.weight` holds queries, keys and values fused", "convert_to_hf"],
        ),
        (
            one("decoder.layers.0.self_attention.linear_qkv.weight"),
            ["linear_qkv.weight` has one of Megatron's", "convert_checkpoints.py export"],
        ),
        (
            one("model.decoder.0.pp_block.attn.qkv_proj.weight"),
            ["one of nanotron's names", "examples/llama/convert_nanotron_to_hf.py"],
        ),
        (
            one("sequential.2.attention.query_key_value.weight"),
            ["one of GPT-NeoX's", "tools/ckpts/convert_neox_to_hf.py"],
        ),
        (one("something.weight"), ["tensor `something.weight` has an unknown name", "`--rename FILE`"]),
    ] {
        let said = refusal(&tiny, (1, 1, 2));
        facts.iter().for_each(|fact| assert!(said.contains(fact), "`{fact}` is not in `{said}`"));
    }
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let tiny = numbered((4, 2, 4), OLD_NAMES, "output.weight");
    for (heads, facts) in [
        ((8, 2, 4), "wq.weight` has shape [16, 1], but 8 heads of 4 rows have 32 rows"),
        ((4, 4, 4), "wk.weight` has shape [8, 1], but 4 heads of 4 rows have 16 rows"),
        ((16, 8, 1), "wk.weight` has shape [8, 1], but 8 heads of 1 rows have 8 rows"),
        ((0, 0, 0), "wk.weight` has shape [8, 1], but 0 heads of 0 rows have 0 rows"),
        ((4, u64::MAX, u64::MAX - 1), "wk.weight` has shape [8, 1], but 18446744073709551615 heads of"),
    ] {
        let said = refusal(&tiny, heads);
        assert!(
            said.contains(facts) && said.contains("give the `config.json` of this model"),
            "`{facts}` is not in `{said}`"
        );
    }
    let both = tiny.tensor("lm_head.weight", Dtype::F32, &[3, 1], &[0.0; 3]);
    let said = refusal(&both, (4, 2, 4));
    assert!(
        said.contains("tensors `lm_head.weight` and `output.weight` would both be called `lm_head.weight`"),
        "{said}"
    );
}

#[test]
fn any_number_of_heads_is_refused_or_read_at_once() {
    let with = |shape: &[u64], dtype, bytes: &[u8]| {
        TinyCheckpoint::new().raw_tensor("layers.0.attention.wq.weight", dtype, shape, bytes)
    };
    let said = refusal(&with(&[1 << 20, 1], Dtype::U8, &[0; 1 << 20]), (1 << 19, 1, 2));
    assert!(said.contains("it is split into 1048576 chunks"), "{said}");
    let scratch = tempfile::tempdir().unwrap();
    with(&[1 << 60, 0], Dtype::F32, &[]).write_to_disk(scratch.path());
    let empty = open(scratch.path(), (1 << 59, 1, 2)).unwrap();
    assert_eq!(tensor_bytes(&empty, "model.layers.0.self_attn.q_proj.weight"), [0_u8; 0]);
    let said = refusal(&with(&[0, 4], Dtype::F32, &[]), (1, 1, 0));
    assert!(said.contains("1 heads of 0 rows have 0 rows"), "{said}");
}
