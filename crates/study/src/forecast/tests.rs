//! Forecasts of made cases, whose truth follows a rule that is known.

use thalweg_merge::scheme::DecayCurve;

use super::calibrate::Calibration;
use super::case::{CASES, Case, read_cases};
use super::lab_cases;
use super::request::Refusal;
use crate::document::json_line;
use crate::text::name_of;

/// Numbers between -1 and 1 that look random and are the same each time.
fn wobble(i: usize, k: usize) -> f64 {
    let bits = (i * 131 + k * 7919 + 17).wrapping_mul(2_654_435_761) >> 8;
    (bits % 2001) as f64 / 1000.0 - 1.0
}

/// Case `i` of run `i % 4`: its lead is 0.1 + 0.6 lag - 0.5 noise + 0.2 length + 0.4 shape x lag, and `noise` more.
fn made(i: usize, noise: f64) -> Case {
    let gain = 0.12 + 0.03 * wobble(i, 1);
    let (lag, thin) = (0.2 * wobble(i, 2), 0.05 + 0.04 * wobble(i, 3));
    let raw = 2.5 + 0.1 * wobble(i, 4);
    let full = raw - gain;
    let curve = if i.is_multiple_of(3) { DecayCurve::OneMinusSqrt } else { DecayCurve::Linear };
    let mut case = Case {
        kind: CASES.kind.to_owned(),
        version: CASES.version,
        run: format!("run-{}", i % 4),
        end_step: 1000 + 100 * (i as u64 % 5),
        anneal_steps: 100 + 50 * (i as u64 % 4),
        curve: name_of(curve),
        floor: 0.0,
        task: "stories".to_owned(),
        measure: "nats_per_token".to_owned(),
        higher_is_better: false,
        n_checkpoints: 15,
        raw,
        full,
        half: full - lag * gain,
        thin: full + thin * gain,
        standard_error: Some(0.002),
        truth: None,
    };
    let terms = case.terms();
    let lead = 0.1 + 0.6 * terms[1] - 0.5 * terms[2] + 0.2 * terms[3] + 0.4 * terms[4] + noise * wobble(i, 5);
    case.truth = Some(full - lead * gain);
    case
}

fn cases(n: usize, noise: f64) -> Vec<Case> {
    (0..n).map(|i| made(i, noise)).collect()
}

#[test]
fn a_rule_without_noise_is_found_and_foretold() {
    let calibration = Calibration::fit(&cases(400, 0.0), &[]).unwrap();
    // The ridge holds back most what varies least: the lag varies enough.
    let [_, lag, ..] = calibration.coefficients();
    assert!((lag - 0.6).abs() < 0.02, "{:?}", calibration.coefficients());
    let unseen = made(1001, 0.0);
    let predicted = calibration.predict(&unseen).unwrap();
    let off = (predicted.value - unseen.truth.unwrap()).abs() / unseen.anneal_gain().unwrap();
    assert!(off < 0.01, "{off}");
    assert!(predicted.interval_95[0] < predicted.interval_80[0] && predicted.interval_80[1] < predicted.interval_95[1]);
}

#[test]
fn intervals_hold_the_truth_about_as_often_as_they_say() {
    let calibration = Calibration::fit(&cases(64, 0.08), &[]).unwrap();
    let (mut in_80, mut in_95) = (0, 0);
    for i in 2000..2500 {
        let case = made(i, 0.08);
        let (truth, predicted) = (case.truth.unwrap(), calibration.predict(&case).unwrap());
        let holds = |[low, high]: [f64; 2]| usize::from(low <= truth && truth <= high);
        in_80 += holds(predicted.interval_80);
        in_95 += holds(predicted.interval_95);
    }
    // The made noise is even and not normal, so that few truths are far out.
    assert!((350..=460).contains(&in_80), "{in_80} of 500");
    assert!((470..=500).contains(&in_95), "{in_95} of 500");
}

