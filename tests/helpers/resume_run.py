"""A run that is killed without warning, as a script: `resume_run.py FOLDER [KILL]` starts or goes on."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

torch.set_num_threads(1)
FOLDER, KILL = Path(sys.argv[1]), sys.argv[2]
EPOCHS = 5


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Module(SmallModule):
    """Without dropout: Lightning does not restore random numbers, so that a resumed run would draw others."""

    def __init__(self):
        super().__init__()
        self.net[3] = nn.Identity()

    def on_train_batch_start(self, batch, batch_idx):
        if KILL == "in an epoch" and (self.current_epoch, batch_idx) == (2, 3):
            die()
        if KILL == "in the first epoch" and (self.current_epoch, batch_idx) == (0, 5):
            die()


def logits(model, images):
    if KILL == "in a probe" and model.trainer.current_epoch == 2 and images.requires_grad:
        die()
    return model(images)


class Note(Callback):
    """One line for each probe, as a logger would write it."""

    def __init__(self, probe):
        self.probe, self.noted = probe, None

    def on_train_epoch_end(self, trainer, pl_module):
        if self.probe.result is None:
            return
        with (FOLDER / "notes.jsonl").open("a") as file:
            line = {
                "epoch": trainer.current_epoch,
                "images": self.probe.result.images.sum(dim=(1, 2, 3)).tolist(),
                "labels": self.probe.result.labels.tolist(),
                "updates": self.probe.result.updates.sum(dim=(1, 2, 3)).tolist(),
                "kept": self.probe.result.kept.tolist(),
            }
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    seed_everything(0)
    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)
    train = DataLoader(TensorDataset(images[:320], labels[:320]), batch_size=32)
    validation = DataLoader(TensorDataset(images[1500:1600], labels[1500:1600]), batch_size=32)
    probe = FillInBlanksCallback(max_overhead=None, num_masks=8, images_per_class=2, logits_fn=logits, on_error="raise")
    every = {"every_n_train_steps": 3} if KILL == "in the first epoch" or "steps" in sys.argv else {"every_n_epochs": 1}
    saved = ModelCheckpoint(dirpath=FOLDER, filename="{epoch}-{step}", save_top_k=-1, save_last=True, **every)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=CSVLogger(FOLDER, name="log", version="run"),
        callbacks=[probe, saved, Note(probe)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = FOLDER / "last.ckpt"
    loaders = (train,) if "no validation" in sys.argv else (train, validation)
    trainer.fit(Module(), *loaders, ckpt_path=last if last.exists() else None)
    (FOLDER / "history.json").write_text(json.dumps(probe.history))
