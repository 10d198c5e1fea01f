"""One process of test_processes.py: evaluates its share of the rows and writes the values it got.

usage: python -m tests.tasks.process_worker PROCESS COUNT PORT FOLDER
"""
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medvlp_jax.method import Method
from medvlp_jax.tasks import suite
from tests.tasks import fakes


def main(process: int, count: int, port: int, folder: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=process)
    sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("data",)), PartitionSpec("data"))
    whole = fakes.batches(fakes.examples(21), size=8)
    share = slice(process * 8 // count, (process + 1) * 8 // count)

    def mine():
        for batch in whole():  # the last batch has 5 rows, so the last process has padding rows
            yield {k: v[share] for k, v in batch.items()}

    def put(batch):
        return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}

    tasks = {"zeroshot": {"resamples": 20}, "grounding": {"resamples": 20}, "retrieval": {"gallery": 5, "resamples": 20}}
    records = suite.evaluate(Method(None, None, fakes.RANDOM), {}, tasks, mine, folder, 1, put=put, validation_fn=mine,
                                draw=False)
    (folder / f"process{process}.json").write_text(json.dumps(fakes.values(records)))


if __name__ == "__main__":
    main(*(int(v) for v in sys.argv[1:4]), Path(sys.argv[4]))
