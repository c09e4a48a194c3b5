"""Train with each progress bar in turn, for test_bars.py: what is written says which bar it is from."""

import warnings

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

BARS = {
    "tqdm": TQDMProgressBar(),
    "tqdm off": TQDMProgressBar(refresh_rate=0),
    "rich": RichProgressBar(),
    "rich leave": RichProgressBar(leave=True),
    "none": None,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    batches = DataLoader(TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 10), batch_size=20)
    for name, bar in BARS.items():
        print(f"### {name}:", flush=True)
        # Enough masks that a probe outlasts the tenth of a second before which tqdm draws nothing
        probe = FillInBlanksCallback(
            num_masks=2048, tolerance=None, max_overhead=None, chunk_size=64, on_error="raise",
            masking=["random", "progressive"], images_per_class=2,
        )  # fmt: skip
        Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
            callbacks=[probe, *([bar] if bar else [])], enable_progress_bar=bar is not None,
        ).fit(SmallModule(), batches, batches)  # fmt: skip
        assert len(probe.history) == 2
