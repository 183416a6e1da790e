//! Every kernel's gradient against central differences, in f64, at sizes that fill more than one block.
//!
//! A scalar is made of a kernel's output by fixed coefficients. Differences of the fourth order with a step of 1e-3 err
//! by 1e-12 times a fifth derivative over 30, and by rounding of some 1e-15 times the size of the sum over the step:
//! 1e-9 holds both.

use super::activation::{Activation, Gating, activation_backward, activation_forward};
use super::attention::{AttentionGradients, AttentionInput, attention_backward, attention_forward, scratch_len};
use super::embedding::{embedding_backward, embedding_forward, position_backward};
use super::heads::{HeadNorm, HeadPart, HeadShape, head_norm_backward, merge_heads, split_heads};
use super::linear::{
    Linear, Orientation, linear_backward_bias, linear_backward_input, linear_backward_weight, linear_forward,
};
use super::loss::{LossScale, NO_TARGET, TokenLoss, greedy_tokens, token_losses, token_losses_and_gradients};
use super::moe::{
    DispatchMut, RouteGradient, RouteMut, RouteShape, TopKWeights, combine, combine_backward, dispatch, gather, route,
    route_backward,
};
use super::norm::{Norm, NormKind, RowStats, norm_backward_input, norm_backward_params, norm_forward};
use super::rotary::RotaryTable;
use super::{Accumulate, Threads};

const STEP: f64 = 1e-3;

/// Numbers between -1 and 1 that look like chance.
fn numbers(n: usize, seed: u32) -> Vec<f64> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 23) - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Compares some entries of `gradient` with the slope of `f` at `x`.
fn check_slope(what: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    for i in (0..x.len()).step_by((x.len() / 23).max(1)).chain([x.len() - 1]) {
        let at = |step: f64| {
            let mut x = x.to_vec();
            x[i] += step;
            f(&x)
        };
        let slope = (8.0 * (at(STEP) - at(-STEP)) - (at(2.0 * STEP) - at(-2.0 * STEP))) / (12.0 * STEP);
        assert!((gradient[i] - slope).abs() < 1e-9, "{what} at {i}: {} instead of {slope}", gradient[i]);
    }
}

#[test]
fn norms() {
    const ROWS: usize = 70;
    const N: usize = 37;
    let (x, weight, bias, c) = (numbers(ROWS * N, 1), numbers(N, 2), numbers(N, 3), numbers(ROWS * N, 4));
    for (kind, has_bias) in [(NormKind::Rms, false), (NormKind::Layer, false), (NormKind::Layer, true)] {
        let run = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let norm = Norm { kind, weight, bias: has_bias.then_some(bias), epsilon: 1e-2 };
            let (mut out, mut stats) = (vec![1.0; ROWS * N], vec![RowStats::default(); ROWS]);
            norm_forward(&mut out, Accumulate::Replace, x, norm, &mut stats);
            (inner(&out, &c), stats)
        };
        let (_, stats) = run(&x, &weight, &bias);
        let norm = Norm { kind, weight: &weight, bias: has_bias.then_some(&bias[..]), epsilon: 1e-2 };
        let (mut dx, mut d_weight, mut d_bias) = (vec![0.5; ROWS * N], vec![0.0; N], vec![0.0; N]);
        norm_backward_input(&mut dx, Accumulate::Add, &c, &x, norm, &stats);
        dx.iter_mut().for_each(|dx| *dx -= 0.5);
        norm_backward_params(&mut d_weight, has_bias.then_some(&mut d_bias[..]), &c, &x, &stats);
        check_slope("x", &x, &dx, |x| run(x, &weight, &bias).0);
        check_slope("weight", &weight, &d_weight, |weight| run(&x, weight, &bias).0);
        check_slope("bias", &bias, &d_bias, |bias| run(&x, &weight, bias).0);
    }
}

