"""The callback from a YAML file: python lightning_cli.py fit --config lightning_cli.yaml."""

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from tensorboard_run import Digits
from torch.utils.data import DataLoader

from fitb_callbacks.data.datasets import load_mnist


class DigitsData(LightningDataModule):
    def __init__(self, batch_size: int = 64):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        self.digits = load_mnist()
        self.class_names = self.digits.classes

    def train_dataloader(self):
        return DataLoader(self.digits.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.digits.validation, batch_size=500)


if __name__ == "__main__":
    LightningCLI(Digits, DigitsData)
