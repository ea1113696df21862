"""What programs written for KerasTuner override in a tuner, and when each method is called.

A subclass of a tuner is KerasTuner's way to change a search, so its methods are a contract here: their names (those
with an underscore as well), their arguments, and the order in which they are called. All of them stand in this folder.
`BaseTuner` (`base_tuner.py`) has those of any tuner, `ModelTuner` (`overrides.py`), from which `Tuner` and the ready
searches derive, those of tuners of Keras models. Everywhere else in Manyfit concrete classes are final.

Before the search:

* `_populate_initial_space()`: once per project, when the tuner is made. It may do nothing; the space then grows with
  the trials.
* `set_state(state)`: when a project that exists is opened, and in `reload()`. `get_state()`: after each trial, if it is
  overridden, and in `save()`.

In `search`, in this order:

* `on_search_begin()`
* `pre_create_trial()`: before a trial is asked for, where trials run one by one.
* `on_trial_begin(trial)`: when the first execution of a trial is handed out, and again when a trial that a scheduler
  had paused goes on. Several trials may run at a time.
* `_build_hypermodel(hp)`: once per execution, and further times to find the space and to settle what a proposal means;
  after it `_override_compile_args(model)`, where the tuner was given an optimizer, a loss or metrics.
* `_deepcopy_callbacks(callbacks)`: once per execution.
* `on_epoch_begin(trial, model, epoch, logs)` and `on_epoch_end(...)`: for every epoch; trials still train together.
* `on_batch_begin(trial, model, batch, logs)` and `on_batch_end(...)`: for every batch. Overriding one of them has
  trials train one after another through `model.fit`.
* `on_trial_end(trial)`: when all executions have ended. Overrides call `super().on_trial_end(trial)`, which writes the
  trial's end into the book; without it the search never learns of it.
* `on_search_end()`

In place of training, one trial after another (`one_by_one.py`; with `executor=` in its workers, side by side:
`remote.py`). A `run_trial` that does no more than to change the arguments of `super().run_trial(...)` is called when
its trial begins, and such trials train together:

* `run_trial(trial, *fit_args, **fit_kwargs)`: once per trial; returns a number, a dict of metrics, a `History`, or a
  list of these. It may call `super().run_trial(...)`, which trains `executions_per_trial` executions by
* `_build_and_fit_model(trial, *fit_args, **fit_kwargs)`: once per execution, with callbacks that call the hooks and
  keep the weights of the best epoch (`callbacks.py`). It may use `_try_build(hp)`: a model that was built and checked.

For models:

* `save_model(trial_id, model, step)`: called by training loops of the user's own.
* `load_model(trial)`: by `get_best_models`, `ensemble` and `evaluate`. `_get_checkpoint_fname(trial_id)` tells where
  KerasTuner kept weights; `load_model` looks there, too.

A `HyperModel` (`hypermodel.py`) has `build(hp)`, `declare_hyperparameters(hp)` and `fit(hp, model, *args, **kwargs)`;
an overridden `fit` trains each execution; where it is one call of `model.fit` and no more, trials train together by the
calls that it makes.
"""
