"""Ways to weights: exact, greedy, averaged over bootstraps, by gradients, and by values of the metric alone."""
