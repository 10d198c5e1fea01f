"""A run goes on with another number of processes and devices: which examples it sees then."""
import jax
import pytest

from medvlp_jax import checkpoint, sharding
from medvlp_jax.input import pipeline
from tests.input.test_pipeline import PLAIN, Numbered, numbers
from tests.test_checkpoint import state

EXAMPLES, BATCH = 44, 8  # an epoch ends within a batch


def iterators(count, batch=BATCH):
    """Of every process."""
    return [
        pipeline.train_iterator(Numbered(EXAMPLES), None, PLAIN, batch_size=batch // count, seed=5, process_index=p,
                                process_count=count, threads=0)
        for p in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("devices, batch", [(1, 8), (2, 8), (8, 8), (2, 4)])
def test_after_a_checkpoint_of_4_processes_exactly_the_remaining_examples_come(devices, batch, tmp_path):
    before = iterators(4)
    seen = [numbers([next(it)]) for _ in range(3) for it in before]
    seen = [n for part in seen for n in part]
    mgr = checkpoint.manager(tmp_path)
    assert len({str(it.get_state()) for it in before}) == 1  # whichever process writes it
    checkpoint.save(mgr, 3, state(), before[0])
    checkpoint.finish(mgr)
    (after,) = iterators(1, batch)
    mesh = sharding.make_mesh({"data": -1}, jax.devices()[:devices])
    shapes = jax.eval_shape(state)
    layout = sharding.of_state(shapes, mesh, "replicated")
    like = jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, layout)
    _, step = checkpoint.restore(mgr, like, after)
    mgr.close()
    assert step == 3 and after.get_state()["position"] == 3 * BATCH == len(seen)
    while len(seen) < 2 * EXAMPLES:
        placed = sharding.put(next(after), mesh)["image"]
        assert len(placed.sharding.device_set) == devices
        seen += numbers([{"image": placed}])
    for epoch in (seen[:EXAMPLES], seen[EXAMPLES : 2 * EXAMPLES]):
        assert sorted(epoch) == list(range(EXAMPLES))  # each once: none again, none lost
    (whole,) = iterators(1)
    assert seen == numbers(next(whole) for _ in range(11))  # and in the order of a run that was never stopped
    for it in (*before, after, whole):
        it.close()
