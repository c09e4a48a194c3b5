"""The probe runs without Lightning and the platforms, and importing the package is cheap."""

import subprocess
import sys

import pytest

BLOCKED = (
    "lightning",
    "pytorch_lightning",
    "mlflow",
    "tensorboard",
    "matplotlib",
    "PIL",
    "typer",
    "rich",
    "mlxtend",
    "transformers",
    "jinja2",
    "IPython",
)

SCRIPT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Block())
import importlib.metadata
real = importlib.metadata.distribution

def distribution(name):  # torchmetrics looks here to see whether matplotlib is installed
    if name in {blocked}:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

importlib.metadata.distribution = distribution
import torch
import fitb_callbacks
from fitb_callbacks import FillInBlanks, FillInBlanksResult
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
result = FillInBlanks(num_masks=4).probe(model, torch.rand(3, 1, 4, 4), torch.arange(3))
result.save("probe.npz")
FillInBlanksResult.load("probe.npz")
{more}
print("done")
"""


def run(more, folder, blocked=BLOCKED):
    script = SCRIPT.format(blocked=set(blocked), more=more)
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """What a process says in which nothing is installed but torch: of the probe, the callback and the command."""
    return run(
        """
print("probed")
try:
    fitb_callbacks.FillInBlanksCallback
except ModuleNotFoundError as error:
    print("callback:", error)
from fitb_callbacks.__main__ import main
main()
""",
        tmp_path_factory.mktemp("bare"),
    )


def test_the_probe_needs_neither_lightning_nor_any_platform(bare):
    assert bare.stdout.splitlines()[0] == "probed", bare.stderr


def test_the_callback_says_that_it_needs_lightning(bare):
    assert bare.stdout.splitlines()[1] == "callback: blocked: lightning"


TRAINING = """
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

class Module(BoringModel):
    def forward(self, images):
        return images.flatten(1)[:, :3]
    def training_step(self, batch, batch_idx):
        return self.layer.weight.sum()
    def validation_step(self, batch, batch_idx):
        pass

data = torch.utils.data.TensorDataset(torch.rand(30, 1, 4, 4), torch.arange(30) % 3)
probe = fitb_callbacks.FillInBlanksCallback(max_overhead=None, num_masks=2, on_error="raise")
trainer = Trainer(max_epochs=1, accelerator="cpu", logger=CSVLogger("logs"), callbacks=[probe],
                  enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
loader = torch.utils.data.DataLoader(data, batch_size=10)
trainer.fit(Module(), loader, loader)
assert "fitb/coverage" in open("logs/lightning_logs/version_0/metrics.csv").read()
"""


@pytest.mark.slow
def test_without_pillow_there_are_scores_and_one_line_says_that_there_are_no_pictures(tmp_path):
    done = run(TRAINING, tmp_path, blocked=["PIL", "tensorboard", "matplotlib", "mlflow"])
    assert done.stdout.strip().endswith("done"), done.stderr
    assert done.stderr.count("there are scores but no pictures without Pillow: pip install pillow") == 1


def test_the_command_says_what_it_needs(bare):
    assert bare.returncode == 2
    assert "fitb needs" in bare.stderr
    assert "pip install" in bare.stderr


def test_nothing_heavy_is_imported_with_the_package():
    script = "import sys, fitb_callbacks; print([m for m in sys.modules if m.split('.')[0] in %r])" % (set(BLOCKED),)  # noqa: UP031
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_no_package_called_integrations_is_installed():
    done = subprocess.run([sys.executable, "-c", "import integrations"], capture_output=True, cwd="/", check=False)
    assert b"No module named 'integrations'" in done.stderr
