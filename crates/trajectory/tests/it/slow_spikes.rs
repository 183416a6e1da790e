//! Slow, low spikes, dead losses, and the evidence of the other columns.

use thalweg_trajectory::{
    LogEntry, Spike, SpikeOptions, SpikeSignal, Step, StepLog, back_at, detect_spikes, lasting_spike,
};

use crate::random::Random;

fn log_of(losses: &[f64], every: u64, grad_norm: impl Fn(usize) -> Option<f64>) -> StepLog {
    StepLog::from_entries(losses.iter().enumerate().map(|(i, loss)| LogEntry {
        step: Step(every * (i as u64 + 1)),
        tokens: None,
        loss: Some(*loss),
        learning_rate: Some(3e-4),
        grad_norm: grad_norm(i),
    }))
}

fn detect(log: &StepLog) -> Vec<Spike> {
    detect_spikes(log, &SpikeOptions::default())
}

/// The shape of a slow spike that rises over `n` entries, as a share of its height.
#[derive(Debug, Clone, Copy)]
enum SlowShape {
    /// Up, and stays.
    Stays,
    /// Up, and down as slowly.
    Triangle,
    /// Up, and down at once.
    Saw,
    /// Half a wave over twice the entries.
    Wave,
}

impl SlowShape {
    fn at(self, i: usize, n: usize) -> f64 {
        let t = (i as f64 + 1.0) / n as f64;
        match self {
            Self::Stays => t.min(1.0),
            Self::Triangle => t.min(2.0 - t).max(0.0),
            Self::Saw if t > 1.0 => 0.0,
            Self::Saw => t,
            Self::Wave if t > 2.0 => 0.0,
            Self::Wave => (std::f64::consts::FRAC_PI_2 * t).sin(),
        }
    }
}

/// A falling loss, an entry every ten steps, with a rise of 0.25 nats over `n_rise` entries.
fn slow_losses(shape: SlowShape, sigma: f64, at: usize, n_rise: usize, random: &mut Random) -> Vec<f64> {
    let loss = |i: usize| 2.5 + 4.0 * (-(i as f64) / 80.0).exp();
    let rise = |i: usize| if i < at { 0.0 } else { 0.25 * shape.at(i - at, n_rise) };
    (0..600).map(|i| loss(i) + rise(i) + sigma * random.normal()).collect()
}

#[test]
fn onsets_of_slow_low_spikes_are_found_within_three_entries() {
    let mut random = Random::new(11);
    let (mut n, mut off) = (0, Vec::new());
    for shape in [SlowShape::Stays, SlowShape::Triangle, SlowShape::Saw, SlowShape::Wave] {
        for sigma in [0.005, 0.01, 0.02] {
            for n_rise in [20, 40] {
                for round in 0..8 {
                    let at = 250 + random.below(250);
                    let losses = slow_losses(shape, sigma, at, n_rise, &mut random);
                    let found = detect(&log_of(&losses, 10, |_| None));
                    let distance = found.iter().map(|spike| spike.onset.0.abs_diff(10 * (at as u64 + 1))).min();
                    n += 1;
                    if distance.is_none_or(|distance| distance > 30) || found.len() != 1 {
                        off.push(format!("{shape:?} {sigma} over {n_rise} at {}0 ({round}): {found:?}", at + 1));
                    }
                }
            }
        }
    }
    // If the loss rises by a third of the noise per entry, the foot of a ramp is known to about one entry: 2 of 100 are
    // off by more than three.
    assert!(50 * off.len() <= n, "{} of {n}: {off:#?}", off.len());
}

#[test]
fn a_slow_rise_on_a_flat_stretch_is_found_wherever_the_lowest_loss_was() {
    let mut random = Random::new(21);
    let (mut n, mut off) = (0, Vec::new());
    for sigma in [0.005, 0.01, 0.015, 0.02] {
        for (at, n_entries) in [(100_u32, 200), (140, 200), (300, 500)] {
            for round in 0..8 {
                let rise = |i: usize| 0.25 * ((i as f64 + 1.0 - f64::from(at)) / 40.0).clamp(0.0, 1.0);
                let losses: Vec<f64> = (0..n_entries).map(|i| 2.5 + rise(i) + sigma * random.normal()).collect();
                let found = detect(&log_of(&losses, 10, |_| None));
                n += 1;
                let distance = found.first().map(|spike| spike.onset.0.abs_diff(10 * (u64::from(at) + 1)));
                if found.len() != 1 || distance.is_none_or(|distance| distance > 30) || found[0].end.is_some() {
                    off.push(format!("{sigma} at {at} of {n_entries} ({round}): {found:?}"));
                }
            }
        }
    }
    assert!(50 * off.len() <= n, "{} of {n}: {off:#?}", off.len());
}

