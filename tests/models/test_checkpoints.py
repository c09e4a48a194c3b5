"""Models from checkpoint files."""

import pickle

import pytest
import torch
from torch import nn

from fitb_callbacks.models.checkpoints import load_checkpoint
from small_module import SmallModule

MODULE = """
from small_module import SmallModule
from lightning.pytorch import LightningModule
from torch import nn

class Sized(SmallModule):
    def __init__(self, side, extra=None):
        super().__init__(side)
        self.save_hyperparameters()

def network():
    return nn.Linear(2, 3)

def number():
    return 3
"""


@pytest.fixture
def module(tmp_path, request):
    name = f"models_of_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return name


@pytest.fixture
def checkpoint(module, trainer, tmp_path):
    """A Lightning checkpoint of the module's class with side=4, and the model in it."""

    def make(**hyperparameters):
        from fitb_callbacks.utils.imports import import_from_string

        model = import_from_string(f"{module}:Sized", argument="class")(4, **hyperparameters)
        run = trainer(max_steps=0)
        run.strategy.connect(model)
        run.save_checkpoint(tmp_path / "model.ckpt")
        return model

    return make


def test_a_lightning_checkpoint_has_its_hyperparameters(checkpoint, module):
    saved = checkpoint()
    loaded = load_checkpoint("model.ckpt", f"{module}:Sized")
    assert not loaded.training
    assert loaded.net[-1].weight.shape == (10, 8 * 16)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))


def test_pickle_is_loaded_only_if_asked_for(checkpoint, module):
    checkpoint(extra=nn.Hardtanh())
    with pytest.raises(ValueError, match=r"holds \S+Hardtanh, which only pickle loads; .* add --allow-pickle"):
        load_checkpoint("model.ckpt", f"{module}:Sized")
    loaded = load_checkpoint("model.ckpt", f"{module}:Sized", allow_pickle=True)
    assert isinstance(loaded.hparams.extra, nn.Hardtanh)


def test_a_state_dict_of_any_module(module):
    model = nn.Linear(2, 3)
    torch.save(model.state_dict(), "plain.pt")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, "nested.pt")
    torch.save(SmallModule(8).state_dict(), "lightning.pt")
    for name in ("plain.pt", "nested.pt"):
        assert torch.equal(load_checkpoint(name, f"{module}:network").weight, model.weight)
    assert isinstance(load_checkpoint("lightning.pt", "small_module:SmallModule"), SmallModule)


@pytest.mark.parametrize(
    ("path", "class_path", "says"),
    [
        ("lost.ckpt", "MODULE:Sized", "there is no checkpoint lost.ckpt"),
        ("junk.ckpt", "MODULE:Sized", "junk.ckpt is no checkpoint"),
        ("dict.pkl", "MODULE:network", "dict.pkl is no"),
        ("list.pt", "MODULE:network", "it holds a list of"),
        ("other.pt", "MODULE:network", "other.pt is not a checkpoint of .*:network: RuntimeError"),
        ("other.pt", "MODULE:number", "returned int, not a torch.nn.Module"),
        ("other.pt", "network", "--class must be package.module:name; got 'network'"),
        ("other.pt", "json:JSONDecoder", "--class must name a LightningModule"),
    ],
)
def test_what_cannot_be_loaded_is_named_in_one_line(module, path, class_path, says, tmp_path):
    (tmp_path / "junk.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "dict.pkl").write_bytes(pickle.dumps(nn.Linear(2, 3)))
    torch.save([torch.zeros(2)], "list.pt")
    torch.save({"elsewhere": torch.zeros(2)}, "other.pt")
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        load_checkpoint(path, class_path.replace("MODULE", module))
    assert "\n" not in str(caught.value)
