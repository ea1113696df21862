"""What this process computes on, as Keras's backend sees it."""

from __future__ import annotations

import dataclasses
import os

import keras


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The devices of one process.

    Attributes:
        kind: "cpu", "gpu" or "tpu".
        count: devices of this kind that this process may use.
        name: as their maker calls them.
        compute_capability: of an NVIDIA GPU, (8, 0) say; None where there is none to tell.
        memory_bytes: of one device; None where the backend does not tell.
    """

    kind: str
    count: int
    name: str
    compute_capability: tuple[int, int] | None = None
    memory_bytes: int | None = None


def hardware() -> Hardware:
    """The devices that the backend computes on unless it is told otherwise."""
    return {"jax": _of_jax, "tensorflow": _of_tensorflow, "torch": _of_torch}.get(keras.backend.backend(), _cpu)()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> Hardware:
    return Hardware("cpu", 1, f"{num_cores()} cores")


def _of_jax() -> Hardware:
    import jax

    devices = jax.local_devices()
    first = devices[0]
    if first.platform == "cpu":
        name = f"{num_cores()} cores" if len(devices) == 1 else f"{num_cores()} cores as {len(devices)} devices"
        return Hardware("cpu", len(devices), name)
    kind = "tpu" if first.platform == "tpu" else "gpu"
    memory = (first.memory_stats() or {}).get("bytes_limit")
    return Hardware(kind, len(devices), first.device_kind, _capability(first), memory)


def _capability(device: object) -> tuple[int, int] | None:
    text = str(getattr(device, "compute_capability", ""))
    major, _, minor = text.partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() else None


def _of_tensorflow() -> Hardware:
    import tensorflow as tf

    tpus = tf.config.list_logical_devices("TPU")
    if tpus:
        return Hardware("tpu", len(tpus), "TPU")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return _cpu()
    details = tf.config.experimental.get_device_details(gpus[0])
    return Hardware("gpu", len(gpus), details.get("device_name", "GPU"), details.get("compute_capability"))


def _of_torch() -> Hardware:
    import torch

    if not torch.cuda.is_available():
        return _cpu()
    properties = torch.cuda.get_device_properties(0)
    capability = torch.cuda.get_device_capability(0)
    return Hardware("gpu", torch.cuda.device_count(), properties.name, capability, properties.total_memory)