#[test]
fn linear_layers_stored_either_way() {
    const ROWS: usize = 130;
    let (n_in, n_out) = (19, 23);
    let (x, weight, bias, c) =
        (numbers(ROWS * n_in, 1), numbers(n_in * n_out, 2), numbers(n_out, 3), numbers(ROWS * n_out, 4));
    for orientation in [Orientation::OutIn, Orientation::InOut] {
        let run = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let mut y = vec![7.0; ROWS * n_out];
            let layer = Linear { weight, orientation, bias: Some(bias), n_in, n_out };
            linear_forward(&mut y, Accumulate::Replace, x, layer, Threads::Pool);
            let first = y[0];
            linear_forward(&mut y, Accumulate::Add, x, layer, Threads::One);
            assert!((y[0] - 2.0 * first).abs() < 1e-12);
            inner(&y, &c) / 2.0
        };
        let layer = Linear { weight: &weight, orientation, bias: Some(&bias), n_in, n_out };
        let (mut dx, mut d_weight, mut d_bias) = (vec![9.0; ROWS * n_in], vec![0.0; n_in * n_out], vec![0.0; n_out]);
        linear_backward_input(&mut dx, Accumulate::Replace, &c, layer, Threads::Pool);
        linear_backward_weight(&mut d_weight, &c, &x, layer, Threads::Pool);
        linear_backward_bias(&mut d_bias, &c);
        check_slope("x", &x, &dx, |x| run(x, &weight, &bias));
        check_slope("weight", &weight, &d_weight, |weight| run(&x, weight, &bias));
        check_slope("bias", &bias, &d_bias, |bias| run(&x, &weight, bias));
    }
}

#[test]
fn activations_plain_and_gated() {
    const ROWS: usize = 70;
    const N: usize = 5;
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        for gating in [Gating::Plain, Gating::Gated] {
            let c = numbers(ROWS * N, 4);
            // Nowhere near zero, where one of them has no slope.
            let away = |x: f64| 3.0 * x + 0.1_f64.copysign(x);
            let x: Vec<f64> = numbers(ROWS * N * gating.n_columns(), 1).into_iter().map(away).collect();
            let mut dx = x.clone();
            activation_backward(&mut dx, &c, N, activation, gating);
            check_slope("x", &x, &dx, |x| {
                let mut out = vec![0.0; ROWS * N];
                activation_forward(&mut out, x, N, activation, gating);
                inner(&out, &c)
            });
        }
    }
}

/// Longer than two blocks of query rows, with two query heads to a key head.
const HEADS: HeadShape = HeadShape { n_sequences: 2, sequence_length: 131, n_heads: 4, n_kv_heads: 2, head_dim: 6 };

fn attention(q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut log_sums) = (vec![0.0; q.len()], vec![0.0; HEADS.n_tokens() * HEADS.n_heads]);
    let input = AttentionInput { q, k, v, shape: HEADS, scale: 0.7 };
    attention_forward(&mut out, &mut log_sums, input, &mut vec![f64::NAN; scratch_len(HEADS)]);
    (out, log_sums)
}

#[test]
fn attention_is_the_plain_sum_and_its_gradients_are_slopes() {
    let (q_len, kv_len) = (HEADS.n_tokens() * HEADS.q_width(), HEADS.n_tokens() * HEADS.kv_width());
    let (q, k, v, c) = (numbers(q_len, 1), numbers(kv_len, 2), numbers(kv_len, 3), numbers(q_len, 4));
    let (out, log_sums) = attention(&q, &k, &v);
    let (t, n) = (HEADS.sequence_length, HEADS.head_dim);
    for (sequence, head, position) in [(0, 0, 0), (0, 1, 64), (1, 2, 63), (1, 3, 130)] {
        let row = |x: &[f64], heads: usize, head: usize, position: usize| {
            x[((sequence * heads + head) * t + position) * n..][..n].to_vec()
        };
        let query = row(&q, 4, head, position);
        let p: Vec<f64> = (0..=position).map(|j| (0.7 * inner(&query, &row(&k, 2, head / 2, j))).exp()).collect();
        let total: f64 = p.iter().sum();
        for (i, got) in row(&out, 4, head, position).into_iter().enumerate() {
            let want: f64 = p.iter().enumerate().map(|(j, p)| p / total * row(&v, 2, head / 2, j)[i]).sum();
            assert!((got - want).abs() < 1e-14);
        }
    }
    let (mut dq, mut dk, mut dv) = (vec![9.0; q_len], vec![9.0; kv_len], vec![9.0; kv_len]);
    let gradients = AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
    let input = AttentionInput { q: &q, k: &k, v: &v, shape: HEADS, scale: 0.7 };
    attention_backward(gradients, &c, &out, &log_sums, input, &mut vec![f64::NAN; scratch_len(HEADS)]);
    check_slope("q", &q, &dq, |q| inner(&attention(q, &k, &v).0, &c));
    check_slope("k", &k, &dk, |k| inner(&attention(&q, k, &v).0, &c));
    check_slope("v", &v, &dv, |v| inner(&attention(&q, &k, v).0, &c));
}