#[test]
fn slow_spikes_of_logs_of_every_step_are_found() {
    let mut random = Random::new(12);
    let mut found_onsets = Vec::new();
    for round in 0..12u32 {
        let at = 2500 + 97 * round;
        let losses: Vec<f64> = (0..5000u32)
            .map(|i| {
                let rise = if i < at { 0.0 } else { 0.25 * (f64::from(i - at) / 400.0).min(1.0) };
                2.5 + 4.0 * (-f64::from(i) / 800.0).exp() + rise + 0.02 * random.normal()
            })
            .collect();
        let found = detect(&log_of(&losses, 1, |_| None));
        assert_eq!(found.len(), 1, "{found:?}");
        found_onsets.push(found[0].onset.0.abs_diff(u64::from(at) + 1));
    }
    // The loss rises by a thirtieth of the noise per entry: the standard error of the foot is about five entries.
    found_onsets.sort_unstable();
    assert!(found_onsets[6] <= 6 && found_onsets[11] <= 25, "{found_onsets:?}");
}

fn quiet(n: usize, random: &mut Random) -> Vec<f64> {
    (0..n).map(|i| 2.5 + 4.0 * (-(i as f64) / 80.0).exp() + 0.02 * random.normal()).collect()
}

#[test]
fn a_dead_loss_is_one_spike_however_long_it_lasts() {
    let mut random = Random::new(13);
    for (dead, signal) in
        [(f64::NAN, SpikeSignal::NonFinite), (f64::INFINITY, SpikeSignal::NonFinite), (0.0, SpikeSignal::ZeroLoss)]
    {
        let mut losses = quiet(2000, &mut random);
        losses[700..].fill(dead);
        let log = log_of(&losses, 10, |_| None);
        let spike = Spike { onset: Step(7010), peak: Step(7010), end: None, signal };
        assert_eq!(detect(&log), [spike]);
        assert_eq!(lasting_spike(&log, &[spike], Step(20_000)), Some(&spike));
        assert_eq!(lasting_spike(&log, &[spike], Step(7000)), None);
    }
    // Zeros that a run reached by learning, single zeros, and zeros from the start are not spikes.
    let mut losses: Vec<f64> = (0..600).map(|i| 2.0 * (-(f64::from(i)) / 40.0).exp()).collect();
    losses[500..].fill(0.0);
    assert_eq!(detect(&log_of(&losses, 10, |_| None)), []);
    assert_eq!(detect(&log_of(&[0.0; 400], 10, |_| None)), []);
    let mut losses = quiet(600, &mut random);
    losses[400] = 0.0;
    assert_eq!(detect(&log_of(&losses, 10, |_| None)), []);
}

#[test]
fn a_gradient_norm_that_turns_nan_is_a_spike_and_joins_that_of_the_loss() {
    let mut random = Random::new(14);
    let losses = quiet(600, &mut random);
    let turned = |from: usize, to: usize| move |i: usize| Some(if (from..to).contains(&i) { f64::NAN } else { 0.5 });
    let spike = |end: Option<u64>| Spike {
        onset: Step(4010),
        peak: Step(4010),
        end: end.map(Step),
        signal: SpikeSignal::GradNormNonFinite,
    };
    assert_eq!(detect(&log_of(&losses, 10, turned(400, 600))), [spike(None)]);
    assert_eq!(detect(&log_of(&losses, 10, turned(400, 410))), [spike(Some(4110))]);
    // A loss scaler skips steps at the start and now and then.
    assert_eq!(detect(&log_of(&losses, 10, turned(0, 12))), []);
    assert_eq!(detect(&log_of(&losses, 10, turned(400, 402))), []);
    // The loss is 0 from the entry at which the norm turns NaN, or rises a little later.
    let mut dead = losses.clone();
    dead[400..].fill(0.0);
    let found = detect(&log_of(&dead, 10, turned(400, 600)));
    assert_eq!((found.len(), found[0].onset, found[0].end), (1, Step(4010), None), "{found:?}");
    let mut high = losses.clone();
    high[405..].iter_mut().for_each(|loss| *loss += 2.0);
    let found = detect(&log_of(&high, 10, turned(400, 600)));
    assert_eq!((found.len(), found[0].onset, found[0].end), (1, Step(4010), None), "{found:?}");
}

#[test]
fn a_loss_that_is_no_longer_logged_is_a_spike() {
    let mut random = Random::new(15);
    let losses = quiet(400, &mut random);
    let mut entries = log_of(&losses, 10, |_| Some(0.5)).entries().to_vec();
    let stopped = |entries: &[LogEntry]| detect(&StepLog::from_entries(entries.iter().copied()));
    entries[380..].iter_mut().for_each(|entry| entry.loss = None);
    let spike = Spike { onset: Step(3810), peak: Step(3810), end: None, signal: SpikeSignal::LossStops };
    assert_eq!(stopped(&entries), [spike]);
    // A loss that is missing from the last few entries, or logged less often than the rest, has not stopped.
    let mut entries = log_of(&losses, 10, |_| Some(0.5)).entries().to_vec();
    entries[395..].iter_mut().for_each(|entry| entry.loss = None);
    assert_eq!(stopped(&entries), []);
    entries.iter_mut().enumerate().filter(|(i, _)| i % 20 != 0).for_each(|(_, entry)| entry.loss = None);
    assert_eq!(stopped(&entries), []);
}

