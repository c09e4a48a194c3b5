"""Classification scores of prototypes, computed by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["answer_counts", "by_class", "confusion_matrix", "rates", "self_consistency"]


def self_consistency(predictions: Tensor, labels: Tensor, covered: Tensor, *, num_classes: int) -> dict[str, float]:
    """How often the prototypes are classified as the label they were filled for (paper, section 4.3, table 1).

    As the paper has them, accuracy and F1 count covered images only, and coverage says how many these are. The same
    three with ``_all`` count every image, one that is not covered as wrong: an untrained model covers few images and
    classifies their prototypes all "right".

    Args:
        predictions: Class predicted for each prototype, integers, shape ``(N,)``; ignored where not covered.
        labels: Label each prototype was filled for, integers in [0, num_classes), shape ``(N,)``.
        covered: Whether any mask was kept for the image, boolean, shape ``(N,)``.
        num_classes: Number of classes, at least 2.

    Returns:
        ``accuracy``, ``f1_macro`` and ``f1_weighted`` in [0, 1], NaN if no image is covered; ``coverage``,
        ``accuracy_all``, ``f1_macro_all`` and ``f1_weighted_all`` in [0, 1].

    Example:
        >>> import torch
        >>> covered = torch.tensor([True, True, False, False])
        >>> scores = self_consistency(torch.tensor([0, 1, -1, -1]), torch.tensor([0, 0, 2, 2]), covered, num_classes=3)
        >>> scores["accuracy"], scores["accuracy_all"], scores["coverage"]
        (0.5, 0.25, 0.5)
    """
    over_all = rates(predictions.where(covered, -1), labels, num_classes=num_classes)
    return {
        **rates(predictions[covered], labels[covered], num_classes=num_classes),
        "coverage": covered.float().mean().item(),
        **{f"{name}_all": value for name, value in over_all.items()},
    }


def rates(predictions: Tensor, labels: Tensor, *, num_classes: int) -> dict[str, float]:
    """Accuracy, macro and weighted F1 of predictions of which some may be missing, which counts as wrong.

    A class without a label is left out of the macro average: missing, not zero.

    Args:
        predictions: Integers in [-1, num_classes), -1 for no answer, shape ``(N,)``.
        labels: Integers in [0, num_classes), shape ``(N,)``.
        num_classes: Number of classes, at least 2.

    Returns:
        ``accuracy``, ``f1_macro`` and ``f1_weighted`` in [0, 1], NaN without any label.

    Example:
        >>> import torch
        >>> rates(torch.tensor([0, -1]), torch.tensor([0, 1]), num_classes=3)
        {'accuracy': 0.5, 'f1_macro': 0.5, 'f1_weighted': 0.5}
    """
    if not len(labels):
        return dict.fromkeys(("accuracy", "f1_macro", "f1_weighted"), math.nan)
    # Imported here because it takes longer than all the rest of the package together.
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    answers = predictions.where(predictions >= 0, num_classes)  # no answer is a class of its own, which no label has
    f1 = multiclass_f1_score(answers, labels, num_classes + 1, average="none")[:num_classes]
    number = labels.bincount(minlength=num_classes)
    return {
        "accuracy": multiclass_accuracy(answers, labels, num_classes + 1, average="micro").item(),
        "f1_macro": f1[number > 0].mean().item(),
        "f1_weighted": ((f1 * number).sum() / number.sum()).item(),
    }


def by_class(right: Tensor, labels: Tensor, *, num_classes: int) -> list[float]:
    """Share of the images of each class for which something is true.

    Args:
        right: Boolean, shape ``(N,)``.
        labels: Integers in [0, num_classes), shape ``(N,)``.
        num_classes: Number of classes.

    Returns:
        One value in [0, 1] a class; NaN for a class without an image.

    Example:
        >>> import torch
        >>> by_class(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), num_classes=3)
        [0.5, nan, 1.0]
    """
    number = labels.bincount(minlength=num_classes)
    return (labels[right].bincount(minlength=num_classes) / number).tolist()


def confusion_matrix(predictions: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """Count images by label (row) and prediction (column).

    Args:
        predictions: Integers in [-1, num_classes), -1 for no answer, which is not counted, shape ``(N,)``.
        labels: Integers in [0, num_classes), shape ``(N,)``.
        num_classes: Number of classes.

    Returns:
        Integers, shape ``(num_classes, num_classes)``.

    Example:
        >>> import torch
        >>> confusion_matrix(torch.tensor([0, 1, -1]), torch.tensor([0, 0, 1]), num_classes=2).tolist()
        [[1, 1], [0, 0]]
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    answered = predictions >= 0
    return multiclass_confusion_matrix(predictions[answered], labels[answered], num_classes)


def answer_counts(labels: Tensor, answers: Tensor, classes: Sequence[int]) -> Tensor:
    """Count how many images of each class (row) are taken for what (column): the classes, then "other", then "none".

    Args:
        labels: Integers, shape ``(N,)``.
        answers: Integers, -1 for none, shape ``(N,)``.
        classes: The classes to show; every other answer counts as "other".

    Returns:
        Shape ``(len(classes), len(classes) + 2)``.

    Example:
        >>> import torch
        >>> answer_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 5, -1]), [0, 1]).tolist()
        [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    kinds = torch.stack([answers == label for label in classes])
    other = (answers >= 0) & ~kinds.any(dim=0)
    columns = torch.cat([kinds, other.unsqueeze(0), (answers < 0).unsqueeze(0)])
    rows = torch.stack([labels == label for label in classes])
    return rows.float() @ columns.float().T