fn part<'a>(
    weight: &'a [f64],
    rotary: &'a RotaryTable<f64>,
    [head_stride, first_column]: [usize; 2],
) -> HeadPart<'a, f64> {
    let norm = (!weight.is_empty()).then_some(HeadNorm { weight, epsilon: 1e-2 });
    HeadPart { row_width: 72, first_column, head_stride, n_heads: HEADS.n_heads, norm, rotary: Some(rotary) }
}

/// Queries in the layouts of Llama and of GPT-NeoX, with each norm; the rotation turns four of six numbers.
#[test]
fn heads_normalised_and_rotated() {
    let rotary = RotaryTable::new(&[0.9, 0.1], HEADS.sequence_length, 1.3);
    let x = numbers(HEADS.n_tokens() * 72, 1);
    let c = numbers(HEADS.n_tokens() * HEADS.q_width(), 2);
    for (norm_width, head_stride, first_column) in [(0, 18, 6), (0, 6, 24), (6, 6, 24), (24, 6, 24)] {
        let weight = numbers(norm_width, 3);
        let place = [head_stride, first_column];
        let run = |x: &[f64], weight: &[f64]| {
            let mut stats = vec![RowStats::default(); HEADS.n_tokens() * part(weight, &rotary, place).n_stats(HEADS)];
            let mut out = vec![0.0; c.len()];
            split_heads(&mut out, x, part(weight, &rotary, place), &mut stats, HEADS);
            (inner(&out, &c), stats)
        };
        let (_, stats) = run(&x, &weight);
        let (mut dx, mut d_weight) = (vec![0.0; x.len()], vec![0.0; norm_width]);
        merge_heads(&mut dx, &c, part(&weight, &rotary, place), HEADS);
        head_norm_backward(&mut dx, &mut d_weight, &x, part(&weight, &rotary, place), &stats, HEADS);
        check_slope("x", &x, &dx, |x| run(x, &weight).0);
        if norm_width > 0 {
            check_slope("weight", &weight, &d_weight, |weight| run(&x, weight).0);
        }
    }
}

#[test]
fn embeddings_and_positions() {
    const WIDTH: usize = 3;
    let tokens: Vec<u32> = (0..2 * 70).map(|i| i * i % 11).collect();
    let (table, positions, c) = (numbers(300 * WIDTH, 1), numbers(80 * WIDTH, 2), numbers(140 * WIDTH, 3));
    let run = |table: &[f64], positions: &[f64]| {
        let mut out = vec![0.0; c.len()];
        embedding_forward(&mut out, &tokens, table, Some(positions), [70, WIDTH]);
        inner(&out, &c)
    };
    let (mut d_table, mut d_positions) = (vec![0.0; table.len()], vec![0.0; positions.len()]);
    embedding_backward(&mut d_table, &tokens, &c, WIDTH);
    position_backward(&mut d_positions, &c, [70, WIDTH]);
    check_slope("table", &table, &d_table, |table| run(table, &positions));
    check_slope("positions", &positions, &d_positions, |positions| run(&table, positions));
}

