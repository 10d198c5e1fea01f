"""Detection: pairing of boxes with anchors, decoding and NMS against plain loops; the head's order of outputs."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax.models import detector
from tests.models import filled

GRIDS, ANCHORS = [(2, 3), (4, 6)], (((0.5, 0.5), (0.3, 0.8)), ((0.2, 0.2),))


def listed():
    """Every anchor as (column, row, columns, rows, w, h), spelled out."""
    out = []
    for (h, w), sizes in zip(GRIDS, ANCHORS, strict=True):
        out += [(c, r, w, h, *size) for r in range(h) for c in range(w) for size in sizes]
    return out


def naive_iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def some_boxes(n, seed=0):
    rng = np.random.default_rng(seed)
    wh = rng.uniform(0.05, 0.6, (n, 2))
    return np.concatenate([rng.uniform(0, 1, (n, 2)) * (1 - wh), wh], -1).astype(np.float32)


def test_cells_are_in_the_order_of_the_head():
    np.testing.assert_allclose(np.stack(detector.cells(GRIDS, ANCHORS), -1), listed(), rtol=1e-6)
    head = detector.YoloHead(classes=1, anchors=(2, 1), width=4)
    maps = [jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 4, 6, 4))]
    variables = filled.variables(head, maps)
    for name in ("map0_out", "map1_out"):  # the output is its anchor's number
        out = variables["params"][name]
        count = 2 if name == "map0_out" else 1
        out["kernel"][:] = 0
        out["bias"][:] = np.repeat(np.arange(count) + (10 if name == "map1_out" else 0), 6)
    raw = jax.jit(head.apply)(variables, maps)
    assert raw.shape == (1, 36, 6)
    assert raw[0, :, 0].tolist() == [0, 1] * 6 + [10] * 24
    np.testing.assert_allclose(jax.nn.sigmoid(raw[0, 0, 4]), detector.PRIOR, rtol=1e-5)


def test_iou_equals_the_loop():
    a, b = some_boxes(5), some_boxes(6, 1)
    np.testing.assert_allclose(jax.jit(detector.iou)(a, b), [[naive_iou(x, y) for y in b] for x in a], atol=1e-6)
    assert detector.iou(jnp.zeros((1, 4)), jnp.zeros((1, 4)))[0, 0] == 0


def test_pairs_equal_the_loop_and_decode_gives_the_boxes_back():
    boxes, cells = np.stack([some_boxes(6, s) for s in range(3)]), detector.cells(GRIDS, ANCHORS)
    boxes[0, 3] = boxes[0, 0]  # wants the anchor that is taken
    boxes[1, 1] = [0.9, 0.9, 0.1, 0.1]
    classes = np.array([[0, 1, 2, 1, 0, -1], [2, 2, -1, -1, -1, -1], [-1] * 6], np.int32)
    got = jax.jit(detector.pair)(boxes, classes, cells)
    for b in range(3):
        owner = {}
        for m in range(6):
            if classes[b, m] < 0:
                continue
            x, y, w, h = boxes[b, m]
            best, where = -1.0, None
            for n, (column, row, columns, rows, aw, ah) in enumerate(listed()):
                if int((x + w / 2) * columns) == column and int((y + h / 2) * rows) == row:
                    shape = naive_iou((0, 0, w, h), (0, 0, aw, ah))
                    best, where = (shape, n) if shape > best else (best, where)
            owner.setdefault(where, m)
        assert np.flatnonzero(got["owned"][b]).tolist() == sorted(owner) and len(owner) == [3, 2, 0][b]
        raw = np.zeros((1, 36, 8), np.float32)
        offset = np.asarray(got["offset"][b])
        raw[0, :, :2] = np.log(offset[:, :2] / (1 - offset[:, :2]), where=got["owned"][b][:, None], out=np.zeros((36, 2), "f4"))
        raw[0, :, 2:4] = offset[:, 2:]
        decoded = detector.decode(raw, cells)[0]
        for n, m in owner.items():
            np.testing.assert_allclose(decoded[n], boxes[b, m], atol=1e-5)
            assert got["classes"][b, n] == classes[b, m]
            np.testing.assert_allclose(got["weight"][b, n], 2 - boxes[b, m, 2] * boxes[b, m, 3], rtol=1e-6)


def naive_nms(boxes, scores, threshold, limit):
    candidates = sorted(((s, i, c) for (i, c), s in np.ndenumerate(scores) if s > 0), key=lambda t: -t[0])[:limit]
    kept = []
    for s, i, c in candidates:
        if all(c != k or naive_iou(boxes[i], boxes[j]) <= threshold for _, j, k in kept):
            kept.append((s, i, c))
    return kept


@pytest.mark.parametrize("limit", [12, 60, 500])
def test_nms_equals_the_loop(limit):
    rng = np.random.default_rng(2)
    boxes = np.repeat(some_boxes(10), 8, axis=0) + rng.uniform(0, 0.05, (80, 4)).astype(np.float32)
    scores = rng.random((80, 2)).astype(np.float32) * (rng.random((80, 2)) < 0.8)
    box, score, category = jax.jit(detector.nms, static_argnums=(2, 3))(boxes, scores, 0.5, limit)
    want = naive_nms(boxes, scores, 0.5, limit)
    assert len(score) == min(limit, 160) and 5 < len(want) < min(limit, (scores > 0).sum())
    assert (score[len(want):] == 0).all()
    for k, (s, i, c) in enumerate(want):
        assert score[k] == s and category[k] == c
        np.testing.assert_array_equal(box[k], boxes[i])


def test_nms_of_nothing():
    _, score, _ = detector.nms(jnp.zeros((4, 4)), jnp.zeros((4, 2)), 0.5, 5)
    assert score.tolist() == [0] * 5
