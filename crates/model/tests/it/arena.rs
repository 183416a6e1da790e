//! Arenas as tensors: written by one, read by the other, and loaded.

use thalweg_model::{Error, Model, arena_sink, arena_source};
use thalweg_tensor::{TensorSink, TensorSource};

use crate::support::{FileSource, fixture, read_config, tiny_configs};

#[test]
fn what_a_sink_takes_a_source_gives_back_and_a_model_loads() {
    for (name, config) in tiny_configs() {
        let model = Model::<f32>::init(config.clone(), 5);
        let source = arena_source(model.layout(), model.params());
        let mut copy = vec![0.0; model.params().len()];
        let sink = arena_sink(model.layout(), &mut copy);
        assert_eq!(source.catalog(), sink.catalog(), "{name}");
        for (tensor_idx, entry) in source.catalog().entries().iter().enumerate() {
            let middle = entry.n_elements() / 2;
            for elements in [middle..entry.n_elements(), 0..middle] {
                let mut bytes = vec![0; usize::try_from(elements.end - elements.start).unwrap() * 4];
                source.read_elements(tensor_idx, elements.clone(), &mut bytes).unwrap();
                sink.write_elements(tensor_idx, elements.start, &bytes).unwrap();
            }
        }
        drop(sink);
        assert_eq!(copy, model.params(), "{name}");
        assert_eq!(Model::load(config, &source).unwrap().params(), model.params(), "{name}");
    }
}

#[test]
fn reads_and_writes_outside_a_tensor_are_errors() {
    let (_, config) = tiny_configs().remove(0);
    let layout = config.layout();
    let mut arena = vec![0.0; layout.n_params()];
    let mut bytes = [0; 8];
    let source = arena_source(&layout, &arena);
    assert!(source.read_elements(0, u64::MAX - 1..u64::MAX, &mut bytes).is_err());
    assert!(source.read_elements(0, 0..1, &mut bytes).is_err());
    assert!(source.read_elements(usize::MAX, 0..2, &mut bytes).is_err());
    let sink = arena_sink(&layout, &mut arena);
    assert!(sink.write_elements(0, u64::MAX, &bytes).is_err());
    assert!(sink.write_elements(0, 0, &bytes[..7]).is_err());
    assert!(sink.write_elements(usize::MAX, 0, &bytes).is_err());
}

#[test]
fn every_tensor_that_does_not_fit_is_named() {
    let source = FileSource::open(fixture("architectures/llama/model.safetensors"));
    let mut config = read_config("architectures/qwen3");
    config.vocab_size = 68;
    let Err(Error::ParamsMismatch { missing, extra, misfit }) = Model::load(config, &source) else {
        panic!("it was loaded")
    };
    assert_eq!(missing.len(), 4, "{missing:?}");
    assert!(missing.contains(&"model.layers.1.self_attn.k_norm.weight".to_owned()));
    assert_eq!(extra, Vec::<String>::new());
    assert_eq!(
        misfit,
        [
            "model.embed_tokens.weight (F32 [67, 24], expected [68, 24])",
            "lm_head.weight (F32 [67, 24], expected [68, 24])"
        ]
    );
    let Err(Error::ParamsMismatch { missing, extra, .. }) = Model::load(
        read_config("architectures/llama"),
        &FileSource::open(fixture("architectures/qwen3/model.safetensors")),
    ) else {
        panic!("it was loaded")
    };
    assert_eq!((missing.len(), extra.len()), (0, 4));
}
