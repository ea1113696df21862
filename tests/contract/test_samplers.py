"""Every sampler against the conformance suite. `test_families.py` tells whether one is missing."""

from __future__ import annotations

from manyfit.samplers.base import Belief, Constraint, Sampler
from manyfit.samplers.costed import CostedSampler, Moment
from manyfit.samplers.evolution import EvolutionSampler
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.non_adaptive import GridSampler, QuasiRandomSampler, RandomSampler
from manyfit.samplers.portfolio import PortfolioSampler
from manyfit.testing.samplers import SamplerSuite


class TestRandomSampler(SamplerSuite):
    def make(self) -> Sampler:
        return RandomSampler()


class TestGridSampler(SamplerSuite):
    def make(self) -> Sampler:
        return GridSampler()


class TestQuasiRandomSampler(SamplerSuite):
    def make(self) -> Sampler:
        return QuasiRandomSampler(seed=3)


class TestEvolutionSampler(SamplerSuite):
    def make(self) -> Sampler:
        return EvolutionSampler(population_size=8, tournament_size=3)


class TestGaussianProcessSampler(SamplerSuite):
    def make(self) -> Sampler:
        return GaussianProcessSampler()


class TestGaussianProcessSamplerWithConfidenceBound(SamplerSuite):
    def make(self) -> Sampler:
        return GaussianProcessSampler(num_initial_points=3, alpha=1e-2, beta=2.6)


class TestGaussianProcessSamplerWithConstraintsAndBeliefs(SamplerSuite):
    def make(self) -> Sampler:
        beliefs = [Belief("rate", 1e-3), Belief("activation", "gelu"), Belief("unknown", 3)]
        return GaussianProcessSampler(constraints=[Constraint("size", max=1.0)], beliefs=beliefs)


class TestPortfolioSampler(SamplerSuite):
    def make(self) -> Sampler:
        return PortfolioSampler(max_trials=50)


class TestCostedSamplerWithoutLimit(SamplerSuite):
    def make(self) -> Sampler:
        return CostedSampler(EvolutionSampler(population_size=8, tournament_size=3))


class TestCostedSampler(SamplerSuite):
    def make(self) -> Sampler:
        beliefs = [Belief("rate", 1e-3), Belief("activation", "gelu"), Belief("unknown", 3)]
        return CostedSampler(RandomSampler(), Moment(60.0, 50.0), beliefs=beliefs, first={"units": 64, "unknown": 3})


class TestCostedGaussianProcess(SamplerSuite):
    def make(self) -> Sampler:
        return CostedSampler(GaussianProcessSampler(), Moment(60.0, 50.0), beliefs=[Belief("rate", 1e-3)])


class TestCostedEvolution(SamplerSuite):
    def make(self) -> Sampler:
        return CostedSampler(EvolutionSampler(population_size=8, tournament_size=3), Moment(300.0, 80.0))
