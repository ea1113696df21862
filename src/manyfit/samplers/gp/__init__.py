"""Bayesian optimisation with a Gaussian process: kernel, surrogate, acquisition, its optimiser, the sampler."""
