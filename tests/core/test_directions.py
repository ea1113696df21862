"""Directions of metrics, told from their names."""

import inspect
import re

import keras
import pytest

from manyfit.core.objective import infer_metric_direction

#: What Keras's metrics are for, by their documentation; the name that Keras gives decides.
_LARGER = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "BinaryIoU",
    "CategoricalAccuracy",
    "ConcordanceCorrelation",
    "CosineSimilarity",
    "F1Score",
    "FBetaScore",
    "IoU",
    "MeanIoU",
    "OneHotIoU",
    "OneHotMeanIoU",
    "PearsonCorrelation",
    "Precision",
    "PrecisionAtRecall",
    "R2Score",
    "Recall",
    "RecallAtPrecision",
    "SensitivityAtSpecificity",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "SpecificityAtSensitivity",
    "TopKCategoricalAccuracy",
    "TrueNegatives",
    "TruePositives",
]
_NEITHER = ["Mean", "MeanMetricWrapper", "Metric", "Sum"]
_ARGUMENTS = {
    "BinaryIoU": {},
    "IoU": {"num_classes": 2, "target_class_ids": [0]},
    "MeanIoU": {"num_classes": 2},
    "OneHotIoU": {"num_classes": 2, "target_class_ids": [0]},
    "OneHotMeanIoU": {"num_classes": 2},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
_CLASSES = {
    name: member
    for name, member in vars(keras.metrics).items()
    if inspect.isclass(member) and name not in _NEITHER and issubclass(member, keras.metrics.Metric)
}


@pytest.mark.parametrize("name", sorted(_CLASSES))
def test_every_metric_of_keras_has_its_direction(name):
    metric = _CLASSES[name](**_ARGUMENTS.get(name, {}))
    own = re.sub(r"_\d+$", "", metric.name)  # Keras numbers the objects of a class, whoever made the ones before
    expected = "max" if name in _LARGER else "min"
    assert infer_metric_direction(f"val_{own}") == expected
    assert infer_metric_direction(f"{own}_2") == expected


def test_no_metric_of_keras_is_missing_from_the_list():
    assert set(_LARGER) <= set(_CLASSES)


@pytest.mark.parametrize(
    "name", ["acc", "val_acc", "weighted_acc", "val_f1_score", "val_r2_score", "val_auc", "val_iou", "F1Score"]
)
def test_larger_is_better(name):
    assert infer_metric_direction(name) == "max"


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "val_weighted_mse", "head_loss", "val_digit_mae", "ce", "val_dice_loss"]
)
def test_smaller_is_better(name):
    assert infer_metric_direction(name) == "min"


def test_the_name_of_an_output_is_no_metric():
    assert infer_metric_direction("loss_head_accuracy") == "max"
    assert infer_metric_direction("accuracy_head_loss") == "min"


@pytest.mark.parametrize("name", ["spam", "", "val_", "lossy", "accurate", "mean"])
def test_a_name_that_does_not_tell(name):
    assert infer_metric_direction(name) is None


def test_metrics_themselves_tell_it_by_their_names():
    assert infer_metric_direction(keras.losses.mean_squared_error) == "min"
    assert infer_metric_direction(keras.metrics.BinaryAccuracy(name="of_mine")) == "max"
    assert infer_metric_direction(keras.Sequential()) is None
