"""One training under FSDP2 on two CPU processes, or the same on one process, as a script."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

torch.set_num_threads(1)
FOLDER, DEVICES = Path(sys.argv[1]), int(sys.argv[2])


class Module(SmallModule):
    """Without dropout or BatchNorm."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )

    def configure_model(self):
        if DEVICES > 1:
            from torch.distributed._composable.fsdp import fully_shard

            for layer in (self.net[1], self.net[3]):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Write(Callback):
    def on_fit_end(self, trainer, pl_module):
        probe = next((each for each in trainer.callbacks if isinstance(each, FillInBlanksCallback)), None)
        weights = [w.full_tensor() if hasattr(w, "full_tensor") else w for w in pl_module.parameters()]
        written = {
            "history": probe and probe.history,
            "updates": probe and probe.result.updates.tolist(),
            "weights": [weight.tolist() for weight in weights],
        }
        (FOLDER / f"rank{trainer.global_rank}.json").write_text(json.dumps(written))


if __name__ == "__main__":
    seed_everything(0)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    dataset = TensorDataset(images[:64], torch.tensor(data.target[:64]))
    loader = DataLoader(dataset, batch_size=32)  # every process sees the same batches, so two train as one
    probe = FillInBlanksCallback(
        num_masks=8,
        images_per_class=2,
        probe_images=(images[100:130], torch.tensor(data.target[100:130])),
        reference=(images[300:500], torch.tensor(data.target[300:500])),
        max_overhead=None,
        on_error="raise",
    )
    callbacks = [Write()] if "without" in sys.argv else [probe, Write()]
    trainer = Trainer(
        accelerator="cpu", devices=DEVICES, max_epochs=2, logger=False, use_distributed_sampler=False,
        strategy=ModelParallelStrategy(DEVICES, 1, process_group_backend="gloo") if DEVICES > 1 else "auto",
        callbacks=callbacks, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), loader, loader)
