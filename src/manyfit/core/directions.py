"""Whether a metric is better when larger or when smaller, told from its name.

KerasTuner asks Keras's registry and takes every metric outside a fixed list for "smaller is better", so a search for
`val_f1_score` or `val_r2_score` looks for the worst model. Names carry the answer; a name that does not is refused.
"""

from __future__ import annotations

import re
from typing import Literal

Direction = Literal["min", "max"]

# Matched as whole words against the end of the name first: an output's prefix ("loss_head_accuracy") is harmless.
_SMALLER = (
    "loss crossentropy cross_entropy entropy ce nll error err mse mae mape msle rmse rmsle mean_squared_error "
    "mean_absolute_error mean_absolute_percentage_error mean_squared_logarithmic_error root_mean_squared_error "
    "squared_error absolute_error percentage_error logarithmic_error hinge squared_hinge categorical_hinge poisson "
    "kl_divergence kld divergence log_cosh logcosh huber perplexity brier pinball quantile ctc dice_loss tversky "
    "circle false_positives false_negatives wer cer fid latency seconds bytes num_parameters"
)
_LARGER = (
    "acc accuracy auc roc_auc auroc auprc f1 f1_score f_score fbeta fbeta_score f_beta_score precision "
    "average_precision map recall r2 r2_score r_squared iou mean_iou io_u mean_io_u binary_io_u one_hot_io_u "
    "one_hot_mean_io_u dice dice_score dice_coefficient cosine_similarity cosine_proximity true_positives "
    "true_negatives sensitivity specificity sensitivity_at_specificity specificity_at_sensitivity precision_at_recall "
    "recall_at_precision pearson pearson_correlation spearman concordance_correlation correlation kappa cohen_kappa "
    "matthews mcc psnr ssim bleu rouge ndcg mrr hit_rate hits balanced_accuracy top_k_accuracy explained_variance "
    "reward likelihood log_likelihood score"
)
_DIRECTIONS: dict[str, Direction] = {
    **dict.fromkeys(_SMALLER.split(), "min"),
    **dict.fromkeys(_LARGER.split(), "max"),
}


def infer_metric_direction(metric: object) -> Direction | None:
    """Tells in which direction a metric improves.

    `val_` and `weighted_` prefixes, the numbers that Keras appends (`auc_1`), CamelCase and the names of a model's
    outputs (`digit_accuracy`) are seen through. The longest known ending of the name decides.

    Args:
        metric: a name as it stands in the logs of `model.fit`; or a Keras metric, loss or function, by its name.

    Returns:
        "min", "max", or None where the name does not tell.

    Example:

    >>> infer_metric_direction("val_f1_score"), infer_metric_direction("val_digit_mae"), infer_metric_direction("spam")
    ('max', 'min', None)
    """
    if not isinstance(metric, str):
        metric = metric.__name__ if hasattr(metric, "__name__") else type(metric).__name__
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", metric).lower()
    name = re.sub(r"_\d+$", "", name.removeprefix("val_").removeprefix("weighted_"))
    words = name.split("_")
    for start in range(len(words)):
        direction = _DIRECTIONS.get("_".join(words[start:]))
        if direction is not None:
            return direction
    return None
