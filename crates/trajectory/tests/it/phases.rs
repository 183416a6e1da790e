//! Phases from learning rates of many shapes, exact, noisy and damaged.

use thalweg_trajectory::{LogEntry, Phase, Phases, StableRange, Step, StepLog, detect_phases};

use crate::random::Random;

const PEAK: f64 = 3e-4;

/// A log of these learning rates.
fn log_of(rates: impl IntoIterator<Item = (u64, f64)>) -> StepLog {
    StepLog::from_entries(rates.into_iter().map(|(step, rate)| LogEntry {
        step: Step(step),
        tokens: None,
        loss: Some(3.0),
        learning_rate: Some(rate),
        grad_norm: None,
    }))
}

#[derive(Debug, Clone, Copy)]
enum Decay {
    Linear,
    Cosine,
    OneMinusSqrt,
    Exponential,
    Steps,
}

const DECAYS: [Decay; 5] = [Decay::Linear, Decay::Cosine, Decay::OneMinusSqrt, Decay::Exponential, Decay::Steps];

impl Decay {
    fn at(self, t: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - t,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
            Self::OneMinusSqrt => 1.0 - t.sqrt(),
            Self::Exponential => 0.01f64.powf(t),
            Self::Steps if t < 1.0 / 3.0 => 0.5,
            Self::Steps if t < 2.0 / 3.0 => 0.25,
            Self::Steps => 0.1,
        }
    }
}

/// Warmup to 100, level to 17,000, down to 20,000: the schedule of the run in `examples`.
fn wsd(decay: Decay, floor: f64) -> impl Fn(u64) -> f64 {
    move |step| {
        let x = step as f64;
        PEAK * match step {
            0..100 => x / 100.0,
            100..=17_000 => 1.0,
            _ => floor + (1.0 - floor) * decay.at(((x - 17_000.0) / 3000.0).min(1.0)),
        }
    }
}

fn cosine(n_warmup: u64, n_steps: u64) -> impl Fn(u64) -> f64 {
    move |step| {
        let x = step as f64 - n_warmup as f64;
        if step < n_warmup {
            PEAK * step as f64 / n_warmup as f64
        } else {
            PEAK * (0.05 + 0.95 * Decay::Cosine.at(x / (n_steps - n_warmup) as f64))
        }
    }
}

fn phases_of(every: usize, until: u64, rate: impl Fn(u64) -> f64) -> Phases {
    detect_phases(&log_of((0..=until).step_by(every).map(|step| (step, rate(step))))).unwrap()
}

#[test]
fn the_end_of_the_stable_phase_is_found_to_the_entry() {
    for decay in DECAYS {
        for floor in [0.0, 0.1] {
            for every in [1, 10, 50] {
                let phases = phases_of(every, 20_000, wsd(decay, floor));
                // A cosine leaves its top so slowly that the first entry may look level: 1e-5 of the peak is 6 steps.
                let end = phases.stable_end().unwrap().0;
                assert!(
                    (17_000..=17_006.max(17_000 + every as u64)).contains(&end),
                    "{decay:?} {floor} {every}: {end}"
                );
                if !matches!(decay, Decay::Cosine) {
                    assert_eq!(end, 17_000, "{decay:?} {floor} {every}");
                }
                assert_eq!(phases.stable_start(), Some(Step(100)), "{decay:?} {floor} {every}");
                assert_eq!(phases.phase_at(Step(0)), Some(Phase::Warmup));
                assert_eq!(phases.phase_at(Step(20_000)), Some(Phase::Anneal));
                assert_eq!(phases.segments().len(), 3, "{decay:?} {floor} {every}: {phases:?}");
            }
        }
    }
}

#[test]
fn a_cosine_has_no_stable_phase() {
    for every in [1, 10, 100, 400] {
        let phases = phases_of(every, 20_000, cosine(400, 20_000));
        assert_eq!(phases.stable_start(), None, "{every}: {phases:?}");
        assert_eq!(phases.phase_at(Step(401)), Some(Phase::Anneal));
        assert_eq!(
            phases.phase_at(Step(10)),
            if every < 400 { Some(Phase::Warmup) } else { phases.phase_at(Step(10)) }
        );
    }
    let linear = phases_of(10, 1000, |step| PEAK * (1.0 - step as f64 / 1000.0));
    assert_eq!(linear.segments().len(), 1);
    assert_eq!(linear.phase_at(Step(500)), Some(Phase::Anneal));
}

