//! Averages that are kept while training equal those made afterwards from the checkpoints.

use crate::support::{TINY, World};

#[test]
fn windows_of_checkpoints_have_the_bytes_of_a_merge() {
    let world = World::new();
    let averages = r#"
[[average]]
name = "sma-3"
scheme = "sma"
count = 3
[[average]]
name = "ema-4"
scheme = "ema:0.25"
count = 4
"#;
    world.train(&format!("{TINY}{averages}"), "run");
    let expect = |name: &str, average: &str, numerators: &[(u64, &str)], divisor: &str| {
        world.merge(name, numerators, divisor);
        let (merged, online) =
            (format!("{name}/model.safetensors"), format!("run/averages/{average}/model.safetensors"));
        assert!(world.bytes(&merged) == world.bytes(&online), "{average}");
        assert_eq!(
            world.bytes(&format!("{name}/config.json")),
            world.bytes(&format!("run/averages/{average}/config.json"))
        );
    };
    expect("a", "sma-3/step-9", &[(3, "1"), (6, "1"), (9, "1")], "3");
    expect("b", "sma-3/step-12", &[(6, "1"), (9, "1"), (12, "1")], "3");
    // (1-a)^3, a(1-a)^2, a(1-a), a with a = 1/4, times 64.
    expect("c", "ema-4/step-12", &[(3, "27"), (6, "9"), (9, "12"), (12, "16")], "64");
    let steps = |name: &str| world.storage.list_folder(format!("/disk/run/averages/{name}").as_ref()).unwrap().len();
    // With the `thalweg.toml` beside them: never a window that is not whole.
    assert_eq!((steps("sma-3"), steps("ema-4")), (3, 2));
}

#[test]
fn running_averages_over_the_checkpoints_alone_are_those_of_the_scheme_but_for_a_rounding() {
    let world = World::new();
    let averages = r#"
[[average]]
name = "running"
scheme = "ema:0.25"
every_steps = 3
[[average]]
name = "window"
scheme = "ema:0.25"
count = 4
[[average]]
name = "power"
scheme = "power-ema:0.1"
every_steps = 3
[[average]]
name = "power-window"
scheme = "power-ema:0.1"
count = 4
[[average]]
name = "block"
scheme = "sma"
every_steps = 3
"#;
    world.train(&format!("{TINY}{averages}"), "run");
    let floats = |name: &str| -> Vec<f32> {
        let bytes = world.bytes(&format!("run/{name}/model.safetensors"));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    for (running, window) in [("running", "window"), ("power", "power-window")]
        .map(|(a, b)| (format!("averages/{a}/step-12"), format!("averages/{b}/step-12")))
    {
        let (running, window) = (floats(&running), floats(&window));
        assert!(!running.is_empty());
        for (a, b) in running.iter().zip(&window) {
            // Doubles with a few roundings, then one to f32: the same number or its neighbour.
            assert!((a - b).abs() <= b.abs() * f32::EPSILON + 1e-12, "{a} and {b}");
        }
    }
    // One sample to a block: the checkpoint itself.
    assert_eq!(floats("averages/block/step-9"), floats("step-9"));
}
