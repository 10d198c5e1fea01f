"""Classification, segmentation, detection and severity tasks: perfect and chance predictions, and naive references."""
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from medvlp_jax.tasks import classification, common, detection, kept, segmentation, severity

NAMES = ("a", "b", "c")
RESAMPLES = 50


def batches(arrays, size=8):
    """Fresh batches of `arrays` (N, ...) with host fields; the last one is filled up."""
    total = len(next(iter(arrays.values())))

    def fresh():
        for at in range(0, total, size):
            rows = np.minimum(np.arange(at, at + size), total - 1)
            valid = np.arange(at, at + size) < total
            host = [{"id": f"{r:03d}", "patient_id": f"p{r // 2}"} for r in rows[valid]]
            yield {k: v[rows] for k, v in arrays.items()} | {"valid": valid.astype(np.float32), "host": host}

    return fresh


def records(task, name, arrays, folder=None):
    """Of a predictor that gives arrays["answer"]."""
    context = common.DEFAULT._replace(targets=NAMES, folder=folder, place={})
    run = task.make({name: lambda variables, batch: batch["answer"]}, context, resamples=RESAMPLES)
    return {r["metric"]: r for r in run({}, batches(arrays))}


def test_classification_leaves_unknown_labels_out():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (37, 3)).astype(np.int8)
    labels[:, 2] = np.where(labels[:, 2] == 1, 0, labels[:, 2])  # never present
    p = rng.random((37, 3)).astype(np.float32)
    out = records(classification, "classify", {"answer": p, "finding_labels": labels})
    known = labels >= 0
    want = [roc_auc_score(labels[known[:, c], c], p[known[:, c], c]) for c in range(2)]
    np.testing.assert_allclose([out["auc/a"]["value"], out["auc/b"]["value"]], want, rtol=1e-6)
    np.testing.assert_allclose(out["auc_macro"]["value"], np.mean(want), rtol=1e-6)
    assert list(out["auc_macro"]["skipped"]) == ["c"] and out["auc/a"]["n"] == known[:, 0].sum()
    right = [[(p[i, c] > 0.5) == labels[i, c] for c in range(2) if known[i, c]] for i in range(37)]
    np.testing.assert_allclose(out["accuracy"]["value"], np.mean([np.mean(r) for r in right if r]))
    low, high = out["auc_macro"]["ci"]
    assert low < out["auc_macro"]["value"] < high and "accuracy_top1" not in out


def test_what_pages_and_comparisons_need_is_kept(tmp_path):
    rng = np.random.default_rng(5)
    labels, p = rng.integers(-1, 2, (12, 3)).astype(np.int8), rng.random((12, 3)).astype(np.float32)
    records(classification, "classify", {"answer": p, "finding_labels": labels}, tmp_path)
    masks = (rng.random((12, 4, 4, 3)) < 0.5).astype(np.int8)
    dice = records(segmentation, "segment", {"answer": rng.random(masks.shape, np.float32), "masks": masks}, tmp_path)
    grade = np.array([-1, 0, 1, 2] * 3, np.int8)
    records(severity, "grade", {"answer": p / p.sum(1, keepdims=True), "grade": grade}, tmp_path)
    files = kept.read_folder(tmp_path / "scores", {})
    assert sorted(files) == ["classification", "segmentation", "severity"]
    np.testing.assert_array_equal(files["classification"]["scores"], p)
    np.testing.assert_array_equal(files["classification"]["labels"], labels)
    assert list(files["classification"]["names"]) == list(NAMES) and len(set(files["classification"]["patient"])) == 6
    np.testing.assert_allclose(files["segmentation"]["value_dice/b"].mean(), dice["dice/b"]["value"], rtol=1e-6)
    assert files["severity"]["labels"].tolist() == np.eye(3, dtype=int)[grade[grade >= 0]].tolist()


