"""Ready-made hypermodels for images, with KerasTuner's names, arguments and hyperparameters."""

from manyfit.applications.augment import HyperImageAugment
from manyfit.applications.efficientnet import HyperEfficientNet
from manyfit.applications.resnet import HyperResNet
from manyfit.applications.xception import HyperXception

__all__ = ["HyperEfficientNet", "HyperImageAugment", "HyperResNet", "HyperXception"]
