"""Train a network with the callback, register it in MLflow, and check it from Python.

Run it, then look at the version: mlflow ui --backend-store-uri sqlite:///mlflow.db
"""

from pathlib import Path

import mlflow
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import MLFlowLogger
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.data.datasets import load_mnist
from fitb_callbacks.demo import SmallCNN
from fitb_callbacks.gate.registry import Promotion, check_registered
from fitb_callbacks.gate.rules import Rule, Rules

if __name__ == "__main__":
    seed_everything(0)
    digits = load_mnist()
    logger = MLFlowLogger(
        experiment_name="digits",
        tracking_uri="sqlite:///mlflow.db",
        artifact_location=Path("fitb-runs/mlflow").resolve().as_uri(),
    )
    model = SmallCNN()
    trainer = Trainer(max_epochs=2, logger=logger, callbacks=[FillInBlanksCallback(max_overhead=None, num_masks=64)])
    trainer.fit(model, DataLoader(digits.train, batch_size=64, shuffle=True), DataLoader(digits.validation, 500))

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    with mlflow.start_run(run_id=logger.run_id):
        mlflow.pytorch.log_model(
            model.layers.eval(),  # in evaluation mode: an exported model cannot be put into it later
            name="classifier",
            registered_model_name="digits",
            input_example=digits.validation.tensors[0][:2].numpy(),
            pip_requirements=["torch"],
        )

    rules = Rules(rules=(Rule("min", "coverage", 0.8), Rule("max", "nonfinite", 0)), data="mnist")
    checked = check_registered("models:/digits/1", rules, promotion=Promotion("champion"))
    for outcome in checked.check.outcomes:
        print(outcome.rule, "| is", round(outcome.value, 3), "|", "passed" if outcome.passed else "failed")
    print("passed" if checked.passed else "refused", "- the evidence is in run", checked.run_id)
