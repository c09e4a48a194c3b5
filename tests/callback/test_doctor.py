"""What fitb doctor says of a training, and that it leaves nothing behind."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from no_classifiers import OFF

from fitb_callbacks.callback.doctor import examine
from quick import fitb

HEAD = """
import sys
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset
from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

images, labels = torch.rand(60, 1, 8, 8), torch.arange(60) % 10
batches = DataLoader(TensorDataset(images, labels), batch_size=20)
"""
FIT = "Trainer(max_epochs=50, accelerator='cpu', logger=False).fit(SmallModule(), batches, batches)\n"


def doctor(*arguments):
    return fitb("doctor", *arguments)


def script(text):
    path = Path("train.py")
    path.write_text(HEAD + text)
    return path


def plain(output):
    """Without the table's borders, and on one line."""
    return " ".join(re.sub(r"[^\x00-\x7f]", " ", output).split())


def test_a_script_with_the_callback():
    done = doctor(
        script("""
callback = FillInBlanksCallback(images_per_class=3, num_masks=100, class_names=list("abcdefghij"))
loggers = [TensorBoardLogger("runs", name="digits"), CSVLogger("logs")]
try:
    Trainer(max_epochs=50, accelerator="cpu", logger=loggers, callbacks=[callback]).fit(SmallModule(), batches, batches)
except Exception:
    print("the script goes on")
print("the script goes on")
""")
    )
    assert done.exit_code == 0, done.output
    said = plain(done.output)
    assert "the script goes on" not in said
    assert "as it stands in the Trainer" in said
    assert "float32 tensor (20, 1, 8, 8), from" in said
    assert "20 of 10 classes, from 0 to 9" in said
    assert "10 classes, from SmallModule.forward" in said
    assert "a, b, c, d, e, f, g, h, i, j" in said
    assert "100 masks on up to 30 images (3 a class)" in said
    assert re.search(r"TensorBoardLogger runs/digits/version_0 yes yes", said)
    assert re.search(r"CSVLogger logs/\S+ yes yes", said)
    assert re.search(r"Estimated cost: about [\d.]+ s at the end of each epoch", said)
    assert sorted(path.name for path in Path().iterdir()) == ["train.py"]  # nothing was logged or saved
    assert Trainer.fit.__name__ == "fit"


def test_what_needs_attention():
    examination = examine(
        script("""
class Probable(SmallModule):
    def forward(self, images):
        return super().forward(images / 255).softmax(dim=1)

batches = DataLoader(TensorDataset(images * 255 - 20, labels), batch_size=20)
Trainer(max_epochs=50, accelerator="cpu").fit(Probable(), batches)
""")
    )
    assert examination.found["callback"] == "none in the Trainer; looked at with its defaults"
    hints = " ".join(examination.hints)
    for hint in ("returns probabilities", "reach 23", "no validation"):
        assert hint in hints
    assert [logger.kind for logger in examination.loggers] == ["TensorBoardLogger"]
    assert examination.seconds > 0


def test_a_healthy_script_gets_no_hint():
    examination = examine(script(FIT))
    assert examination.hints == []
    assert examination.loggers == []


def test_what_costs_the_judge_only_is_a_hint_and_the_steps_are_described():
    """The validation is looked at first, as in a training: a body and a head called in the step are found there."""
    done = doctor(
        script("""
class Noisy(SmallModule):
    def __init__(self):
        super().__init__()
        self.generator, self.body = torch.nn.Linear(3, 64), torch.nn.Conv2d(1, 1, 3, padding=1)

    def training_step(self, batch, batch_idx):
        made = self.generator(torch.randn(20, 3)).view(-1, 1, 8, 8)
        return torch.nn.functional.cross_entropy(self.net(torch.cat((batch[0], made))), batch[1].repeat(2))

    def validation_step(self, batch, batch_idx):
        torch.nn.functional.cross_entropy(self.net(self.body(2 * batch[0] - 1)), batch[1])

Trainer(max_epochs=50, accelerator="cpu", logger=False).fit(Noisy(), batches, batches)
""")
    )
    said = plain(done.output)
    assert "10 classes, from the step's own call" in said
    assert "images: what enters the network; labels: its target, as cross_entropy takes them" in said
    assert "validation images taken from what enters the network in the step" in said
    assert re.search(r"picture range low -(1|0\.99)", said)
    assert "FillInBlanksCallback(reference=(images, labels)) gives it some to learn from" in said
    assert "can be probed; see the hint above" in said


class Images:
    """A clock on which a millisecond passes with each image that the model sees, whatever else the machine does."""

    def __init__(self):
        self.seen = 0

    def count(self, module, arguments, output):
        self.seen += len(arguments[0]) if isinstance(module, LightningModule) else 0

    def perf_counter(self):
        return self.seen / 1000


def test_the_estimate_grows_with_the_masks(monkeypatch):
    clock = Images()  # stands in for the real one, which other processes move on
    monkeypatch.setattr("fitb_callbacks.callback.doctor.time", clock)

    def seconds(num_masks):
        fit = FIT.replace("logger=False", f"logger=False, callbacks=[FillInBlanksCallback(num_masks={num_masks})]")
        return examine(script(fit)).seconds

    with torch.nn.modules.module.register_module_forward_hook(clock.count):
        few, many = seconds(10_000), seconds(200_000)
    assert few > 10_000 * 20 / 1000  # on 20 images, at least
    assert many / few == pytest.approx(20, rel=0.1)