def test_classification_of_exclusive_classes_and_without_any_label():
    rng = np.random.default_rng(1)
    truth, p = rng.integers(0, 3, 30), rng.random((30, 3)).astype(np.float32)
    labels = np.eye(3, dtype=np.int8)[truth]
    out = records(classification, "classify", {"answer": p, "finding_labels": labels})
    np.testing.assert_allclose(out["accuracy_top1"]["value"], accuracy_score(truth, p.argmax(1)))
    out = records(classification, "classify", {"answer": p, "finding_labels": np.full_like(labels, -1)})
    assert np.isnan(out["auc_macro"]["value"]) and set(out["auc_macro"]["skipped"]) == set(NAMES)


def naive_dice(p, mask):
    both = sum(bool(a > 0.5 and m == 1) for a, m in zip(p.ravel(), mask.ravel(), strict=True))
    return 2 * both / ((p > 0.5).sum() + (mask == 1).sum())


def test_segmentation_means_over_the_images_that_have_the_mask():
    rng = np.random.default_rng(2)
    masks = (rng.random((11, 6, 6, 3)) < 0.4).astype(np.int8)
    masks[:4, ..., 0], masks[5, ..., 1], masks[..., 2] = 0, -1, -1
    p = np.where(rng.random(masks.shape) < 0.7, masks == 1, rng.random(masks.shape)).astype(np.float32)
    p[:2, ..., 0], p[2:4, ..., 0] = 0, 0.9  # empty masks: two right, two wrong
    out = records(segmentation, "segment", {"answer": p, "masks": masks})
    a = [naive_dice(p[i, ..., 0], masks[i, ..., 0]) for i in range(4, 11)]
    b = [naive_dice(p[i, ..., 1], masks[i, ..., 1]) for i in range(11) if i != 5]
    np.testing.assert_allclose([out["dice/a"]["value"], out["dice/b"]["value"]], [np.mean(a), np.mean(b)], rtol=1e-6)
    np.testing.assert_allclose(out["dice"]["value"], (np.mean(a) + np.mean(b)) / 2, rtol=1e-6)
    np.testing.assert_allclose(out["iou/a"]["value"], np.mean([d / (2 - d) for d in a]), rtol=1e-6)
    np.testing.assert_allclose(out["dice_all"]["per_class"]["a"], np.mean([1, 1, 0, 0, *a]), rtol=1e-6)
    assert out["dice"]["skipped"] == {"c": "no mask"} and out["dice/a"]["n"] == 7 and out["dice_all"]["n"] == 11
    low, high = out["dice"]["ci"]
    assert low < out["dice"]["value"] < high
    with pytest.raises(ValueError, match="no example has a mask of any of the targets: a, b, c"):
        records(segmentation, "segment", {"answer": p, "masks": np.full_like(masks, -1)})


def naive_iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def naive_ap(found, truth, c, threshold, least):
    """COCO's average precision with one list of detections and one of true boxes, each walked through."""
    rows = sorted(((d[1], n, tuple(d[2:])) for n, image in enumerate(found) for d in image
                   if d[0] == c and d[1] > 0 and d[1] >= least), key=lambda r: -r[0])  # fmt: skip
    true = [(n, tuple(t[1:])) for n, image in enumerate(truth) for t in image if t[0] == c]
    used, points, hits = set(), [], 0
    for k, (_, n, box) in enumerate(rows, 1):
        best = max(((naive_iou(box, t), i) for i, (m, t) in enumerate(true) if m == n and i not in used), default=(0, -1))
        if best[0] >= threshold:
            used.add(best[1])
            hits += 1
        points.append((hits / len(true), hits / k))
    return np.mean([max((p for r, p in points if r >= level - 1e-9), default=0) for level in np.linspace(0, 1, 101)])


def detections(n=9, seed=3):
    """True boxes, and found ones near them, elsewhere, of another class, twice."""
    rng = np.random.default_rng(seed)
    truth, found = np.full((n, 4, 5), -1, np.float32), np.zeros((n, 9, 6), np.float32)
    for i in range(n):
        for m in range(rng.integers(0, 4)):
            truth[i, m] = [rng.integers(0, 2), *rng.uniform(0, 40, 2), *rng.uniform(8, 20, 2)]
        for k in range(7):
            near = truth[i, rng.integers(0, 4)]
            box = near[1:] + rng.normal(0, 1.2, 4) if near[0] >= 0 and k < 5 else [*rng.uniform(0, 40, 2), 9, 9]
            found[i, k] = [near[0] if near[0] >= 0 and rng.random() < 0.8 else 1, rng.random(), *box]
    return found, truth


