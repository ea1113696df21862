"""From a ranking to a model: confirm on fresh seeds, cross-validate, retrain the winners, evaluate once, export."""
