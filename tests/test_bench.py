"""The ablation runs, keeps what is done and tabulates it."""
import copy

import jax
import pytest

from medvlp_jax.bench import __main__ as bench
from medvlp_jax.bench import ablation
from tests import tiny

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    """Each program runs for one step: compiling is what takes the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_ablation_removes_terms_and_skips_finished_runs(tmp_path, monkeypatch, capsys):
    small = tiny.config("mlip", **{"model/text/vocab_size": 0})
    monkeypatch.setattr(ablation.mlip, "get_config", lambda variant: copy.deepcopy(small))
    monkeypatch.setattr(ablation, "TERMS", ("knowledge_patch",))
    bench.main(["ablation", "--steps=1", "--seeds=3", f"--out={tmp_path}"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [r[0] for r in rows] == ["| removed", "| nothing", "| knowledge_patch"]
    assert rows[2][1] == "-" and rows[2][3] == "-" and "±" in rows[2][2]  # nothing trains entity scores then
    before = (tmp_path / "full-3" / "metrics.jsonl").stat().st_mtime_ns
    ablation.run(tmp_path, "", 3, 1)
    assert (tmp_path / "full-3" / "metrics.jsonl").stat().st_mtime_ns == before


def test_unknown_benchmark_lists_those_there_are():
    with pytest.raises(SystemExit, match="phantom,ablation"):
        bench.main(["nothing"])
