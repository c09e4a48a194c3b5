"""The probe as an evaluator of ``mlflow.models.evaluate``, found by MLflow through the package's entry point."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.models.evaluation import EvaluationResult, ModelEvaluator
from torch import Tensor, nn

from fitb_callbacks.data.sources import ImageSet
from fitb_callbacks.integrations.mlflow.loading import image_shape
from fitb_callbacks.integrations.mlflow.sink import log_picture
from fitb_callbacks.models.steadiness import check_steady
from fitb_callbacks.plotting.prototypes import prototype_grid
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.scoring.judges.trusted import open_judge

__all__ = ["FillInBlanksEvaluator"]

_ENTRIES = (*(setting.name for setting in fields(FillInBlanks)), "image_shape", "trusted", "prefix")


class FillInBlanksEvaluator(ModelEvaluator):
    """Scores of a PyTorch model's prototypes, as metrics that ``mlflow.validate_evaluation_results`` can bound.

    It runs only if ``evaluator_config`` has an entry for it. MLflow takes no images as data, so each is a row of its
    values; their shape is that of the model's signature, or ``image_shape``::

        mlflow.models.evaluate(
            "models:/digits/7",
            data=images.reshape(len(images), -1), targets=labels, model_type="classifier",
            evaluators="fill_in_blanks", evaluator_config={"num_masks": 64, "trusted": "trusted_images/"},
        )

    Entries of ``evaluator_config``: the settings of `fitb_callbacks.FillInBlanks`; ``image_shape``, as ``(C, H, W)``;
    ``trusted``, images whose class means judge the prototypes (see `fitb_callbacks.data.sources.open_images`);
    ``prefix`` of the metrics, by default ``fitb``. Undefined scores are left out.
    """

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: dict[str, Any], **kwargs: Any) -> bool:
        """Only with an entry of its own: MLflow asks every installed evaluator where none is named."""
        return bool(set(evaluator_config) & set(_ENTRIES))

    def evaluate(  # noqa: PLR0913 - MLflow's signature
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: dict[str, Any],
        model: Any = None,
        model_id: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Probe the model on the data set's images. See the class.

        Raises:
            ValueError: If the model, the data or an entry of the configuration is wrong.
        """
        if unknown := sorted(set(evaluator_config) - set(_ENTRIES)):
            raise ValueError(f"evaluator_config has no entry {', '.join(unknown)}; it has {', '.join(_ENTRIES)}")
        module = None if model is None else model.get_raw_model()
        if not isinstance(module, nn.Module):
            raise ValueError(f"model must be one of mlflow.pytorch; got {type(module).__name__}")  # noqa: TRY004
        settings = dict(evaluator_config)
        shape = settings.pop("image_shape", None) or image_shape(model.metadata.signature)
        trusted, prefix = settings.pop("trusted", None), settings.pop("prefix", "fitb")
        images, labels = _images(dataset, shape)
        judge = None if trusted is None else open_judge(trusted, ImageSet(images, labels, None))
        check_steady(module, images[:16])
        result = FillInBlanks(**settings).probe(module, images, labels, judge=judge)
        metrics = {f"{prefix}/{key}": value for key, value in result.metrics.items() if not math.isnan(value)}
        client, now = MlflowClient(), time.time_ns() // 10**6
        if model_id is None:  # else MLflow logs them itself; by NAME/VERSION, it does not find the model's id
            own = model.model_id
            linked = [Metric(key, value, now, 0, model_id=own, run_id=run_id) for key, value in metrics.items()]
            client.log_batch(run_id, metrics=linked)
        log_picture(
            client.tracking_uri,
            run_id,
            f"{prefix}/prototypes",
            prototype_grid(result.cells(), result.heading()),
            step=0,
        )
        return EvaluationResult(metrics=metrics, artifacts={}, run_id=run_id)


def _images(dataset: Any, shape: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Images ``(N, C, H, W)`` and labels ``(N,)`` of a data set of rows."""
    if shape is None:
        raise ValueError("image_shape must be given in evaluator_config, as the model's signature does not say it")
    rows = np.asarray(dataset.features_data, dtype=np.float32)
    if not dataset.has_targets:
        raise ValueError("targets must be given: the labels of the images")
    if rows.ndim != 2 or rows.shape[1] != math.prod(shape):
        raise ValueError(
            f"data must have rows of {math.prod(shape)} values, one an image of {tuple(shape)}; got {rows.shape}"
        )
    return torch.from_numpy(rows).view(-1, *shape), torch.from_numpy(np.asarray(dataset.labels_data, dtype=np.int64))
