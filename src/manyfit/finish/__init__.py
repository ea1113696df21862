"""From a ranking to a model: retraining the winners."""