def test_a_script_with_arguments_of_its_own():
    path = script("assert sys.argv == ['train.py', '--rate', '0.1'], sys.argv\n" + FIT)
    assert doctor(path, "--", "--rate", "0.1").exit_code == 0


def test_a_configuration_of_lightning_cli():
    Path("of_config.py").write_text("""
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Squares(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 10), batch_size=20)

    val_dataloader = train_dataloader
""")
    config = Path("run.yaml")
    config.write_text("""
model: {class_path: small_module.SmallModule}
data: {class_path: of_config.Squares}
trainer:
  accelerator: cpu
  callbacks: [{class_path: fitb_callbacks.FillInBlanksCallback, init_args: {num_masks: 64}}]
""")
    done = doctor(config)
    assert done.exit_code == 0, done.output
    assert "64 masks on up to 40 images" in plain(done.output)
    config.write_text("model: {class_path: small_module.NoSuchModule}\n")
    refused = doctor(config)
    assert refused.exit_code == 2
    assert "LightningCLI refuses run.yaml" in refused.output
    assert "fitb doctor script.py -- fit --config run.yaml" in refused.output


def test_the_optimizer_steps_in_memory_only_once():
    path = script("""
class Counting(SmallModule):
    steps = 0

    def training_step(self, batch, batch_idx):
        Counting.steps += 1
        assert Counting.steps == 1
        return super().training_step(batch, batch_idx)

Trainer(max_epochs=50, accelerator="cpu", accumulate_grad_batches=2, logger=False).fit(Counting(), batches, batches)
""")
    assert doctor(path).exit_code == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("print('nothing to train')\n", "never calls fit"),
        ("1 / 0\n", r"fails in line 12: ZeroDivisionError: division by zero"),
        ("sys.exit('no GPU')\n", "ended itself before Trainer.fit, with no GPU"),
        (FIT.replace("batches, batches", "DataLoader([{'a': 1}])"), "fails in line 12: ValueError: not enough values"),
        (FIT.replace("SmallModule()", "SmallModule(num_classes=3)"), "labels must be from 0 to 2|out of bounds"),
    ],
)
def test_scripts_that_cannot_be_examined(text, says):
    done = doctor(script(text))
    assert done.exit_code == 2, done.output
    last = done.output.strip().splitlines()[-1]
    assert last.startswith("fitb doctor: train.py")
    assert re.search(says, last)
    assert torch.is_grad_enabled()


def test_no_such_file():
    assert "there is no file nowhere.py" in doctor("nowhere.py").output
    Path("notes.txt").touch()
    assert "takes a .py script or a .yaml configuration" in doctor("notes.txt").output


def test_what_cannot_be_probed_is_described_with_the_line_to_paste():
    done = doctor(
        script(
            """
class Regression(SmallModule):
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self(batch[0]).sum(1), batch[1].float())
    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)
"""
            + FIT.replace("SmallModule", "Regression")
        )
    )
    said = plain(done.output)
    assert done.exit_code == 2
    assert "mse_loss compares values (20,) as a regression does" in said
    assert "The batch is a list of (float32 tensor (20, 1, 8, 8), int64 tensor (20,))" in said
    assert "FillInBlanksCallback(batch_adapter=lambda batch: (images, labels), logits_fn=" in said


@pytest.mark.parametrize("case", OFF)
def test_each_kind_that_cannot_be_probed_is_described_with_the_line_to_paste(case):
    path = Path("train.py")
    path.write_text(f"""
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from no_classifiers import OFF

module_class, dataset, _ = OFF["{case}"]
batches = DataLoader(dataset, batch_size=6)
Trainer(max_epochs=50, accelerator="cpu", logger=False).fit(module_class(), batches, batches)
""")
    with pytest.raises(ValueError, match="cannot be probed") as raised:
        examine(path)
    said = str(raised.value)
    assert OFF[case][2] in said
    assert "The batch is a list of (" in said
    assert "tensor (6, " in said
    assert "FillInBlanksCallback(batch_adapter=lambda batch: (images, labels), logits_fn=" in said


@pytest.mark.skipif(find_spec("pytorch_lightning") is None, reason="needs pytorch_lightning")
def test_a_script_of_the_other_package():
    path = Path("train.py")
    path.write_text("""
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    validation_step = training_step
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

batches = DataLoader(TensorDataset(torch.rand(12, 1, 8, 8), torch.arange(12) % 3), batch_size=6)
pl.Trainer(max_epochs=50, accelerator="cpu", logger=False).fit(Module(), batches, batches)
""")
    examination = examine(path)
    assert examination.found["validation batch"] == "a list of (float32 tensor (6, 1, 8, 8), int64 tensor (6,))"
    assert examination.found["class names"] == "none; pass class_names="


def test_a_run_whose_step_prepares_its_batches():
    examination = examine(
        script(
            """
class ChannelsLast(SmallModule):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0].permute(0, 3, 1, 2).float() / 255, batch[1]), batch_idx)
    def validation_step(self, batch, batch_idx):
        super().validation_step((batch[0].permute(0, 3, 1, 2).float() / 255, batch[1]), batch_idx)
batches = DataLoader(TensorDataset((images * 255).byte().permute(0, 2, 3, 1), labels), batch_size=20)
"""
            + FIT.replace("SmallModule", "ChannelsLast")
        )
    )
    assert examination.found["validation batch"] == "a list of (uint8 tensor (20, 8, 8, 1), int64 tensor (20,))"
    assert examination.found["validation images"] == "taken from what enters the network in the step"