#[test]
fn a_run_that_diverges_for_long_is_one_spike() {
    let mut random = Random::new(16);
    let mut losses = quiet(1500, &mut random);
    // Rises for 400 entries, longer than the patience for a new level, with ten times the noise on the way.
    for (i, loss) in losses.iter_mut().enumerate().skip(500) {
        *loss += 4.0 * ((i - 499) as f64 / 400.0).min(1.0) + 0.2 * random.normal();
    }
    let found = detect(&log_of(&losses, 10, |_| None));
    assert_eq!((found.len(), found[0].end), (1, None), "{found:?}");
    assert!(found[0].onset.0.abs_diff(5010) <= 30, "{found:?}");
}

#[test]
fn a_spike_is_over_when_the_loss_falls_below_its_old_level() {
    let mut random = Random::new(17);
    let mut losses: Vec<f64> = (0..1500).map(|i| 3.0 - 0.001 * f64::from(i) + 0.01 * random.normal()).collect();
    losses[400..].iter_mut().for_each(|loss| *loss += 0.5);
    let log = log_of(&losses, 10, |_| None);
    let spikes = detect(&log);
    assert_eq!((spikes.len(), spikes[0].onset, spikes[0].end), (1, Step(4010), None), "{spikes:?}");
    // 0.5 nats at 0.001 per entry.
    let back = back_at(&log, &spikes[0]).unwrap();
    assert!(back.0.abs_diff(9010) <= 300, "{back}");
    assert!(lasting_spike(&log, &spikes, Step(7000)).is_some());
    assert_eq!(lasting_spike(&log, &spikes, Step(12_000)), None);
}

#[test]
fn quiet_logs_of_every_length_have_no_slow_spikes() {
    let mut random = Random::new(18);
    for n in [512, 1000, 4000, 20_000] {
        for sigma in [0.005, 0.02, 0.1] {
            let losses: Vec<f64> =
                (0..n).map(|i| 2.0 + 2.0 * (10.0 / (f64::from(i) + 10.0)).sqrt() + sigma * random.normal()).collect();
            assert_eq!(detect(&log_of(&losses, 10, |_| None)), [], "{n} {sigma}");
        }
    }
}

/// Noise of standard deviation 1 whose neighbours are correlated, as losses are that a trainer averaged over steps.
fn remembering_noise(n: usize, correlation: f64, random: &mut Random) -> Vec<f64> {
    let fresh = (1.0 - correlation * correlation).sqrt();
    let mut last = 0.0;
    let mut next = || {
        last = correlation * last + fresh * random.normal();
        last
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn healthy_logs_whose_noise_has_a_memory_have_no_spikes() {
    let mut random = Random::new(19);
    let (mut n_logs, mut found) = (0, Vec::new());
    for correlation in [0.5, 0.7, 0.8, 0.9] {
        for sigma in [0.005, 0.02, 0.05] {
            for round in 0..8 {
                let noise = remembering_noise(2000, correlation, &mut random).into_iter().enumerate();
                let loss = |(i, x): (usize, f64)| 2.2 + 8.0 * (-(i as f64) / 60.0).exp() + sigma * x;
                let spikes = detect(&log_of(&noise.map(loss).collect::<Vec<_>>(), 1, |_| None));
                n_logs += 1;
                if !spikes.is_empty() {
                    found.push(format!("{correlation} {sigma} ({round}): {spikes:?}"));
                }
            }
        }
    }
    assert!(found.len() <= 1, "{} of {n_logs}: {found:#?}", found.len());
}

#[test]
fn spikes_in_noise_with_a_memory_are_found() {
    let mut random = Random::new(20);
    for correlation in [0.5, 0.8, 0.9] {
        for round in 0..6 {
            let at = 1200 + 60 * round;
            let noise = remembering_noise(2000, correlation, &mut random).into_iter().enumerate();
            let rise = |i: usize| if i < at { 0.0 } else { 0.4 * (-((i - at) as f64) / 30.0).exp() };
            let loss = |(i, x): (usize, f64)| 2.2 + 8.0 * (-(i as f64) / 60.0).exp() + 0.02 * x + rise(i);
            let spikes = detect(&log_of(&noise.map(loss).collect::<Vec<_>>(), 1, |_| None));
            assert_eq!(spikes.len(), 1, "{correlation} ({round}): {spikes:?}");
            assert!(spikes[0].onset.0.abs_diff(at as u64 + 1) <= 3, "{correlation} ({round}): {spikes:?}");
        }
    }
}
