import pickle

import cv2
import numpy as np
import pytest

from medvlp_jax.bench import phantom as phantom_bench
from medvlp_jax.input import phantom, phantom_scene
from medvlp_jax.reports import vocab

N = 240


@pytest.fixture(scope="module")
def source():
    return phantom.PhantomSource("train", size=N, image_size=96, cache=True)


@pytest.fixture(scope="module")
def examples(source):
    return [source[i] for i in range(N)]


@pytest.fixture(scope="module")
def scenes():
    return [phantom.scene_of(0, "train", i) for i in range(2000)]


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if key == "masks":
            assert a[key].keys() == b[key].keys()
            assert all(np.array_equal(a[key][m], b[key][m]) for m in a[key])
        elif isinstance(a[key], np.ndarray):
            assert a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key])
        else:
            assert a[key] == b[key], key


def test_an_example_depends_on_its_index_only(examples):
    fresh = phantom.PhantomSource("train", size=N, image_size=96)
    for i in (7, 3, 200, 3, 0):
        same(fresh[i], examples[i])
    longer = phantom.PhantomSource("train", size=10 * N, image_size=96)
    same(longer[5], examples[5])
    assert not np.array_equal(examples[0]["image"], examples[1]["image"])


def test_seed_and_split_change_everything(examples):
    for other in (phantom.PhantomSource("train", image_size=96, seed=1), phantom.PhantomSource("val", image_size=96)):
        example = other[4]
        assert example["id"] != examples[4]["id"] and not np.array_equal(example["image"], examples[4]["image"])


def test_format(examples):
    for e in examples:
        assert e["image"].shape == (96, 96) and e["image"].dtype == np.uint8
        assert e["presence"].shape == (51, 75) and e["presence"].dtype == np.int8
        assert set(np.unique(e["presence"])) <= {-1, 0, 1, 2}
        assert list(e["finding_labels"]) == list(phantom.FINDINGS) and set(e["finding_labels"].values()) <= {0, 1}
        who = e["attributes"]
        assert who["view"] in ("PA", "AP") and who["sex"] in ("M", "F") and 18 <= who["age"] <= 92
        assert 12 < len(e["report"].split()) < 150 and "FINDINGS:" in e["report"]
        assert 15 < e["image"].mean() < 240 and e["image"].std() > 15
    assert len({e["id"] for e in examples}) == N
    assert all(entity in vocab.ENTITIES for entity in phantom.FINDINGS.values())


def test_the_text_is_the_report(source, examples):
    assert [source.text(i) for i in range(20)] == [e["report"] for e in examples[:20]]


def test_the_same_scene_at_two_resolutions(examples):
    large = phantom.PhantomSource("train", size=N, image_size=288)
    for i in range(12):
        a, b = examples[i], large[i]
        reduced = cv2.resize(b["image"], (96, 96), interpolation=cv2.INTER_AREA).astype(float)
        other = np.mean([np.corrcoef(examples[j]["image"].ravel(), reduced.ravel())[0, 1] for j in range(20, 30)])
        alike = np.corrcoef(a["image"].ravel(), reduced.ravel())[0, 1]
        assert alike > 0.97 and alike > other
        assert np.abs(a["image"] - reduced).mean() < 9
        assert [box[0] for box in a["boxes"]] == [box[0] for box in b["boxes"]]
        for small, big in zip(a["boxes"], b["boxes"], strict=True):
            np.testing.assert_allclose(np.array(small[1:]) * 3, big[1:], atol=12)


def test_boxes_and_masks(examples):
    for e in examples:
        shown = {name for name, present in e["finding_labels"].items() if present}
        assert {box[0] for box in e["boxes"]} == shown
        assert set(e["masks"]) == shown | {"left_lung", "right_lung", "heart"}
        for name in shown:
            mask, covered = e["masks"][name], np.zeros((96, 96), bool)
            assert mask.dtype == bool and mask.any(), (e["id"], name)
            for _, x, y, w, h in (box for box in e["boxes"] if box[0] == name):
                assert w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= 96 and y + h <= 96
                covered[int(y) : int(y + h), int(x) : int(x + w)] = True
            assert not (mask & ~covered).any(), (e["id"], name)
        # The patient's left is on the image's right.
        columns = {side: np.nonzero(e["masks"][f"{side}_lung"])[1].mean() for side in ("left", "right")}
        assert columns["left"] > columns["right"] + 20


def test_a_finding_is_on_the_side_that_the_scene_says(examples):
    seen = 0
    for i, e in enumerate(examples):
        scene = phantom.scene_of(0, "train", i)
        for f in scene.findings:
            if f.side in ("left", "right") and f.name != "picc":
                on = np.nonzero(e["masks"][f.name])[1].mean()
                mine, other = (
                    np.nonzero(e["masks"][f"{s}_lung"])[1].mean()
                    for s in (f.side, "left" if f.side == "right" else "right")
                )
                assert abs(on - mine) < abs(on - other), (e["id"], f.name)
                assert all(p == "rib" or f.side in p for p in f.positions)
                seen += 1
    assert seen > 150


