"""One training under FSDP on two CPU processes, or the same on one process, as a script.

Its last argument holds what is special, separated by commas: "fsdp1" for FSDPStrategy or "fsdp2" for
ModelParallelStrategy, "without" the callback, "whole" for one root around all, "flat" for flat parameters,
"no validation", "in the step" for images that the step changes, "bf16", "accumulated" gradients.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from sklearn.datasets import load_digits
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

torch.set_num_threads(1)
FOLDER, DEVICES, CASE = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")


class OnTheCPU(FSDPStrategy):
    """Real in all but this: Lightning refuses the class itself on a CPU, and torch needs to be told of one."""

    def _setup_model(self, model):
        policy = self.kwargs.pop("auto_wrap_policy", None)
        root = FullyShardedDataParallel(
            model,
            device_id=torch.device("cpu"),
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            auto_wrap_policy=policy,
            **self.kwargs,
        )
        return super()._setup_model(root)  # wraps nothing that is wrapped


class Module(SmallModule):
    """Without dropout or BatchNorm."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )

    def configure_model(self):
        if DEVICES > 1 and "fsdp2" in CASE:
            from torch.distributed._composable.fsdp import fully_shard

            for layer in (self.net[1], self.net[3]):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return super().training_step(self.changed(batch), batch_idx)

    def validation_step(self, batch, batch_idx):
        return super().validation_step(self.changed(batch), batch_idx)

    def changed(self, batch):
        return (2 * batch[0] - 1, batch[1]) if "in the step" in CASE else batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.trainer.model.parameters(), lr=0.1)


class Write(Callback):
    def on_fit_end(self, trainer, pl_module):
        probe = next((each for each in trainer.callbacks if isinstance(each, FillInBlanksCallback)), None)
        weights = [w.full_tensor() if hasattr(w, "full_tensor") else w for w in pl_module.parameters()]
        if "fsdp1" in CASE and trainer.strategy.model is not pl_module:
            with FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=False):
                weights = [weight.clone() for weight in pl_module.parameters()]
        written = {
            "history": probe and probe.history,
            "updates": probe and probe.result.updates.tolist(),
            "images": probe and probe.result.images.tolist(),
            "weights": [weight.tolist() for weight in weights],
            "loss": trainer.callback_metrics["train_loss"].item(),
        }
        (FOLDER / f"rank{trainer.global_rank}.json").write_text(json.dumps(written))


def strategy():
    if DEVICES == 1:
        return "auto"
    if "fsdp2" in CASE:
        return ModelParallelStrategy(DEVICES, 1, process_group_backend="gloo")
    policy = {} if "whole" in CASE else {"auto_wrap_policy": {torch.nn.Linear}}
    return OnTheCPU(process_group_backend="gloo", use_orig_params="flat" not in CASE, **policy)


if __name__ == "__main__":
    seed_everything(0)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    dataset = TensorDataset(images[:64], torch.tensor(data.target[:64]))
    loader = DataLoader(dataset, batch_size=32)  # every process sees the same batches, so two train as one
    as_they_enter = Module().changed((images, torch.tensor(data.target)))
    probe = FillInBlanksCallback(
        num_masks=8,
        images_per_class=2,
        probe_images=tuple(part[100:130] for part in as_they_enter),
        reference=tuple(part[300:500] for part in as_they_enter),
        max_overhead=None,
        on_error="raise",
        audit=True,
        every_n_train_steps=1 if "accumulated" in CASE else None,
    )
    callbacks = [Write()] if "without" in CASE else [probe, Write()]
    trainer = Trainer(
        accelerator="cpu", devices=DEVICES, max_epochs=2, logger=False, use_distributed_sampler=False,
        strategy=strategy(), callbacks=callbacks, precision="bf16-mixed" if "bf16" in CASE else None,
        accumulate_grad_batches=2 if "accumulated" in CASE else 1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    validation = () if "no validation" in CASE or "accumulated" in CASE else (loader,)
    trainer.fit(Module(), loader, *validation)
