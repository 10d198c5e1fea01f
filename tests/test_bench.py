"""The ablation runs, keeps what is done and tabulates it."""
import json

import pytest

from medvlp_jax.bench import __main__ as bench
from medvlp_jax.bench import ablation, contrast


def test_ablation_removes_terms_and_skips_finished_runs(tmp_path, monkeypatch, capsys):
    """Training itself is stood in for: a weight of 0 is tested with the methods, whole runs in test_train_runs.py."""
    trained = []

    def train(config, folder):
        trained.append((folder.name, config.seed, config.train.steps, [k for k, v in config.losses.items() if not v]))
        (folder / "eval").mkdir(parents=True)
        scores = {"auc_macro": 0.7 + 0.1 * config.seed} if config.losses.knowledge_patch else {}
        lines = [{"task": "zeroshot", "metric": k, "value": v} for k, v in {**scores, "auc_macro_prompts": 0.6}.items()]
        (folder / "eval" / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        return lines

    monkeypatch.setattr(ablation.train, "train", train)
    arguments = ["ablation", "--steps=1", "--seeds=0,1", f"--out={tmp_path}"]
    bench.main(arguments)
    assert trained[:3] == [("full-0", 0, 1, []), ("global_contrast-0", 0, 1, ["global_contrast"]),
                           ("alignment-0", 0, 1, ["alignment"])]  # fmt: skip
    assert len(trained) == 2 * 8
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if len(line) == 5}
    assert list(rows) == ["removed", "nothing", *ablation.TERMS]
    assert rows["nothing"] == ["0.750 ± 0.050", "0.600 ± 0.000", "-", "-"]
    assert rows["knowledge_patch"][:2] == ["-", "0.600 ± 0.000"]  # nothing trains entity scores then
    bench.main(arguments)
    assert len(trained) == 2 * 8


def test_ablation_ends_on_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation.train, "train", lambda config, folder: None)  # what train returns then
    with pytest.raises(SystemExit, match="stopped by a signal during full-0"):
        bench.main(["ablation", f"--out={tmp_path}"])


def test_unknown_benchmark_lists_those_there_are():
    with pytest.raises(SystemExit, match="phantom,ablation"):
        bench.main(["nothing"])


def test_contrast_compares_both_forms(capsys):
    rows = contrast.main(["--batches=256,512", "--timed=256", "--chunk=16", "--width=8", "--pairs=2", "--turns=1"])
    assert [row.batch for row in rows] == [256, 512] and rows[1].seconds is None and all(s > 0 for s in rows[0].seconds)
    shares = [chunked / plain for _, (plain, chunked), _ in rows]
    assert all(row.scratch[0] > row.batch // 8 * row.batch * 4 for row in rows)  # (rows a device) x batch logits of four bytes
    assert shares[1] < 0.5 and shares[1] < 0.8 * shares[0]
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line[:2] for line in lines[2:]] == [["256", "32"], ["512", "64"]] and lines[3][2:5] == ["-"] * 3
    with pytest.raises(ValueError, match="a batch of 100 does not divide over 8 devices"):
        contrast.main(["--batches=100"])
