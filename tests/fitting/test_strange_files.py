"""Winners and ensembles of strangers: Keras loads what is in them in its safe mode; the rest is told in words."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile

import manyfit as kt  # isort: skip

import h5py
import keras
import numpy as np
import pytest
import tiny
from marks import needs_jax

from manyfit.core.errors import ManyfitError
from manyfit.core.files import with_checksum
from manyfit.fitting import winner_files
from manyfit.fitting.card import WinnerCard
from manyfit.fitting.winner_files import WinnerFacts

pytestmark = needs_jax
ESCAPE = "\x1b[2J\u202e<script>alert(1)</script>"
FACTS = WinnerFacts(WinnerCard(ESCAPE, (ESCAPE,), {ESCAPE: 1.0}, "time", (ESCAPE,)))


def refused(call, *texts):
    with pytest.raises(ManyfitError) as caught:
        call()
    tiny.four_parts(caught.value)
    assert all(text in str(caught.value) for text in texts), caught.value


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="only")])


def layer(name, config, module="keras.layers"):
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def function(name, module):
    return {"module": module, "class_name": "function", "config": name, "registered_name": "function"}


def with_activation(name, module):
    return layer("Dense", {"units": 1, "activation": function(name, module)})


HERE = "http://127.0.0.1:9/x"
#: Layers in place of the last one: what may be in a configuration that runs code, reads files, or asks the network.
ODD = {
    "a module in the folder": layer("Evil", {}, "a_module_of_a_stranger"),
    "a function of such a module": with_activation("Evil", "a_module_of_a_stranger"),
    "a command": with_activation("system", "os"),
    "eval": with_activation("eval", "builtins"),
    "a module of Python's within Keras": with_activation("os", "keras.src.utils.file_utils"),
    "the switch of the safe mode": with_activation("enable_unsafe_deserialization", "keras.config"),
    "the same in a Lambda": layer("Lambda", {"function": function("enable_unsafe_deserialization", "keras.config")}),
    "a download": layer(
        "Lambda", {"function": function("get_file", "keras.utils"), "arguments": {"fname": "x", "origin": HERE}}
    ),
    "code": layer("Lambda", {"function": {"class_name": "__lambda__", "config": {"code": "4wEAAAAA"}}}),
    "code as an activation": layer("Dense", {"units": 1, "activation": {"class_name": "__lambda__", "config": {}}}),
    "a file as a vocabulary": layer("StringLookup", {"vocabulary": "SECRET"}),
    "an address as a vocabulary": layer("StringLookup", {"vocabulary": HERE}),
    "a saved model of TensorFlow": layer("TFSMLayer", {"filepath": "SECRET", "call_endpoint": "serve"}),
    "a module of torch": layer("TorchModuleWrapper", {"module": "gASVAA=="}),
    "terabytes": layer("Dense", {"units": 10**12}),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")  # of Keras
def test_a_configuration_that_does_something_is_not_loaded(tmp_path, monkeypatch, model, kind):
    monkeypatch.syspath_prepend(tmp_path)
    ran = tmp_path / "code-has-run"
    (tmp_path / "a_module_of_a_stranger.py").write_text(f"import os\nos.mkdir({str(ran)!r})\nclass Evil: pass\n")
    (tmp_path / "secret").write_text("secret\n")
    path = tmp_path / "winner.npz"
    winner_files.write_weights(path, model, model.get_weights(), FACTS)
    with np.load(path) as saved:
        arrays = dict(saved)
    config = json.loads(str(arrays["model"]))
    config["config"]["layers"][-1] = json.loads(json.dumps(ODD[kind]).replace("SECRET", str(tmp_path / "secret")))
    np.savez(path, **{**arrays, "model": np.array(json.dumps(config))})
    refused(lambda: kt.load_winner(path))
    assert not ran.exists() and "a_module_of_a_stranger" not in sys.modules
    assert keras.src.saving.serialization_lib.in_safe_mode() is not False


def saved(path, model):
    winner_files.write_keras(path, model, FACTS)
    return path


def rewritten(path, **entries):
    """Puts other entries in the place of those of a `.keras` file."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    content |= {name.replace("__", "."): text for name, text in entries.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in content.items():
            file.writestr(name, text)
    return path


def test_a_compile_config_with_code_is_not_loaded(tmp_path, model):
    model.compile("sgd", "mse")
    path = saved(tmp_path / "winner.keras", model)
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
    config["compile_config"]["loss"] = {"class_name": "__lambda__", "config": {"code": "4wEAAAAA"}}
    rewritten(path, config__json=json.dumps(config))
    refused(lambda: kt.load_winner(path), "not what its card was written for")
    with zipfile.ZipFile(path) as file:
        card = json.loads(file.read("manyfit.json"))
    rewritten(path, manyfit__json=json.dumps(with_checksum({**card, "sha256": None})))  # a stranger makes both
    refused(lambda: kt.load_winner(path), "trust=True")


@pytest.mark.parametrize("kind", ["brackets", "much", "no card"])
def test_a_card_that_cannot_be_read_is_told_in_words(tmp_path, model, monkeypatch, kind):
    monkeypatch.setattr("manyfit.core.untrusted.UNPACKED_BYTES", 1 << 20)
    text = {"brackets": "[" * 100_000, "much": " " * (1 << 25), "no card": "[]"}[kind]
    path = rewritten(saved(tmp_path / "winner.keras", model), manyfit__json=text)
    refused(lambda: kt.load_winner(path), "unpack to" if kind == "much" else "damaged")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_is_no_archive_is_told_in_words(tmp_path, content):
    for ending in (".keras", ".npz"):
        path = tmp_path / f"winner{ending}"
        path.write_bytes(content)
        refused(lambda path=path: kt.load_winner(path), "damaged")


def test_weights_of_a_winner_that_lie_in_another_file_are_not_read(tmp_path, model):
    path = saved(tmp_path / "winner.keras", model)
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["numbers"] = np.full((3, 1), 7.0)
    with zipfile.ZipFile(path) as file:
        (tmp_path / "model.weights.h5").write_bytes(file.read("model.weights.h5"))
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        [name] = [name for name in ("layers/only/vars/0", "layers/dense/vars/0") if name in file]
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "outside.h5"), "numbers")
    rewritten(path, model__weights__h5=(tmp_path / "model.weights.h5").read_bytes())
    with pytest.raises((ManyfitError, ValueError)):
        kt.load_winner(path)


def test_a_card_obeys_no_letter_and_is_no_markup(tmp_path, model):
    winner = kt.load_winner(saved(tmp_path / "winner.keras", model))
    assert not {"\x1b", "\u202e"} & set(repr(winner)) and "<script>" not in winner._repr_html_()


@pytest.mark.parametrize("kind", ["brackets", "pool"])
def test_an_ensemble_that_is_crafted_is_told_in_words(tmp_path, model, kind):
    folder = tmp_path / "ensemble"
    model.compile("sgd", "mse")
    kt.Ensemble.fit({"a": model}, np.zeros(8), x=np.zeros((8, 3)), method="uniform").save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    if kind == "pool":  # with its right hash
        with zipfile.ZipFile(folder / "pool.npz", "w") as file:
            head = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000,), }"
            file.writestr("weights.npy", head.ljust(127) + b"\n")
        manifest["pool"]["sha256"] = hashlib.sha256((folder / "pool.npz").read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(with_checksum(manifest)))
    else:
        (folder / "manifest.json").write_text("[" * 100_000)
    refused(lambda: kt.Ensemble.load(folder), "Ensemble.load", "damaged")
