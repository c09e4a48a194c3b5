"""``fitb demo``: a real training run with the callback, seen in TensorBoard and MLflow."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks.callback.callback import FillInBlanksCallback
from fitb_callbacks.data.datasets import LabelledImages

__all__ = ["DemoRun", "SmallCNN", "quiet", "run_demo"]


class SmallCNN(LightningModule):
    """Three convolutions and a linear layer, the simplest model of the paper. Logs ``val_acc``."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 7 * 7, num_classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 1, 28, 28)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.layers(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, of images with a little noise: networks trained so have smoother gradients."""
        images, labels = batch
        loss = F.cross_entropy(self(images + 0.3 * torch.randn_like(images)), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy."""
        images, labels = batch
        self.log("val_acc", (self(images).argmax(dim=1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@dataclass(frozen=True)
class DemoRun:
    """What the demo leaves behind.

    Attributes:
        history: One entry an epoch: the callback's scores, with ``val_acc``.
        picture: The last grid, a PNG.
        tensorboard: Folder of the event files.
        run: Folder of this run in it.
        mlflow_uri: Address of the MLflow store.
        mlflow_page: Where its pages show the run's model metrics.
        verdict: What the last scores say in words.
    """

    history: list[dict[str, float]]
    picture: Path
    tensorboard: Path
    run: Path
    mlflow_uri: str
    mlflow_page: str
    verdict: dict[str, str]


def run_demo(data: LabelledImages, *, name: str, epochs: int, output: Path, mlflow_uri: str) -> DemoRun:
    """Train a small CNN with the callback and both loggers on.

    Args:
        data: What to train on.
        name: Of the data, for the loggers' run names.
        epochs: How many.
        output: Folder for event files, MLflow artifacts and the picture; made if it does not exist.
        mlflow_uri: Address of the MLflow store.
    """
    import mlflow.store.db.utils  # noqa: F401 - mlflow sets its loggers' levels when it is imported

    output.mkdir(parents=True, exist_ok=True)
    # The demo's epochs last seconds: too short for good pictures within the usual share of their time.
    probe = FillInBlanksCallback(class_names=data.classes, max_overhead=None)
    record = _ValidationAccuracy()
    with quiet("alembic", "mlflow", "mlflow.store.db.utils"):
        seed_everything(0)
        tensorboard = TensorBoardLogger(save_dir=output / "tensorboard", name=name)
        mlflow_logger = MLFlowLogger(
            experiment_name=f"fitb-demo-{name}",
            tracking_uri=mlflow_uri,
            artifact_location=(output / "mlflow").resolve().as_uri(),
            run_name=f"small CNN, {epochs} epoch{'s' * (epochs > 1)}",
        )
        trainer = Trainer(
            max_epochs=epochs,
            logger=[tensorboard, mlflow_logger],
            callbacks=[probe, record, _Bar(leave=True)],
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=20,
        )
        trainer.fit(SmallCNN(len(data.classes)), _loader(data.train, shuffle=True), _loader(data.validation))
    assert probe.result is not None
    picture = output / f"{name}.png"
    probe.result.figure().save(picture)
    history = [{**scores, "val_acc": value} for scores, value in zip(probe.history, record.values, strict=True)]
    return DemoRun(
        history=history,
        picture=picture,
        tensorboard=output / "tensorboard",
        run=Path(tensorboard.log_dir),
        mlflow_uri=mlflow_uri,
        mlflow_page=f"#/experiments/{mlflow_logger.experiment_id}/runs/{mlflow_logger.run_id}/model-metrics",
        verdict=probe.result.interpretation("ridge regression on training images"),
    )


@contextmanager
def quiet(*more: str) -> Iterator[None]:
    """Only what the command itself says, and errors; nothing from Lightning, and these loggers."""
    names = ("lightning.pytorch", "lightning.fabric", *more)
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    with warnings.catch_warnings():
        # The data is in memory: more workers would slow it down.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message=".*treespec.*", category=FutureWarning)
        try:
            for logger in levels:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


class _Bar(RichProgressBar):
    """Lightning's bar without the run's id, which leaves no room for the accuracy."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class _ValidationAccuracy(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.values.append(trainer.callback_metrics["val_acc"].item())


def _loader(dataset: TensorDataset, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(dataset, batch_size=64 if shuffle else 500, shuffle=shuffle)