#[test]
fn a_constant_rate_is_stable_throughout_and_a_ramp_is_warmup() {
    let phases = phases_of(10, 1000, |_| PEAK);
    assert_eq!(phases.phase_at(Step(0)), Some(Phase::Stable));
    assert_eq!((phases.stable_end(), phases.segments().len()), (None, 1));
    // A checkpoint may be saved just after the last entry; what comes later is not known.
    assert_eq!(phases.phase_at(Step(1010)), Some(Phase::Stable));
    assert_eq!(phases.phase_at(Step(1011)), None);
    let phases = phases_of(10, 1000, |step| PEAK * step as f64 / 2000.0);
    assert_eq!(phases.segments().iter().map(|s| s.phase).collect::<Vec<_>>(), [Phase::Warmup]);
    // A log that has only just reached the level.
    let phases = phases_of(10, 2100, |step| PEAK * (step as f64 / 2000.0).min(1.0));
    assert_eq!(phases.phase_at(Step(2100)), Some(Phase::Stable));
    assert_eq!(phases.phase_at(Step(1990)), Some(Phase::Warmup));
}

#[test]
fn noise_and_single_wrong_values_do_not_hide_the_phases() {
    let mut random = Random::new(7);
    for noise in [0.001, 0.01, 0.03] {
        for decay in DECAYS {
            let clean = wsd(decay, 0.0);
            let rates: Vec<(u64, f64)> = (0..=20_000u64)
                .step_by(20)
                .map(|step| {
                    let wrong = random.uniform() < 0.005;
                    (step, if wrong { 0.0 } else { clean(step) * (1.0 + noise * random.normal()).max(0.0) })
                })
                .collect();
            let phases = detect_phases(&log_of(rates)).unwrap();
            let end = phases.stable_end().unwrap().0;
            // The decay must have left the noise behind before it can be seen.
            let late = if matches!(decay, Decay::Cosine) { 900 } else { 500 };
            assert!((16_500..=17_000 + late).contains(&end), "{decay:?} {noise}: {end}");
            assert_eq!(phases.phase_at(Step(10_000)), Some(Phase::Stable), "{decay:?} {noise}");
            assert_eq!(phases.phase_at(Step(20_000)), Some(Phase::Anneal), "{decay:?} {noise}");
        }
        let clean = cosine(400, 20_000);
        let rates: Vec<(u64, f64)> = (0..=20_000u64)
            .step_by(20)
            .map(|step| (step, clean(step) * (1.0 + noise * random.normal()).max(0.0)))
            .collect();
        let phases = detect_phases(&log_of(rates)).unwrap();
        assert_eq!(phases.stable_start(), None, "{noise}: {phases:?}");
    }
}

#[test]
fn printed_rates_and_repeated_decays_are_understood() {
    let rate = wsd(Decay::Linear, 0.0);
    let phases = phases_of(10, 20_000, |step| format!("{:.2e}", rate(step)).parse().unwrap());
    assert_eq!(phases.stable_end(), Some(Step(17_000)));
    // Two cycles: level, down, up again, level, down.
    let cycle = |step: u64| match step % 10_000 {
        s @ 0..1000 => PEAK * (0.1 + 0.9 * s as f64 / 1000.0),
        1000..=8000 => PEAK,
        s => PEAK * (1.0 - 0.9 * (s - 8000) as f64 / 2000.0),
    };
    let phases = phases_of(10, 20_000, cycle);
    let expected = [Phase::Warmup, Phase::Stable, Phase::Anneal, Phase::Warmup, Phase::Stable, Phase::Anneal];
    assert_eq!(phases.segments().iter().map(|s| s.phase).take(6).collect::<Vec<_>>(), expected);
    assert_eq!(phases.stable_end(), Some(Step(18_000)));
    assert_eq!(phases.phase_at(Step(9000)), Some(Phase::Anneal));
}

#[test]
fn logs_without_rates_give_no_phases_and_words_do() {
    assert_eq!(detect_phases(&log_of([])), None);
    assert_eq!(detect_phases(&log_of([(1, PEAK), (2, PEAK)])), None);
    assert_eq!(detect_phases(&log_of((0..50).map(|step| (step, 0.0)))), None);
    assert_eq!(detect_phases(&log_of((0..50).map(|step| (step, f64::NAN)))), None);
    let phases = Phases::from_stable("100..17k".parse().unwrap());
    assert_eq!(phases.stable_end(), Some(Step(17_000)));
    assert_eq!(phases.phase_at(Step(17_001)), Some(Phase::Anneal));
    assert_eq!(phases.phase_at(Step(99)), Some(Phase::Warmup));
    assert_eq!(Phases::from_stable("0..5".parse().unwrap()).phase_at(Step(0)), Some(Phase::Stable));
    for bad in ["5", "..5", "5..", "7..6", "a..b", ""] {
        assert!(bad.parse::<StableRange>().is_err(), "{bad}");
    }
}
