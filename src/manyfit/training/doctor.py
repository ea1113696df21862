"""`manyfit doctor`: what there is to compute on, what will be used, and what is missing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from manyfit.core.environment import chosen_by, is_installed
from manyfit.core.files import cache_folder

_BACKENDS = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}
_FOR_DEVELOPERS = frozenset({"bench", "test", "check"})
_SIZE = 1024  # rows of the matrices that precisions are timed on
_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Extra:
    """An optional part of Manyfit.

    Attributes:
        name: as in `pip install manyfit[name]`.
        packages: what it needs, with the version that is installed; None: missing.
    """

    name: str
    packages: dict[str, str | None]

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        return all(version is not None for version in self.packages.values())


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `manyfit doctor` found; prints as a page.

    Attributes:
        versions: of Manyfit, Python and the system, in one line.
        backend: Keras's backend, with its version and why it is this one; or why it does not load.
        settings: name -> text: device, precision, how trials train, memory, where programs are kept.
        precisions: name -> time of a matrix product, by that of float32.
        backends: name -> version; None: not installed.
        extras: optional parts.
        advice: what to do, most important first.
    """

    versions: str
    backend: str
    settings: dict[str, str]
    precisions: dict[str, float]
    backends: dict[str, str | None]
    extras: Sequence[Extra]
    advice: Sequence[str]

    def __str__(self) -> str:
        lines = [self.versions, "", "Will be used", _row("backend", self.backend)]
        lines += [_row(name, text) for name, text in self.settings.items()]
        if self.precisions:
            lines += ["", f"Precisions (time of a {_SIZE} x {_SIZE} matrix product here, float32 = 1)"]
            lines += [_row(name, f"{ratio:.2g}") for name, ratio in self.precisions.items()]
        lines += ["", "Backends"]
        lines += [
            _row(name, version or f"missing; pip install manyfit[{name}]") for name, version in self.backends.items()
        ]
        lines += ["", "Extras"]
        lines += [_row(extra.name, _extra(extra)) for extra in self.extras]
        lines += ["", *(f"! {text}" for text in self.advice)] if self.advice else ["", "Nothing is wrong."]
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Looks at this machine, this environment and this process's settings."""
    backends = {name: _installed(package) for name, package in _BACKENDS.items()}
    versions = (
        f"Manyfit {_installed('manyfit') or 'from a folder'} with Keras {_installed('keras')}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    extras = [one for one in _extras() if one.name not in _BACKENDS]
    try:
        import keras

        backend = keras.backend.backend()
        how = "the default" if chosen_by == "default" else f"chosen by {chosen_by}"
        shown = f"{backend} {backends.get(backend)}, {how}"
        settings, precisions = _settings(backend), _precisions()
        advice = _advice(backend)
    except ImportError as error:  # the backend that was asked for is not installed
        asked = os.environ.get("KERAS_BACKEND", "jax")
        shown, settings, precisions = f"{asked}, which does not load: {error}", {}, {}
        advice = [f"Type pip install manyfit[{asked}], or set KERAS_BACKEND=jax."]
    return Diagnosis(versions, shown, settings, precisions, backends, extras, advice)


def _row(name: str, text: str) -> str:
    return f"  {name:<12} {text}".rstrip()


def _extra(extra: Extra) -> str:
    there = [f"{name} {version}" for name, version in extra.packages.items() if version is not None]
    missing = [name for name, version in extra.packages.items() if version is None]
    if not missing:
        return ", ".join(there)
    return ", ".join([*there, f"missing {', '.join(missing)}; pip install manyfit[{extra.name}]"])


def _installed(package: str) -> str | None:
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _extras() -> list[Extra]:
    """The extras of the installed package, by its own metadata."""
    try:
        requirements = importlib.metadata.requires("manyfit") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    packages: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+).*?;\s*extra == ['\"]([\w-]+)['\"]", requirement)
        if found is not None and found[2] not in _FOR_DEVELOPERS:
            packages.setdefault(found[2], {})[found[1]] = _installed(found[1].removesuffix("-cpu"))
    return [Extra(name, needed) for name, needed in sorted(packages.items())]


def _settings(backend: str) -> dict[str, str]:
    # Not at the top: they load Keras, and what is missing has to be told where Keras itself does not load.
    from manyfit.training.hardware import hardware
    from manyfit.training.precision import best_precision

    device = hardware()
    chosen, reason = best_precision(device)
    several = f"{device.count} x " if device.count > 1 and device.kind != "cpu" else ""
    settings = {
        "device": f"{several}{device.kind.upper()}: {device.name}",
        "precision": f'as the build function says, else float32; with precision="auto" {chosen}: {reason}',
    }
    if backend != "jax":
        settings["trials"] = "train one after another through model.fit"
        return settings
    # Nor these: they load JAX.
    from manyfit.training.population.layout import num_workers
    from manyfit.training.population.sizing import free_bytes

    cores = f"on {num_workers()} threads" if num_workers() > 1 else "side by side"
    over = f", divided between {device.count} devices" if device.count > 1 else ""
    settings["trials"] = f"train together, {cores}{over}"
    where = " on each device" if device.count > 1 else ""
    settings["memory"] = f"{free_bytes() / 2**30:.1f} GiB free{where}"
    folder = cache_folder("programs")
    settings["programs"] = "are not kept" if folder is None else f"are kept in {_shortened(folder)} ({_size(folder)})"
    return settings


def _shortened(folder: Path) -> str:
    return f"~/{folder.relative_to(Path.home())}" if folder.is_relative_to(Path.home()) else str(folder)


def _size(folder: Path) -> str:
    if not folder.is_dir():
        return "empty"
    return f"{sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 2**20:.0f} MiB"


def _precisions() -> dict[str, float]:
    """How long a matrix product takes in each precision, by float32's time."""
    import keras
    import numpy as np

    matrix = np.random.default_rng(0).normal(size=(_SIZE, _SIZE)).astype("float32")
    seconds = {}
    for name in ("float32", "bfloat16", "float16"):
        factor = keras.ops.cast(keras.ops.convert_to_tensor(matrix), name)

        def product(factor: Any = factor) -> Any:
            corner = keras.ops.matmul(factor, factor)[:1, :1]
            return keras.ops.convert_to_numpy(keras.ops.cast(corner, "float32"))  # NumPy waits for it; no bfloat16

        seconds[name] = _best_seconds(product)
    return {name: value / seconds["float32"] for name, value in seconds.items()}


def _best_seconds(action: Callable[[], Any]) -> float:
    action()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def _advice(backend: str) -> list[str]:
    # As in `_settings`.
    from manyfit.training.hardware import hardware

    advice = []
    if shutil.which("nvidia-smi") is not None and hardware().kind == "cpu":
        install = {"jax": 'pip install "jax[cuda13]"', "tensorflow": 'pip install "tensorflow[and-cuda]"'}
        how = install.get(backend, "install the CUDA build of torch")
        advice.append(f"This machine has an NVIDIA GPU, and {backend} computes on the CPU: {how}.")
    if backend != "jax":
        remedy = "set KERAS_BACKEND=jax" if is_installed("jax") else "pip install jax"
        advice.append(f"Trials train together on JAX only, not on {backend}: {remedy}.")
    return advice
