"""Start-up and end of a run of many processes: SLURM, GKE, TPU VMs, or by hand.

--distributed=on      JAX finds out from SLURM, Kubernetes, a TPU VM or Open MPI who is who
--distributed=auto    the default: as "on" under `srun` with several tasks, in a TPU slice of several hosts (GKE's too), or
                      with these three variables, by hand: JAX_COORDINATOR_ADDRESS=host:port JAX_NUM_PROCESSES=4
                      JAX_PROCESS_ID=0; in a Kubernetes job with indices (JobSet) the last is its JOB_COMPLETION_INDEX
--distributed=off     this process alone

A job of GPUs on Kubernetes is not told from a single pod by its variables: say "on" (JAX then asks the cluster, which takes
the package `kubernetes` and the right to read pods, jobs and services), or give the first two of the three variables.
"""

import hashlib
import os
import re
import socket
import sys
import traceback
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging
from jax.experimental import multihost_utils

from medvlp_jax import errors

FLAGS = flags.FLAGS
MODES = ("auto", "on", "off")
BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOST = 3  # exit code where another process was lost: launchers start again on it
# What JAX says where a process that takes part in a collective, or the coordinator, is gone. NCCL's own words are those of
# ncclRemoteError and ncclSystemError; its other errors (memory, wrong calls, a broken GPU) are of this process.
GONE = re.compile(
    r"gloo|connection (reset|refused|closed|timed out)|socket closed|coordination service|heartbeat|unavailable:|"
    r"remote process exited|"
    r"nccl.*(unhandled system error|remote error|network error|socketprogress|timed? ?out|by (remote )?peer)",
    re.I | re.S,
)
# What says that the fault is this process's own, whatever else the message names.
OWN = re.compile(r"resource_exhausted|out of memory|out_of_memory|failed to allocate|invalid (usage|argument)", re.I)
BOOT = Path("/proc/sys/kernel/random/boot_id")


def define_flags(flag_values=FLAGS) -> None:
    """Flags of train and evaluate."""
    flags.DEFINE_enum(
        "distributed", "auto", MODES, "Several processes: see medvlp_jax/distributed.py.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "heartbeat", 60, "Seconds without a sign of life after which a process counts as lost.", flag_values=flag_values
    )


def several(environment=os.environ) -> bool:
    """Whether the environment says that this is one of several processes."""
    if any(name in environment for name in BY_HAND):
        return True
    # A pod in a job has JOB_COMPLETION_INDEX, but nothing that says of how many.
    slurm = "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1
    hosts = any("," in environment.get(name, "") for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"))
    return slurm or hosts or "MEGASCALE_COORDINATOR_ADDRESS" in environment


def by_hand(environment=os.environ) -> dict:
    """Arguments of jax.distributed.initialize from the three variables; {} if none is set. A Kubernetes job gives the index.

    Raises:
      ValueError: some of them are missing or are no numbers.
    """
    if not any(name in environment for name in BY_HAND):
        return {}
    if "JOB_COMPLETION_INDEX" in environment:
        environment = {"JAX_PROCESS_ID": environment["JOB_COMPLETION_INDEX"], **environment}
    given = [name for name in BY_HAND if name in environment]
    if missing := [name for name in BY_HAND if name not in given]:
        raise ValueError(f"{', '.join(given)} without {', '.join(missing)}: a run by hand needs {', '.join(BY_HAND)}")
    address, count, index = (environment[name] for name in BY_HAND)
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise ValueError(
            f"JAX_PROCESS_ID={index}, JAX_NUM_PROCESSES={count}: expected numbers from 0 to below the number of processes"
        )
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}


@errors.opening()
def start(mode: str, heartbeat: int) -> None:
    """Join the other processes, before anything else touches JAX's devices.

    Raises:
      ValueError: "on" where JAX finds no cluster, or variables that do not fit.
    """
    if mode == "off" or mode == "auto" and not several():
        return
    try:
        jax.distributed.initialize(**by_hand(), heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=heartbeat)
    except ValueError as error:
        if "should be defined" not in str(error) and "must be defined" not in str(error):
            raise
        raise ValueError(
            f"--distributed={mode}: no SLURM, Kubernetes, TPU or Open MPI job is recognised here; "
            f"set {', '.join(BY_HAND)}, or --distributed=off"
        ) from error
    logging.info(
        "process %d of %d, %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
    )


def run(fn):
    """fn(), see `leave_if_lost`."""
    try:
        return fn()
    except Exception as error:
        leave_if_lost(error)
        raise


def leave_if_lost(error: BaseException) -> None:
    """Where another process was lost, print the cause and one clear line, and exit with `LOST`, at once: a clean end would
    wait for the dead."""
    if not lost(error):
        return
    traceback.print_exception(error)
    reason = str(error).splitlines()[0][:200]
    print(
        f"error: process {jax.process_index()} of {jax.process_count()} stops: another process ended or cannot be reached "
        f"({reason}). Start all of them again in the same workdir: the run goes on from its last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)


def lost(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that another process is gone."""
    if jax.process_count() < 2:
        return False
    seen = error
    while seen is not None:
        if isinstance(seen, jax.errors.JaxRuntimeError) and not OWN.search(str(seen)) and GONE.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def share_of_host(workers: int) -> int:
    """Return how many of a host's `workers` this process starts: a fair share, at least 1 unless there are none.

    All processes must call it. Hosts are told apart by name and boot, so containers of one machine count as hosts.
    """
    if not workers or jax.process_count() == 1:
        return workers
    boot = BOOT.read_text() if BOOT.is_file() else ""
    mine = np.frombuffer(hashlib.sha256(f"{socket.gethostname()} {boot}".encode()).digest()[:8], np.uint32)
    here = (multihost_utils.process_allgather(mine) == mine).all(axis=1)  # (processes,)
    index, count = int(here[: jax.process_index()].sum()), int(here.sum())
    share = max(1, workers // count + (index < workers % count))
    logging.info("data.workers=%d for the %d processes of this host: %d for this one", workers, count, share)
    return share
