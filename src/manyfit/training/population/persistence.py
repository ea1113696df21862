"""JAX's compilation cache on disk, so that the second run of a search compiles nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax

OFF = ("", "0", "off", "none")


def cache_folder() -> Path | None:
    """Where compiled programs are kept: `MANYFIT_CACHE_DIR` ("off": nowhere), else the user's cache folder."""
    given = os.environ.get("MANYFIT_CACHE_DIR")
    if given is not None:
        return None if given.lower() in OFF else Path(given).expanduser() / "programs"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "manyfit" / "programs"


def enable_compilation_cache() -> None:
    """Switches the cache on, unless the user has chosen a folder for JAX or has switched it off."""
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written to costs speed, not the search
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A small program is worth keeping, too: it takes longer to compile than to load.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
