"""A program as it was written for KerasTuner; nothing in it knows Manyfit.

python -m manyfit.compat examples/keras_tuner_program.py   # on Manyfit, unchanged
python examples/keras_tuner_program.py                     # on KerasTuner, where that is installed
"""

import keras
import keras_tuner as kt
import numpy as np
from sklearn.datasets import load_digits


def build_model(hp):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=hp.Choice("optimizer", ["rmsprop", "adam"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
order = np.random.default_rng(0).permutation(len(x))
x, y = x[order], y[order]
x_train, y_train, x_val, y_val, x_test, y_test = x[:1000], y[:1000], x[1000:1400], y[1000:1400], x[1400:], y[1400:]

tuner = kt.BayesianOptimization(
    build_model,
    objective="val_accuracy",
    max_trials=6,
    executions_per_trial=2,
    directory="keras_tuner_program",
    overwrite=True,
    seed=1,
)
tuner.search_space_summary()
tuner.search(
    x_train,
    y_train,
    epochs=5,
    validation_data=(x_val, y_val),
    callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=2)],
    verbose=1,
)
tuner.results_summary(3)
model = tuner.get_best_models(1)[0]
print("test accuracy:", round(model.evaluate(x_test, y_test, verbose=0)[1], 3))

best = tuner.get_best_hyperparameters(1)[0]
retrained = build_model(best)
retrained.fit(np.concatenate([x_train, x_val]), np.concatenate([y_train, y_val]), epochs=5, verbose=0)
print("retrained:", round(retrained.evaluate(x_test, y_test, verbose=0)[1], 3))
