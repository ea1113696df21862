"""What a user has set in Keras stays set."""

import threading

import keras
import pytest

from manyfit.training.keras_settings import KerasSettings, clear_session


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.backends
def test_clearing_keeps_the_policy(half_precision):
    clear_session()
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


@pytest.mark.backends
def test_a_thread_gets_them_where_they_are_restored(half_precision):
    settings, seen = KerasSettings.current(), []

    def look():
        seen.append(keras.config.dtype_policy().name)
        settings.restore()
        seen.append(keras.config.dtype_policy().name)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == ["float32", "mixed_bfloat16"]  # Keras's settings are each thread's own
