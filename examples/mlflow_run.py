"""Watch a network learn handwritten digits, in MLflow, and keep the epoch whose prototypes are recognised best.

Run it, then: mlflow ui --backend-store-uri sqlite:///mlflow.db
The scores and the grid are under the run's "Model metrics".
"""

from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from tensorboard_run import Digits
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.data.datasets import load_mnist

if __name__ == "__main__":
    seed_everything(0)
    digits = load_mnist()
    logger = MLFlowLogger(
        experiment_name="digits",
        tracking_uri="sqlite:///mlflow.db",
        artifact_location=Path("fitb-runs/mlflow").resolve().as_uri(),
    )
    best = ModelCheckpoint(dirpath="fitb-runs/checkpoints", monitor="fitb/accuracy", mode="max")
    trainer = Trainer(
        max_epochs=3,
        logger=logger,
        callbacks=[FillInBlanksCallback(class_names=digits.classes, max_overhead=None), best],
    )
    trainer.fit(Digits(), DataLoader(digits.train, batch_size=64, shuffle=True), DataLoader(digits.validation, 500))
    print(f"best fitb/accuracy: {best.best_model_score:.3f}, in {best.best_model_path}")
