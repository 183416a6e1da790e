//! Readers of untrusted text neither panic nor accept nonsense, whatever a byte is changed to.

use std::fs;

use thalweg_checkpoint::format::safetensors::parse_header;
use thalweg_checkpoint::index::parse_index;
use thalweg_checkpoint::{parse_config, updated_config};
use thalweg_tensor::Dtype;

use crate::support::fixture;

/// A fixed sequence of numbers (Knuth's multiplier), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

/// The text with some bytes changed, dropped, doubled or moved, often to bytes that mean something in JSON.
fn mutate(text: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = text.to_vec();
    for _ in 0..=numbers.below(3) {
        let (at, to) = (numbers.below(out.len()), numbers.below(out.len()));
        match numbers.below(5) {
            0 => out[at] = b"{}[]\",:\\0123456789-.eu \n\xff"[numbers.below(25)],
            1 => drop(out.drain(at.min(to)..at.max(to).min(at.min(to) + 40))),
            2 => {
                let piece: Vec<u8> = out[at.min(to)..at.max(to).min(at.min(to) + 80)].to_vec();
                out.splice(at..at, piece);
            }
            3 => out.swap(at, to),
            _ => out[at] ^= 1 << numbers.below(8),
        }
        if out.is_empty() {
            break;
        }
    }
    out
}

fn check_reader(seeds: &[Vec<u8>], check: impl Fn(&[u8])) {
    let mut numbers = Numbers(1);
    for seed in seeds {
        check(seed);
        for _ in 0..3000 {
            check(&mutate(seed, &mut numbers));
        }
    }
}

#[test]
fn accepted_headers_cover_their_data_exactly() {
    let names = ["odd-names", "zero-size", "misaligned-tensors", "unknown-field", "all-dtypes", "header-order-differs"];
    let read = |name: &str| fs::read(fixture(&format!("hostile/safetensors/{name}.safetensors"))).unwrap();
    for file in names.map(read) {
        let n = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
        let data_len = (file.len() - 8 - n) as u64;
        check_reader(&[file[8..8 + n].to_vec()], |text| {
            let Ok(header) = parse_header(text, data_len) else { return };
            let mut expected = 0;
            for tensor in &header.tensors {
                assert_eq!(tensor.begin, expected);
                let n_bytes = tensor.dtype.bytes_of(tensor.shape.n_elements().unwrap()).unwrap();
                assert_eq!(tensor.end - tensor.begin, n_bytes);
                expected = tensor.end;
            }
            assert_eq!(expected, data_len);
        });
    }
}

#[test]
fn accepted_indexes_name_files_below_the_folder() {
    let seed = fs::read(fixture("hf-sharded/step-20/model.safetensors.index.json")).unwrap();
    check_reader(&[seed], |text| {
        let Ok(index) = parse_index(text) else { return };
        assert!(index.files.iter().all(|file| !file.starts_with('/') && !file.split('/').any(|part| part == "..")));
        assert!(index.tensors.windows(2).all(|pair| pair[0].0 < pair[1].0));
    });
}

#[test]
fn configs_stay_configs_when_their_dtype_is_updated() {
    let seed = fs::read(fixture("hf-moe/step-20/config.json")).unwrap();
    let odd = br#"{"a": NaN, "b": [-Infinity, "Infinity\\"], "text_config": {"dtype": "float16"}, "dtype": "float32"}"#;
    check_reader(&[seed, odd.to_vec()], |text| {
        let Ok(before) = parse_config(text) else {
            assert!(updated_config(text, Dtype::F32).is_err());
            return;
        };
        let after = parse_config(&updated_config(text, Dtype::F32).unwrap()).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&before), keys(&after));
    });
}
