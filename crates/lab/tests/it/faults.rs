//! What goes wrong, on purpose or not, is said, and leaves whole checkpoints.

use thalweg_lab::Error;

use crate::support::{TINY, World};

#[test]
fn a_learning_rate_fault_makes_a_spike_where_it_is_wanted() {
    let world = World::new();
    world.train(TINY, "run");
    let fault = "\n[[fault]]\nkind = \"learning-rate\"\nat_step = 5\nsteps = 2\nfactor = 1000.0\n";
    world.train(&format!("{TINY}{fault}"), "spiked");
    let rates = |name: &str| world.column(&format!("{name}/steps.jsonl"), "learning_rate");
    for (step, (plain, spiked)) in rates("run").into_iter().zip(rates("spiked")).enumerate() {
        let factor = if (4..6).contains(&step) { 1000.0 } else { 1.0 };
        assert!((spiked - factor * plain).abs() <= 1e-14 * factor, "step {}", step + 1);
    }
    let losses = |name: &str| world.column(&format!("{name}/steps.jsonl"), "loss");
    let (plain, spiked) = (losses("run"), losses("spiked"));
    assert_eq!(plain[..5], spiked[..5], "nothing differs before the faulty step has been taken");
    assert!(spiked[5] > plain[5] + 0.3, "{} and {}", spiked[5], plain[5]);
}

#[test]
fn a_poisoned_batch_has_the_loss_of_random_tokens_and_the_data_go_on_behind_it() {
    let world = World::new();
    world.train(TINY, "run");
    world.train(&format!("{TINY}\n[[fault]]\nkind = \"poison-batch\"\nat_step = 9\n"), "poisoned");
    let losses = |name: &str| world.column(&format!("{name}/steps.jsonl"), "loss");
    let (plain, poisoned) = (losses("run"), losses("poisoned"));
    assert_eq!(plain[..8], poisoned[..8]);
    // A model that has learned something is worse than uniform (ln 512 = 6.24 nats) on random tokens.
    assert!(poisoned[8] > 6.2 && plain[8] < 5.9, "{} and {}", poisoned[8], plain[8]);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_newest_checkpoint() {
    let world = World::new();
    let fault = "\n[[fault]]\nkind = \"learning-rate\"\nat_step = 7\nfactor = 1e38\n";
    let error = world.train_until(&format!("{TINY}{fault}"), "run", 0).unwrap_err();
    let Error::NotFinite { step, newest, .. } = &error else { panic!("{error}") };
    assert_eq!(*step, 8);
    assert_eq!(newest.as_deref(), Some("/disk/run/step-6".as_ref()));
    assert_eq!(world.column("run/steps.jsonl", "step").len(), 7);
}

#[test]
fn mistakes_of_configs_and_data_are_named() {
    let world = World::new();
    let refuse = |text: &str| world.train_until(text, "refused", 0).unwrap_err().to_string();
    let small = refuse(&TINY.replace("[model]", "[model]\nvocab_size = 100"));
    assert_eq!(small, "the tokenizer has 512 tokens, but the model has `vocab_size` 100");
    let unknown = refuse(&TINY.replace("bpe-512", "bpe-513"));
    assert!(unknown.contains("tokenizer `/disk/bpe-513`: there is no such file"), "{unknown}");
    let experts = refuse(&TINY.replace("kv_heads = 1", "n_experts = 4"));
    assert!(experts.contains("need both"), "{experts}");
    let family = refuse(&TINY.replace("[model]", "[model]\nfamily = \"lama\""));
    assert!(family.starts_with("`model.family`: `lama` is not one of llama"), "{family}");
    let steps = refuse(&TINY.replace("steps = 12", "steps = 12\ntokens = \"1M\""));
    assert_eq!(steps, "`steps`: give either `steps` or `tokens`");
    let odd = refuse(&TINY.replace("micro_batches = 2", "micro_batches = 3"));
    assert_eq!(odd, "`micro_batches`: 3 does not divide 4");
    world.write("corpus.jsonl", "{\"text\": \"fine\"}\n{\"text\": 5}\n");
    let broken = refuse(TINY);
    assert!(broken.starts_with("`/disk/corpus.jsonl`, line 2: invalid type: integer `5`"), "{broken}");
}

#[test]
fn a_folder_of_something_else_is_not_touched() {
    let world = World::new();
    world.storage.create_folder("/disk/other".as_ref()).unwrap();
    world.write("other/notes.txt", "mine");
    let error = world.train_until(TINY, "other", 0).unwrap_err();
    assert_eq!(error.to_string(), "`/disk/other` is not empty and holds no training run");
    assert_eq!(world.files("other").len(), 1);
}
