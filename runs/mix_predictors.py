"""Ridge regression against boosted trees on scores of merged mixtures: three times five-fold cross-validation.

    python3 runs/mix_predictors.py TRIALS.jsonl     what `thalweg mix search --n 64` wrote

Needs numpy, scipy, scikit-learn and lightgbm. Trees have the rate and rounds of the paper; 20 points in a leaf are the library's default.
"""

import json
import statistics
import sys
import warnings

import lightgbm
import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

warnings.filterwarnings("ignore")
rows = [json.loads(line) for line in open(sys.argv[1])]
names, measures = sorted(rows[0]["coefficients"]), sorted(rows[0]["measures"])
mixtures = np.array([[row["coefficients"][name] for name in names] for row in rows])
losses = np.array([[row["measures"][measure] for measure in measures] for row in rows])


def quadratic(x):
    return np.hstack([x, *(x[:, i : i + 1] * x[:, i:] for i in range(x.shape[1]))])


def ridge(x, y, at):
    return RidgeCV(np.logspace(-8, 1, 19)).fit(quadratic(x), y).predict(quadratic(at))


def trees(n_leaf):
    def predict(x, y, at):
        settings = dict(n_estimators=300, learning_rate=0.02, min_child_samples=n_leaf, verbose=-1, random_state=42)
        return lightgbm.LGBMRegressor(**settings).fit(x, y).predict(at)

    return predict


print("| points | predictor | rank correlation | error over spread |\n|---|---|---|---|")
for n in sorted({28, 56, len(rows)}):
    for name, predict in (("ridge", ridge), ("trees, 20 in a leaf", trees(20)), ("trees, 5 in a leaf", trees(5))):
        correlations, errors = [], []
        for repeat in range(3):
            for m in range(len(measures)):
                y, found = losses[:n, m], np.zeros(n)
                for fit, held_out in KFold(5, shuffle=True, random_state=repeat).split(y):
                    found[held_out] = predict(mixtures[fit], y[fit], mixtures[held_out])
                correlations.append(spearmanr(found, y)[0])
                errors.append(np.sqrt(np.mean((found - y) ** 2)) / np.std(y))
        correlation = "-" if np.isnan(correlations).any() else f"{statistics.mean(correlations):.3f}"
        print(f"| {n} | {name} | {correlation} | {statistics.mean(errors):.3f} |")
