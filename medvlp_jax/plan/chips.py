"""Public numbers of the chips a plan can be made for. The one place to correct them.

Sources (read November 2026): TPU: the system architecture tables of docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}; the
inter-chip figure there is bidirectional, so one way is half of it. H100 SXM5: NVIDIA's H100 data sheet (dense figures,
half of those "with sparsity") and the device description of openxla/xla, xla/backends/gpu/target_config/specs. Network
between H100 nodes: one 400 Gb/s port a GPU, as in NVIDIA's DGX H100 reference architecture; between TPU slices: the data
centre network figure of the same tables. Latencies are our assumption: about 1 us a hop in a torus, 10 us for a collective
inside a GPU node and 25 us between nodes.
"""

from typing import NamedTuple

GIGA, TERA = 1e9, 1e12


class Chip(NamedTuple):
    """One accelerator. Rates per second and chip, sizes in bytes.

    Fields:
      flops: {kind of matrix product: rate}; kinds are those of `flops.count`.
      fabric: bytes one way that a chip sends to its neighbours over all its links together (ICI, NVLink).
      network: bytes one way to other nodes (GPU) or slices (TPU).
      torus: dimensions of the fabric; 0 = every chip of a node reaches every other at full rate.
      ring: an axis of the torus is closed to a ring if its length is a multiple of this.
      node: chips that the fabric connects; 0 = the whole slice.
      hop, far: seconds of latency: a hop of a torus or a collective within a node; a collective beyond it.
    """

    platform: str
    memory: float
    hbm: float
    flops: dict[str, float]
    fabric: float
    network: float
    torus: int
    ring: int
    node: int
    hop: float
    far: float


def _tpu(memory, hbm, bf16, both_ways, network, torus, ring):
    # A float32 product is one bfloat16 pass by default and six at precision "highest".
    flops = {"bfloat16": bf16, "float32": bf16, "float32_highest": bf16 / 6}
    return Chip("tpu", memory, hbm, flops, both_ways / 2, network, torus, ring, 0, 1e-6, 25e-6)


CHIPS = {
    # 6.4 Tb/s of data centre network for the 256 chips of a pod
    "v5e": _tpu(16 * GIGA, 819 * GIGA, 197 * TERA, 400 * GIGA, 6.4e12 / 8 / 256, 2, 16),
    "v5p": _tpu(95 * 2**30, 2765 * GIGA, 459 * TERA, 1200 * GIGA, 50e9 / 8, 3, 4),
    # 25.6 Tb/s of data centre network for a pod of 256
    "v6e": _tpu(32 * GIGA, 1638 * GIGA, 918 * TERA, 800 * GIGA, 25.6e12 / 8 / 256, 2, 16),
    # bfloat16 and TF32 on tensor cores; "highest" float32 on CUDA cores. NVLink 900 GB/s is both ways.
    "h100": Chip(
        "gpu",
        80 * GIGA,
        3350 * GIGA,
        {"bfloat16": 989.4 * TERA, "float32": 494.7 * TERA, "float32_highest": 67 * TERA},
        450 * GIGA,
        50 * GIGA,
        0,
        0,
        8,
        10e-6,
        25e-6,
    ),
}

# What XLA wants to know to compile for an H100 (its protobuf GpuTargetConfigProto, as text).
H100_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
