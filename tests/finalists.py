"""Searches whose finalists are to be confirmed, without a model: losses by a formula, and noise by the seed."""

from __future__ import annotations

import numpy as np
import tiny

from manyfit.core.records import Ending, Result
from manyfit.core.seeds import generator
from manyfit.training.base import judge


class Noisy(tiny.Formula):
    """Losses of the search are noise; those of fresh seeds are units / 100, and noise of their own."""

    deviation = 0.01

    def train(self, supply, task):
        while plans := supply.take(self.members):
            for plan in plans:
                rng = generator(plan.seed, "noise", plan.trial_id)
                loss = plan.values.values["units"] / 100 + self.deviation * float(rng.standard_normal())
                logs = {"loss": loss}
                supply.report([(plan, 0, logs)])
                self.trained.append((*plan.key, plan.seed))
                error = self.fail(plan)
                if error is not None:
                    supply.finish(Result(plan, Ending.FAILED, {"loss": [loss]}, message=repr(error)))
                    continue
                ending, message = judge({"loss": [loss]}, task.objective, stopped=False)
                size = 100 - plan.values.values["units"] if plan.values.values["kind"] == "a" else 7
                supply.finish(Result(plan, ending, {"loss": [loss]}, message=message, num_parameters=size))


def searched(project, trainer, max_trials=8, units=50, **more):
    tuner = tiny.searched(
        trainer, max_trials=max_trials, seed=3, hyperparameters=tiny.space(units), overwrite=True, **project, **more
    )
    tuner.search(np.zeros((8, 3)), np.zeros(8), verbose=0)
    return tuner
