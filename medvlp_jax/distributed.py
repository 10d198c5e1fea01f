"""Start-up and end of a run of many processes: SLURM, GKE, TPU VMs, or by hand.

--distributed=on      JAX finds out from SLURM, Kubernetes, a TPU VM or Open MPI who is who
--distributed=auto    the default: as "on" under `srun` with several tasks, in a TPU slice of several hosts (GKE's too), or
                      with these three variables, by hand: JAX_COORDINATOR_ADDRESS=host:port JAX_NUM_PROCESSES=4
                      JAX_PROCESS_ID=0; in a Kubernetes job with indices (JobSet) the last is its JOB_COMPLETION_INDEX
--distributed=off     this process alone

A job of GPUs on Kubernetes is not told from a single pod by its variables: say "on" (JAX then asks the cluster, which takes
the package `kubernetes` and the right to read pods, jobs and services), or give the first two of the three variables.
"""

import os
import re
import sys
import traceback

import jax
from absl import flags, logging

FLAGS = flags.FLAGS
MODES = ("auto", "on", "off")
BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOST = 3  # exit code where another process was lost: launchers start again on it
# What JAX says where a process that takes part in a collective, or the coordinator, is gone.
GONE = re.compile(
    r"gloo|connection (reset|refused|closed)|socket closed|coordination service|heartbeat|unavailable:|nccl", re.I
)


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


def start(mode: str, heartbeat: int) -> None:
    """Joins the other processes, before anything else touches JAX's devices.

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
    """Where another process was lost: one clear line and exit code `LOST`, at once, for a clean end would wait for the dead."""
    if not lost(error):
        return
    logging.debug("where it was noticed: %s", "".join(traceback.format_exception(error)))
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
        if isinstance(seen, jax.errors.JaxRuntimeError) and GONE.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
