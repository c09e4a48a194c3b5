"""One training run on one or two processes, as a script: Lightning starts the second process by running it again."""

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

torch.set_num_threads(1)
FOLDER, DEVICES, CASE = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
SHARES = {"a share that is too small": 0.001, "a share that has time": 100.0}
RANK = int(os.environ.get("LOCAL_RANK", "0"))


class Module(SmallModule):
    """Without dropout or BatchNorm, whose results depend on the share of the batch that a process sees."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 10)
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)  # Adam would blow up differences of rounding


class ChangesInTheStep(Module):
    """Shows the network other images than the loader gives: mirrored, and from -1 to 1."""

    def training_step(self, batch, batch_idx):
        return super().training_step((2 * batch[0].flip(3) - 1, batch[1]), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((2 * batch[0].flip(3) - 1, batch[1]), batch_idx)


def failing(model, images):
    """Logits, except on the second process in the second epoch's probe: there, an error before or after the masks."""
    if RANK == 1 and model.trainer.current_epoch == 1 and not model.trainer.sanity_checking:
        before, after = images.requires_grad, not images.requires_grad
        failing.seen_gradients = getattr(failing, "seen_gradients", False) or before
        if (CASE == "fails in the masks" and before) or (
            CASE == "fails in the end" and after and failing.seen_gradients
        ):
            raise RuntimeError("only here")
    return model(images)


class Write(Callback):
    """Each process writes what it saw."""

    def on_fit_end(self, trainer, pl_module):
        probe = next(callback for callback in trainer.callbacks if isinstance(callback, FillInBlanksCallback))
        result = {
            "history": probe.history,
            "looked": probe._steps.checked,  # noqa: SLF001 - nothing public tells
            "learned": int(probe._run_judge._streamed.counts.sum()),  # noqa: SLF001 - as above
            "step": trainer.global_step,
            "monitored": {key: value.item() for key, value in trainer.callback_metrics.items() if "fitb" in key},
        }
        if probe.result is not None:
            names = ("images", "labels", "kept", "updates", "filled")
            result |= {name: getattr(probe.result, name).tolist() for name in names}
        (FOLDER / f"rank{trainer.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    seed_everything(0)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    train = TensorDataset(images[:320], labels[:320])
    if CASE == "other classes on each rank":  # even places go to the first process: it sees the digits 0 to 4 only
        low, high = (torch.nonzero(part)[:40, 0] for part in (labels < 5, labels >= 5))
        order = torch.stack((low, high), dim=1).flatten()
        validation = TensorDataset(images[order], labels[order])
    else:
        validation = TensorDataset(images[1500:1661], labels[1500:1661])  # odd, so that the processes' shares differ
    probe = FillInBlanksCallback(
        max_overhead=SHARES.get(CASE),
        num_masks=13,
        images_per_class=2,
        logits_fn=failing if "fails" in CASE else None,
        audit=True,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=DEVICES,
        strategy="ddp" if DEVICES > 1 else "auto",
        max_epochs=3,
        logger=CSVLogger(FOLDER),
        use_distributed_sampler=False,
        callbacks=[probe, Write()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def loader(data):
        """In order: Lightning's own samplers shuffle, so that one process would see other batches than two."""
        sampler = DistributedSampler(data, num_replicas=DEVICES, rank=RANK, shuffle=False)
        return DataLoader(data, batch_size=32 // DEVICES, sampler=sampler)

    module = ChangesInTheStep() if CASE == "changes images in the step" else Module()
    trainer.fit(module, loader(train), loader(validation))