def test_mean_average_precision_equals_the_naive_walk():
    found, truth = detections()
    known = np.ones(9, np.float32)
    known[4] = 0
    out = records(detection, "detect", {"answer": found, "boxes": truth, "boxes_known": known})
    keep = known > 0
    every = detection.THRESHOLDS
    for metric, ious, least in (("map", every, 0.01), ("map_published", every, 0.5), ("ap50", [0.5], 0.01)):
        want = [[naive_ap(found[keep], truth[keep], c, t, least) for t in ious] for c in (0, 1)]
        assert 0.05 < np.mean(want) < 0.95
        np.testing.assert_allclose(out[metric]["value"], np.mean(want), rtol=1e-9)
        np.testing.assert_allclose(list(out[metric]["per_class"].values()), np.mean(want, 1), rtol=1e-9)
    assert out["map"]["n"] == 8 and out["map"]["skipped"] == {"c": "no box"} and list(detection.THRESHOLDS) == [
        0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75]  # fmt: skip
    assert out["ap50"]["ci"] is None and out["map"]["ci"][0] < out["map"]["value"] < out["map"]["ci"][1]


def test_a_resample_is_scored_as_its_copies_spelled_out():
    found, truth = detections()
    table = detection.match(found, truth, 0, (0.5,))[0]
    counts = np.array([2, 0, 1, 1, 3, 0, 1, 0, 1])
    rows = np.repeat(np.arange(9), counts)
    want = naive_ap(found[rows], truth[rows], 0, 0.5, 0)
    # Copies have equal scores; the walk may take a false copy before a true one, which moves few of the 101 readings.
    np.testing.assert_allclose(detection.average_precision(*table, counts=counts), want, atol=0.02)
    assert np.isnan(detection.average_precision(*table, counts=np.zeros(9)))


def test_perfect_no_and_needless_detections():
    _, truth = detections()
    perfect = np.zeros((9, 4, 6), np.float32)
    perfect[..., 0], perfect[..., 1], perfect[..., 2:] = truth[..., 0], truth[..., 0] >= 0, truth[..., 1:]
    known = np.ones(9, np.float32)
    assert records(detection, "detect", {"answer": perfect, "boxes": truth, "boxes_known": known})["map"]["value"] == 1
    nothing = np.zeros_like(perfect)
    assert records(detection, "detect", {"answer": nothing, "boxes": truth, "boxes_known": known})["map"]["value"] == 0
    with pytest.raises(ValueError, match="no example has a box of any of the targets"):
        records(detection, "detect", {"answer": perfect, "boxes": np.full_like(truth, -1), "boxes_known": known})


def test_severity_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]], np.float32)
    grade = np.array([0, 1, 2, 1, -1], np.int8)
    out = records(severity, "grade", {"answer": p, "grade": grade})
    assert out["accuracy"]["value"] == 0.75 and out["accuracy"]["n"] == 4 and out["accuracy"]["chance"] == 0.5
    np.testing.assert_allclose(out["mae"]["value"], np.mean([0.4, 0.1, 0.5, 0.4]), rtol=1e-6)
    assert out["auc/0"]["value"] == 1 and out["auc/2"]["value"] == 1
    assert out["auc/1"]["value"] == 1  # 0.5 and 0.4 against 0.2 and 0.3
    # quadratic kappa: observed disagreement 1 of 4 by one grade; expected from the margins (2, 1, 1) and (1, 2, 1)
    expected = sum(a * b * (i - j) ** 2 for i, a in enumerate((1, 2, 1)) for j, b in enumerate((2, 1, 1))) / 4
    np.testing.assert_allclose(out["kappa_quadratic"]["value"], 1 - 1 / expected)
    with pytest.raises(ValueError, match="have a grade 3, the model knows 0 to 2: set model.head.grades"):
        records(severity, "grade", {"answer": p, "grade": grade + np.int8(1)})
    with pytest.raises(ValueError, match="no example has a grade"):
        records(severity, "grade", {"answer": p, "grade": np.full(5, -1, np.int8)})
