"""A loop of one's own under Fabric, on one or two processes, with the probe after each epoch; as a script."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn

from fitb_callbacks import FillInBlanks

torch.set_num_threads(1)
FOLDER, DEVICES = Path(sys.argv[1]), int(sys.argv[2])

if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=DEVICES, strategy="ddp" if DEVICES > 1 else "auto")
    fabric.launch()
    torch.manual_seed(0)
    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.5))
    probe = FillInBlanks(num_masks=16)
    for epoch in range(2):
        for _ in range(20):  # every process sees the same images, so that two train as one
            optimizer.zero_grad()
            fabric.backward(F.cross_entropy(model(images[:400]), labels[:400]))
            optimizer.step()
        share = (fabric.global_rank, fabric.world_size)
        result = probe.probe(model, images[500:520], labels[500:520], share=share)
        result.save(FOLDER / f"epoch{epoch}-rank{fabric.global_rank}.npz")
