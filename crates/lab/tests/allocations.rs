//! A step of either optimizer allocates nothing after the first: a separate binary, because it counts for the whole
//! process.

use thalweg_lab::config::{OptimizerKind, OptimizerSection};
use thalweg_lab::optimizer::{Arenas, Decay, GlobalNorm, Optimizer, Rule, RuledRange, StepScale, clip_scale};
use thalweg_testkit::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// `gemm` takes packing space in each product of Muon, which is counted apart.
#[test]
fn clipping_and_a_step_allocate_nothing_after_the_first() {
    let n = 100_000;
    let rules = || {
        vec![
            RuledRange { range: 0..60_000, rule: Rule::Muon { shape: [200, 300] } },
            RuledRange { range: 60_000..90_000, rule: Rule::Adamw { decay: Decay::Yes } },
            RuledRange { range: 90_000..n, rule: Rule::Adamw { decay: Decay::No } },
        ]
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let section: OptimizerSection = toml::from_str("learning_rate = 0.01").unwrap();
        let mut optimizer = Optimizer::new(&OptimizerSection { kind, ..section.clone() }, rules());
        let (mut params, gradients) = (vec![0.5_f32; n], vec![0.25_f32; n]);
        let (mut first_moments, mut second_moments) = (vec![0.0; n], vec![0.0; n]);
        let mut norm = GlobalNorm::for_len(n);
        let mut n_updates = 0;
        let mut step = || {
            n_updates += 1;
            let gradient_scale = clip_scale(norm.of(&gradients), 1.0);
            let arenas = Arenas {
                params: &mut params,
                gradients: &gradients,
                first_moments: &mut first_moments,
                second_moments: &mut second_moments,
            };
            optimizer.step(arenas, StepScale { learning_rate: 0.01, gradient_scale, n_updates });
        };
        pool.install(|| {
            step();
            let counts = CountingAllocator::count(step);
            assert_eq!(counts.n_other, 0, "{kind:?}: {counts:?}");
        });
    }
}
