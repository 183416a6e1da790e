//! Documents for tests: a small one of each kind.

use serde_json::{Value, json};

/// One small document of each kind, as the commands print them, without what a page does not show.
pub(crate) fn documents() -> Vec<Value> {
    vec![
        json!({"kind": "thalweg-merge-law", "version": 1, "axis": "experts", "form": "reciprocal",
            "formula": "L + A/(k + b)", "l_inf": 2.0, "a": 0.5, "b": 0.1, "base": 2.6,
            "points": [{"k": 1, "loss": 2.45, "n_merges": 4, "sd": 0.05, "fitted": 2.4545},
                {"k": 2, "loss": 2.24, "n_merges": 6, "sd": 0.02, "fitted": 2.2381}],
            "curve": [{"k": 1.0, "loss": 2.4545, "interval_95": [2.4, 2.5]}, {"k": 8.0, "loss": 2.06, "interval_95": null}],
            "forms": [{"form": "reciprocal", "formula": "L + A/(k + b)", "delta_aicc": 0.0, "curve": [2.45, 2.06]},
                {"form": "inverse", "formula": "L + A/k", "delta_aicc": null, "curve": [2.5, 2.1]}],
            "predictions": [{"k": 8, "loss": 2.06, "interval_95": [2.0, 2.1], "measured": null, "reason": null}],
            "three_point": {"k": [1, 2, 4], "predictions": [{"k": 8, "loss": 2.05, "measured": 2.06, "error": -0.01}]},
            "refusal": null}),
        json!({"kind": "thalweg-mix-search", "version": 1, "n_trials": 56, "general": "web", "beta": 0.5,
            "predictor": [{"measure": "code/nats_per_token", "left_out_error": 0.02, "left_out_spearman": 0.97,
                "points": [[2.3, 2.31], [2.4, 2.38], [2.5, 2.52]]}],
            "region": [{"component": "web & <b>", "coefficient": 0.2, "data_share": 0.6,
                "coefficient_quantiles": [0.1, 0.2, 0.3], "data_share_quantiles": [0.5, 0.6, 0.7]}],
            "models": [{"name": "best sampled", "data_shares": {"web & <b>": 0.55}}]}),
        json!({"kind": "thalweg-mix-validation", "version": 1, "n_trials": 30, "n_references": 24, "n_matched": 24,
            "rows": [{"measure": "code/nats_per_token", "n": 24, "spearman": 0.74, "spearman_interval_95": [0.5, 0.9],
                "n_top": 1, "top_quartile_spearman": null, "recovery": 1.03, "pairs": [[2.0, 2.1], [2.4, 2.2]]}]}),
        json!({"kind": "thalweg-forget-curve", "version": 1, "n_kept": 36, "rows": [
            {"step": 12, "tokens": 4096, "window": null, "values": {"m_ex": 0.03, "ppl": 21.0},
                "standard_errors": {"m_ex": 0.01, "ppl": 0.2}, "retention": 0.05},
            {"step": 12, "tokens": 4096, "window": "sma:2", "values": {"m_ex": 0.54, "ppl": 20.7},
                "standard_errors": {}, "retention": 1.5}]}),
        json!({"kind": "thalweg-extrapolation", "version": 1, "n_points": 6, "window": 8, "alpha": 0.5,
            "line": {"verdict": "no line", "component_shares": [0.67, 0.2], "random_walk_shares": [0.71, 0.15],
                "mean_cosine": 0.05, "random_walk_cosine": 0.25},
            "decides": {"suite": "choose", "score": "text nats_per_token", "higher_is_better": false},
            "parabola": {"vertex": 0.6, "curvature": 0.01, "slope": -0.012, "alpha": 0.6},
            "candidates": [{"alpha": 0.0, "value": 1.7, "gain": 0.0, "gain_standard_error": 0.0},
                {"alpha": 0.5, "value": 1.699, "gain": 0.001, "gain_standard_error": 0.0004}],
            "averages": [{"n_checkpoints": 8, "value": 1.7}, {"n_checkpoints": 16, "value": 1.6995}],
            "refusal": "the plain mean is better"}),
    ]
}
