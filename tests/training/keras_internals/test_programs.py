"""Compile options of XLA are taken, and programs kept on disk leave JAX's settings as they were."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import threading

import keras
import pytest
from marks import needs_a_cpu

if keras.backend.backend() != "jax":
    pytest.skip("population training needs the JAX backend", allow_module_level=True)

import jax
import jax.numpy as jnp

from manyfit.core.threads import LeavableThreads
from manyfit.training.keras_internals.programs import (
    ONE_THREAD,
    bytes_of,
    compiled_by,
    kept_on_disk,
    kept_until_compiled,
    quick_options,
    sizes_of_scan,
    version_of_xla,
)

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def settings():
    return [getattr(jax.config, name) for name in SETTINGS]


@pytest.fixture
def no_cache():
    """JAX as it comes: no folder for programs, whatever other tests and the environment say."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    jax.config.update(SETTINGS[0], None)
    compilation_cache.reset_cache()
    yield
    jax.config.update(SETTINGS[0], before)
    compilation_cache.reset_cache()


def compile_anew(number, size=1001):
    """Compiles something that was never compiled before."""
    jax.jit(lambda x: jnp.sort(x * number) @ x + number)(jnp.ones(size)).block_until_ready()


def names(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@needs_a_cpu
@pytest.mark.parametrize("options", [ONE_THREAD, quick_options()], ids=["one thread", "quick"])
def test_xla_knows_the_options(options):
    compiled = jax.jit(lambda x: jnp.sin(x) * 2).lower(1.0).compile(compiler_options=options)
    assert float(compiled(0.0)) == 0.0


def test_the_version_of_xla_is_that_of_its_package():
    assert version_of_xla() == importlib.metadata.version("jaxlib")


def test_the_parts_of_a_scan_are_told_apart():
    """What breaks: numbers that differ inside of an RNN could not be lifted, so it would train alone."""

    def summed(x):
        return jax.lax.scan(lambda sums, row: ((sums[0] + row, sums[1] * x), row), (x, x), jnp.ones((4, 3)))

    [scan] = [each for each in jax.make_jaxpr(summed)(jnp.ones(3)).eqns if each.primitive.name == "scan"]
    assert sizes_of_scan(scan.params) == (1, 2)


def test_the_memory_of_a_program_is_counted():
    compiled = jax.jit(lambda x: x + 1).lower(jnp.ones(1000)).compile()
    assert bytes_of(compiled.memory_analysis()) >= 8000, (
        "`memory_analysis` names its parts otherwise: populations would be as large as if programs took no memory"
    )
    assert bytes_of(None) == 0


def test_what_is_compiled_inside_is_kept_and_settings_are_restored(no_cache, tmp_path):
    before = settings()
    with kept_on_disk(tmp_path):
        assert settings() == [str(tmp_path), 0.0, -1]
        compile_anew(3)
    assert settings() == before, "JAX's settings are the user's"
    kept = names(tmp_path)
    assert kept, "nothing was kept: every process would compile everything"
    jax.config.update(SETTINGS[1], 0.0)
    try:
        compile_anew(5)
    finally:
        jax.config.update(SETTINGS[1], before[1])
    assert names(tmp_path) == kept, "what the user compiles afterwards lands in Manyfit's folder"


def test_a_second_time_keeps_as_well(no_cache, tmp_path):
    for number in (7, 11):
        with kept_on_disk(tmp_path / str(number)):
            compile_anew(number)
        assert names(tmp_path / str(number)), f"nothing was kept for {number}"


def test_settings_are_restored_after_an_error(no_cache, tmp_path):
    before = settings()
    with pytest.raises(ValueError, match="inside"), kept_on_disk(tmp_path):
        raise ValueError("inside")
    assert settings() == before


def test_the_last_thread_that_leaves_restores_them(no_cache, tmp_path):
    before, inside, leave = settings(), threading.Event(), threading.Event()

    def stay():
        with kept_on_disk(tmp_path):
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    with kept_on_disk(tmp_path):
        thread.start()
        assert inside.wait(30)
    assert settings() == [str(tmp_path), 0.0, -1]  # the other one still compiles
    leave.set()
    thread.join()
    assert settings() == before


def test_programs_are_kept_where_the_last_that_came_wants_them(no_cache, tmp_path):
    before, first, second = settings(), tmp_path / "first", tmp_path / "second"
    with kept_on_disk(first):
        with kept_on_disk(second):
            compile_anew(31)
        assert names(second) and not names(first)
        kept = names(second)
        compile_anew(37)
    assert names(first) and names(second) == kept and settings() == before


def test_a_folder_of_the_users_stays(no_cache, tmp_path):
    jax.config.update(SETTINGS[0], str(tmp_path / "theirs"))
    before = settings()
    with kept_on_disk(tmp_path / "ours"):
        assert settings() == before
        compile_anew(13)
    assert settings() == before and not names(tmp_path / "ours")


def test_what_is_set_inside_is_the_users(no_cache, tmp_path):
    with kept_on_disk(tmp_path / "ours"):
        jax.config.update(SETTINGS[0], str(tmp_path / "theirs"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")


ENDS = """
import sys, threading, time
import jax, jax.numpy as jnp
from manyfit.core.threads import LeavableThreads
from manyfit.training.keras_internals.programs import compiled_by

def long(x):
    for number in range(300):
        x = jnp.sin(x @ x[:, :8].T @ x * (number + 1.3)) + jnp.sort(x, axis=0)[::-1] * number
    return x

threads, begun = LeavableThreads(1, name="compilation"), threading.Event()

def left(compilation):
    threads.submit(lambda: [begun.set(), compilation(), print("it was waited for")])
    begun.wait()
    time.sleep(0.5)  # well into it
    raise TimeoutError("left")

lowered = jax.jit(long).lower(jnp.ones((8, 8)))
try:
    with compiled_by(left):
        lowered.compile()
except TimeoutError as error:
    print(error)
sys.exit(3)
"""


def test_a_process_ends_while_xla_compiles():
    """What breaks: XLA cannot be interrupted, and Python ends threads that ask for it too late; the process aborts."""
    ended = subprocess.run([sys.executable, "-c", ENDS], check=False, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "left\n", "")


def test_what_a_thread_has_compiled_can_be_compiled_in_another_or_not_at_all():
    """What breaks: a call with a limit could not return while the train step of `model.fit` compiles."""
    compiled = []

    def elsewhere(compilation):
        with LeavableThreads(1, name="test") as threads:
            compiled.append(threads.submit(compilation).result(60))
            return compiled[-1]

    def left(compilation):
        raise TimeoutError("left")

    with compiled_by(elsewhere):
        compile_anew(17)
        assert compiled
        with pytest.raises(TimeoutError), compiled_by(left):
            compile_anew(19)
        own = len(compiled)
        compile_anew(19)  # it can be tried again
        assert len(compiled) == own + 1
    compile_anew(23)
    assert len(compiled) == own + 1, "others compile as ever"


def test_a_compilation_that_was_left_is_kept_when_it_ends(no_cache, tmp_path):
    before, inside, go_on = settings(), threading.Event(), threading.Event()

    def compile_slowly():
        with kept_until_compiled():
            inside.set()
            assert go_on.wait(30)
            compile_anew(29)

    with LeavableThreads(1, name="test") as threads:
        with kept_on_disk(tmp_path):
            left = threads.submit(compile_slowly)
            assert inside.wait(30)
        kept = names(tmp_path)
        go_on.set()
        left.result(60)
    assert names(tmp_path) > kept and settings() == before
    with kept_until_compiled():
        assert settings() == before, "outside nothing is kept"