#[test]
fn cross_entropy_with_z_loss_and_unscored_rows() {
    const ROWS: usize = 70;
    const VOCAB_SIZE: usize = 37;
    let logits: Vec<f64> = numbers(ROWS * VOCAB_SIZE, 1).into_iter().map(|x| 4.0 * x).collect();
    let targets: Vec<u32> = (0..70).map(|i| if i % 7 == 3 { NO_TARGET } else { i * 5 % 37 }).collect();
    let mut losses = vec![TokenLoss::default(); ROWS];
    let mut gradient = logits.clone();
    token_losses_and_gradients(&mut losses, &mut gradient, &targets, VOCAB_SIZE, LossScale { nll: 0.3, z: 0.02 });
    check_slope("logits", &logits, &gradient, |logits| {
        let mut losses = vec![TokenLoss::default(); ROWS];
        token_losses(&mut losses, logits, &targets, VOCAB_SIZE);
        losses.iter().map(|loss| 0.3 * loss.nll_nats + 0.02 * loss.log_sum * loss.log_sum).sum()
    });
    let row = &logits[..VOCAB_SIZE];
    let want = row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[0];
    assert!((losses[0].nll_nats - want).abs() < 1e-13, "{losses:?}");
    assert_eq!(losses[3], TokenLoss::default());
    let mut greedy = [9; 3];
    greedy_tokens(&mut greedy, &[1.0, 3.0, 3.0, -1.0, -2.0, -3.0, 0.0, f64::NAN, 5.0], 3);
    assert_eq!(greedy, [1, 0, 1]);
}

/// Tokens through a router and experts that only scale: all that is between the products.
#[test]
fn routes_there_and_back() {
    const N: usize = 70;
    const WIDTH: usize = 4;
    let (logits, x, c) = (numbers(N * 5, 1), numbers(N * WIDTH, 2), numbers(N * WIDTH, 3));
    for weights in [TopKWeights::Raw, TopKWeights::Normalised] {
        let shape = RouteShape { n_experts: 5, n_active: 2, weights };
        let bias = [0.0, 0.2, 0.0, 0.0, -0.1];
        let (mut experts, mut coefficients) = (vec![0; N * 2], vec![0.0; N * 2]);
        let (mut first_rows, mut choices, mut rows) = (vec![0; 6], vec![0; N * 2], vec![0; N * 2]);
        let mut run = |logits: &[f64], x: &[f64]| {
            let mut probabilities = logits.to_vec();
            let out =
                RouteMut { probabilities: &mut probabilities, experts: &mut experts, coefficients: &mut coefficients };
            route(out, Some(&bias), shape);
            dispatch(DispatchMut { first_rows: &mut first_rows, choices: &mut choices, rows: &mut rows }, &experts);
            let mut y = vec![0.0; N * 2 * WIDTH];
            gather(&mut y, x, &choices, [2, WIDTH]);
            for (expert, first) in (1..).zip(first_rows.windows(2)) {
                y[first[0] as usize * WIDTH..first[1] as usize * WIDTH]
                    .iter_mut()
                    .for_each(|y| *y *= f64::from(expert));
            }
            let mut out = vec![0.0; N * WIDTH];
            combine(&mut out, &y, &rows, Some(&coefficients), [2, WIDTH]);
            (
                inner(&out, &c) + 0.01 * probabilities.iter().step_by(5).sum::<f64>(),
                probabilities,
                y,
                experts.clone(),
                coefficients.clone(),
                choices.clone(),
                rows.clone(),
            )
        };
        let (_, probabilities, y, experts, coefficients, choices, rows) = run(&logits, &x);
        let (mut dy, mut d_coefficients, mut d_logits) =
            (vec![0.0; y.len()], vec![0.0; N * 2], vec![0.0; logits.len()]);
        combine_backward(&mut dy, &mut d_coefficients, &c, &y, &choices, &coefficients, [2, WIDTH]);
        let d_balance = [0.01, 0.0, 0.0, 0.0, 0.0];
        let gradient = RouteGradient {
            probabilities: &probabilities,
            experts: &experts,
            coefficients: &coefficients,
            rows: &rows,
            d_coefficients: &d_coefficients,
            d_balance: &d_balance,
        };
        route_backward(&mut d_logits, gradient, shape);
        let run = std::cell::RefCell::new(run);
        check_slope("logits", &logits, &d_logits, |logits| run.borrow_mut()(logits, &x).0);
        for (row, &choice) in choices.iter().enumerate() {
            let expert = f64::from(experts[choice as usize] + 1);
            dy[row * WIDTH..(row + 1) * WIDTH].iter_mut().for_each(|dy| *dy *= expert);
        }
        let mut dx = vec![0.0; x.len()];
        combine(&mut dx, &dy, &rows, None, [2, WIDTH]);
        check_slope("x", &x, &dx, |x| run.borrow_mut()(&logits, x).0);
    }
}
