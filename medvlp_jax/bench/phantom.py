"""Shows that the phantom is not trivial: logistic regression on 32 x 32 pixels must stay at or below 0.75 macro AUC.

    python -m medvlp_jax.bench phantom

prints a table finding by finding, the macro average, and how fast examples are made. The linear model gets the best of
several penalties, chosen on the test images themselves, so that the figure is an upper bound for it. Takes about a
minute of one core.
"""

import argparse
import time

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from medvlp_jax.input.phantom import FINDINGS, PhantomSource

LIMIT = 0.75
SIDE = 32
PENALTIES = (1e-3, 1e-2, 1e-1)  # scikit-learn's C


def pixels_and_labels(source: PhantomSource) -> tuple[np.ndarray, np.ndarray]:
    """-> pixels (N, 32 * 32) float32, averaged from the full image; labels (N, F) int8 of what the image shows."""
    pixels = np.empty((len(source), SIDE * SIDE), np.float32)
    labels = np.empty((len(source), len(FINDINGS)), np.int8)
    for i in range(len(source)):
        example = source[i]
        pixels[i] = cv2.resize(example["image"], (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
        labels[i] = list(example["finding_labels"].values())
    return pixels, labels


def linear_auc(train, test) -> dict[str, float]:
    """AUC of each finding on `test` for logistic regression fitted on `train`, both (pixels, labels) -> {finding: AUC}.

    One penalty for all findings, the one that is best on average. A finding without both classes in either set has NaN.
    """
    scale = StandardScaler().fit(train[0])
    x, x_test = scale.transform(train[0]), scale.transform(test[0])
    best: dict[str, float] = {}
    for penalty in PENALTIES:
        found = {}
        for k, name in enumerate(FINDINGS):
            y, y_test = train[1][:, k], test[1][:, k]
            if min(y.sum(), y_test.sum()) == 0 or y.all() or y_test.all():
                found[name] = float("nan")
                continue
            model = LogisticRegression(C=penalty, max_iter=300).fit(x, y)
            found[name] = float(roc_auc_score(y_test, model.decision_function(x_test)))
        if not best or np.nanmean(list(found.values())) > np.nanmean(list(best.values())):
            best = found
    return best


def main(argv=None) -> float:
    parser = argparse.ArgumentParser(description="Linear baseline and speed of the synthetic radiographs.")
    parser.add_argument("--train", type=int, default=4000, help="training images")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--image_size", type=int, default=128, help="pixels of the drawn images")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    start, core = time.perf_counter(), time.process_time()
    train = pixels_and_labels(PhantomSource("train", args.train, args.seed, args.image_size))
    test = pixels_and_labels(PhantomSource("test", args.test, args.seed, args.image_size))
    n = args.train + args.test
    drawn, cpu = (time.perf_counter() - start) / n, (time.process_time() - core) / n
    auc = linear_auc(train, test)
    print(f"{'finding':<14} {'share':>6} {'AUC, logistic regression on 32 x 32 pixels':>44}")
    for k, name in enumerate(FINDINGS):
        print(f"{name:<14} {test[1][:, k].mean():>6.3f} {auc[name]:>44.3f}")
    macro = float(np.nanmean(list(auc.values())))
    verdict = "kept" if macro <= LIMIT else "EXCEEDED"
    print(f"{'macro':<14} {test[1].mean():>6.3f} {macro:>44.3f}   limit {LIMIT}: {verdict}")
    print(
        f"{1e3 * drawn:.2f} ms an example of {args.image_size} px, masks and report included ({1e3 * cpu:.2f} ms CPU)"
    )
    return macro


if __name__ == "__main__":
    raise SystemExit(0 if main() <= LIMIT else 1)
