"""From rows to a model in given minutes: one call, one budget, a winner at every moment."""