def test_a_finding_changes_the_image_where_its_mask_is():
    checked = set()
    for i in range(120):
        scene = phantom.scene_of(0, "train", i)
        local = [f for f in scene.findings if f.name not in ("cardiomegaly", "hyperinflate", "fracture")]
        if not local or all(f.name in checked for f in local):
            continue
        image, masks, _ = phantom.render(scene, 128)
        for f in local:
            less = phantom.scene_of(0, "train", i)
            less.findings = [g for g in less.findings if g.name != f.name]
            changed = np.abs(image.astype(int) - phantom.render(less, 128)[0])
            if not np.array_equal(masks["heart"], phantom.render(less, 128)[1]["heart"]):
                continue
            inside = changed[masks[f.name]].mean()
            assert (
                inside > 5
                and inside
                > 3 * changed[~cv2.dilate(masks[f.name].astype(np.uint8), np.ones((9, 9))).astype(bool)].mean()
            )
            checked.add(f.name)
    assert len(checked) >= 12


def test_prevalence(scenes):
    counts = np.array([len(s.findings) for s in scenes])
    assert counts.max() == 4 and 0.15 < (counts == 0).mean() < 0.27
    for name in phantom.FINDINGS:
        share = np.mean([s.find(name) is not None for s in scenes])
        assert 0.08 < share < 0.3, (name, share)
    assert 0.3 < np.mean([s.view == "AP" for s in scenes]) < 0.5


def test_splits_and_patients():
    ids = {
        s: {
            (e["id"], e["patient_id"])
            for e in map(phantom.PhantomSource(s, size=12, image_size=32).__getitem__, range(12))
        }
        for s in phantom.SIZES
    }
    patients = {s: {p for _, p in pairs} for s, pairs in ids.items()}
    assert all(len(p) == 6 for p in patients.values())
    assert len(set.union(*patients.values())) == 18
    first, second = (phantom.scene_of(0, "val", i) for i in (4, 5))
    assert first.patient_id == second.patient_id and (first.sex, first.age, first.half) == (
        second.sex,
        second.age,
        second.half,
    )
    assert first.texture != second.texture


def test_pickle_leaves_the_cache_behind(source, examples):
    text = pickle.dumps(source)
    assert len(text) < 1000
    copy = pickle.loads(text)
    assert repr(copy) == repr(source) and copy.fingerprint == source.fingerprint
    same(copy[9], examples[9])


def test_callers_cannot_spoil_the_cache(source):
    e = source[2]
    e["image"][:] = 0
    e["masks"]["heart"][:] = True
    e["presence"][:] = 1
    e["boxes"].clear()
    e["finding_labels"].clear()
    same(source[2], phantom.PhantomSource("train", size=N, image_size=96)[2])


def test_fingerprint():
    make = phantom.PhantomSource
    prints = [
        make("train").fingerprint,
        make("val").fingerprint,
        make("train", seed=1).fingerprint,
        make("train", size=5).fingerprint,
        make("train", image_size=64).fingerprint,
    ]
    assert len(set(prints)) == 5 and make("train", cache=True).fingerprint == prints[0]
    assert all(len(bytes.fromhex(p)) == 32 for p in prints)


def test_errors():
    with pytest.raises(ValueError, match="'dev'.*train, val, test"):
        phantom.PhantomSource("dev")
    with pytest.raises(ValueError, match="size"):
        phantom.PhantomSource("train", size=0)
    short = phantom.PhantomSource("train", size=3, image_size=32)
    with pytest.raises(IndexError, match="3 examples"):
        short[3]
    assert len(list(short)) == 3 and short[-1]["id"] == short[np.int64(2)]["id"]


def test_lung_geometry(scenes):
    for scene in scenes[:50]:
        for side, sign in phantom_scene.SIGN.items():
            outline = phantom_scene.lung_outline(scene, side)
            assert (outline[:, 0] * sign > 0).all()
            assert outline[:, 1].min() == pytest.approx(scene.apex) and outline[:, 1].max() == pytest.approx(scene.base)
            area = 0.5 * abs(
                np.sum(outline[:, 0] * np.roll(outline[:, 1], 1) - np.roll(outline[:, 0], 1) * outline[:, 1])
            )
            assert 0.05 < area < 0.25


def test_bench_prints_a_table(capsys):
    macro = phantom_bench.main(["--train=150", "--test=80", "--image_size=48"])
    table = capsys.readouterr().out
    assert all(name in table for name in phantom.FINDINGS) and "macro" in table
    assert 0.4 < macro < 0.8


def test_contact_sheet(tmp_path):
    phantom.contact_sheet(tmp_path / "sheet.png", n=3, image_size=64)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None and sheet.shape[1] > 300
