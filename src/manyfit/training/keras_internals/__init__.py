"""The one gate to what Keras and JAX do not promise: every private name of theirs that Manyfit uses stands in here.

Each function does one thing that Keras's own `fit` does, on the same private functions, so that the two cannot drift
apart unnoticed. Each private name has a test in `tests/training/keras_internals/` that says what breaks without it, and
`make test-oldest` and `make test-newest` run those tests at both ends of the range that `pyproject.toml` allows.

`building`: how models come to be; `data`: how `fit` reads what it is given; `draws`: how Keras draws random numbers;
`programs`: how XLA compiles, and where JAX keeps what was compiled. Only `building` works on every backend; the others
import JAX.
"""
