"""Scores of prototypes, by torchmetrics."""

from __future__ import annotations

from torch import Tensor

__all__ = ["self_consistency"]


def self_consistency(predictions: Tensor, labels: Tensor, covered: Tensor, *, num_classes: int) -> dict[str, float]:
    """How often the prototypes are classified as the label they were filled for (paper, section 4.3, table 1).

    Accuracy and F1 count covered images only, as the paper does; coverage says how many these are. A class without a
    covered image is left out of the macro average: missing, not zero.

    Args:
        predictions: Class predicted for each prototype, integers, shape ``(N,)``; ignored where not covered.
        labels: Label each prototype was filled for, integers in [0, num_classes), shape ``(N,)``.
        covered: Whether any mask was kept for the image, boolean, shape ``(N,)``.
        num_classes: Number of classes, at least 2.

    Returns:
        ``accuracy``, ``f1_macro`` and ``f1_weighted`` in [0, 1], NaN if no image is covered, and ``coverage`` in
        [0, 1].

    Example:
        >>> import torch
        >>> covered = torch.tensor([True, True, False])
        >>> self_consistency(torch.tensor([0, 1, -1]), torch.tensor([0, 0, 2]), covered, num_classes=3)["accuracy"]
        0.5
    """
    # Imported here because it takes longer than all the rest of the package together.
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    coverage = covered.float().mean().item()
    if not covered.any():
        return {"accuracy": float("nan"), "f1_macro": float("nan"), "f1_weighted": float("nan"), "coverage": coverage}
    predictions, labels = predictions[covered], labels[covered]
    f1_by_class = multiclass_f1_score(predictions, labels, num_classes, average="none")
    present = labels.bincount(minlength=num_classes) > 0
    return {
        "accuracy": multiclass_accuracy(predictions, labels, num_classes, average="micro").item(),
        "f1_macro": f1_by_class[present].mean().item(),
        "f1_weighted": multiclass_f1_score(predictions, labels, num_classes, average="weighted").item(),
        "coverage": coverage,
    }