#[test]
fn few_cases_of_ones_own_are_held_towards_those_of_others() {
    // The others' rule is right but for the constant, which only two own cases show.
    let own: Vec<Case> = cases(2, 0.0)
        .into_iter()
        .map(|case| Case { truth: case.truth.map(|truth| truth - 0.1 * case.merge_gain()), ..case })
        .collect();
    let alone = Calibration::fit(&own, &[]).unwrap();
    let held = Calibration::fit(&own, &cases(400, 0.0)).unwrap();
    let unseen = made(1002, 0.0);
    let truth = unseen.truth.unwrap() - 0.1 * unseen.merge_gain();
    let off =
        |calibration: &Calibration| (calibration.predict(&unseen).unwrap().value - truth).abs() / unseen.merge_gain();
    assert!(off(&held) < 0.02 && off(&held) < off(&alone), "{} against {}", off(&held), off(&alone));
}

#[test]
fn outside_of_what_was_seen_there_is_no_forecast() {
    let calibration = Calibration::fit(&cases(40, 0.01), &[]).unwrap();
    let case = made(0, 0.0);
    assert_eq!(calibration.check_domain(&case), Ok(()));
    let cosine = Case { curve: "cosine".to_owned(), ..case.clone() };
    assert_eq!(calibration.check_domain(&cosine), Err(Refusal::UnknownCurve { curve: "cosine".to_owned() }));
    let long = Case { anneal_steps: 900, ..case.clone() };
    assert!(
        matches!(calibration.check_domain(&long), Err(Refusal::OutsideDomain { value, .. }) if (value - 0.9).abs() < 1e-12)
    );
    let floor = Case { floor: 0.3, ..case.clone() };
    assert!(
        matches!(calibration.check_domain(&floor), Err(Refusal::OutsideDomain { low, high, .. }) if low == 0.0 && high == 0.0)
    );
    let useless = Case { raw: case.full + 0.003, half: case.full, ..case.clone() };
    assert!(matches!(calibration.predict(&useless), Err(Refusal::NoGain { .. })));
    let fast = Case { half: case.full - 2.0 * case.merge_gain(), ..case };
    assert!(matches!(calibration.predict(&fast), Err(Refusal::TooFast { .. })));
}

#[test]
fn an_accuracy_is_that_of_the_merge_with_a_spread_by_its_items() {
    let accuracy = |i: usize| {
        let full = 0.6 + 0.01 * wobble(i, 1);
        let truth = Some(full + 0.02 * wobble(i, 2));
        Case {
            higher_is_better: true,
            raw: full - 0.01,
            full,
            half: full,
            thin: full,
            standard_error: Some(0.01),
            truth,
            ..made(i, 0.0)
        }
    };
    let all: Vec<Case> = (0..40).map(accuracy).chain(cases(40, 0.01)).collect();
    let calibration = Calibration::fit(&[], &all).unwrap();
    let predicted = calibration.predict(&accuracy(77)).unwrap();
    assert!((predicted.value - accuracy(77).full).abs() < 1e-12);
    // Truths are off by up to two paired standard errors, evenly: 1.15 of them in the mean of squares.
    let half = predicted.interval_80[1] - predicted.value;
    assert!((0.012..0.018).contains(&half), "{half}");
}

#[test]
fn without_a_case_nothing_is_learned_and_a_broken_line_is_named() {
    assert_eq!(Calibration::fit(&[], &[]), None);
    let lines = format!("{}\n{{\"kind\": \"x\"}}\n", json_line(&made(0, 0.0)).unwrap());
    assert!(read_cases(&lines).unwrap_err().to_string().starts_with("the cases, line 3: missing field"));
    let round = read_cases(&json_line(&made(0, 0.0)).unwrap()).unwrap();
    assert_eq!(round, [made(0, 0.0)]);
}

#[test]
fn the_cases_of_the_lab_read_and_teach() {
    let cases = lab_cases().unwrap();
    assert!(cases.iter().all(|case| case.truth.is_some()));
    assert!(Calibration::fit(&[], &cases).is_some());
}
