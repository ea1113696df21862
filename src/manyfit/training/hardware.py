"""What this process computes on, as Keras's backend sees it, and how it keeps memory."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import platform
from collections.abc import Iterator
from typing import Any

import keras

from manyfit.core.shared_context import SharedContext


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


# Of `mallopt`, from glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_GLIBC_DEFAULT_BYTES = 128 << 10  # of both
_NEVER_BYTES = (2**31 - 1, 32 << 20)  # glibc before 2.35 takes no more than the second
_SETTINGS_OF_USERS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def _keeps_by_default() -> bool:
    """Whether the C library is glibc, and no user has told it how to keep memory."""
    return platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in _SETTINGS_OF_USERS)


def _c_library() -> Any:
    return ctypes.CDLL(None)


@contextlib.contextmanager
def _thresholds_raised() -> Iterator[None]:
    glibc = _c_library()
    for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        any(glibc.mallopt(threshold, size) for size in _NEVER_BYTES)  # the first that it takes
    yield
    for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        glibc.mallopt(threshold, _GLIBC_DEFAULT_BYTES)
    glibc.malloc_trim(0)


_raised = SharedContext(_thresholds_raised)


def give_back_freed_memory() -> None:
    """Hands what this process has freed back to the system, also where `freed_memory_kept` holds; of glibc."""
    if _keeps_by_default():
        _c_library().malloc_trim(0)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """What is freed inside stays with the process and is given out again; glibc would give large arrays back at once.

    A step of a convolutional network frees what it has computed between its inputs and its outputs, tens of megabytes,
    and asks for as much in the next step. Given back, each page is mapped, zeroed and faulted in again: an epoch of
    3,000 images through `model.fit` took 1.69 processor seconds instead of 1.47, step by step in a population 1.95
    instead of 1.29. The price is memory that stays until the end, as much as the largest step takes.

    It holds for the whole process while at least one thread is inside. Afterwards both thresholds are glibc's defaults
    (128 KiB), and what is free goes back to the system. glibc raises them by itself as a program frees larger pieces,
    until somebody sets them: so from then on they stay where they are. Other C libraries are left alone, and so is a
    glibc that the user has told what to keep, by `MALLOC_TRIM_THRESHOLD_` or another variable of the environment.
    """
    with _raised.inside() if _keeps_by_default() else contextlib.nullcontext():
        yield
