"""Files of people who are wrong or hostile: no command runs code of theirs, and each answers in one line."""

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fitb_callbacks.data.sources import open_images
from fitb_callbacks.gate.rules import Rules
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.models.file_contents import PickledContentError, check_export
from fitb_callbacks.utils.arrays import read_npz


class Bomb:
    """Unpickling it leaves a file behind."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def exported(folder):
    """A plain network as torch.export.save writes it."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10)).eval()
    program = torch.export.export(network, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def rewritten(file, changes, *, added=None, compression=zipfile.ZIP_STORED):
    """The archive with members changed: end of a name to a function of its content."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    flat = "version" in members  # as before torch 2.7
    for end, change in changes.items():
        if flat and end not in BEFORE_2_7:
            continue
        (name,) = (name for name in members if name.endswith(BEFORE_2_7[end] if flat else end))
        members[name] = change(members[name])
    top = "" if flat else next(iter(members)).partition("/")[0] + "/"
    members |= {f"{top}{name}": content for name, content in (added or {}).items()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def changed_json(change):
    def apply(content):
        described = json.loads(content)
        change(described)
        return json.dumps(described).encode()

    return apply


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def use_pickle(described):
    next(iter(described["config"].values()))["use_pickle"] = True


def in_expressions(described, text):
    stack = [described]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "expr_str" in value:
                value["expr_str"] = text
            stack += value.values()
        elif isinstance(value, list):
            stack += value


CODE = "__import__('os').system('touch ran')"
MODEL, WEIGHTS = "models/model.json", "model_weights_config.json"
BEFORE_2_7 = {
    "sample_inputs/model.pt": "serialized_example_inputs.pt",
    MODEL: "serialized_exported_program.json",
    "weight_0": "serialized_state_dict.pt",
}
HOSTILE_EXPORTS = {
    "pickled sample inputs": {"changes": {"sample_inputs/model.pt": lambda _: saved(Bomb())}},
    "bare pickle": {"changes": {"sample_inputs/model.pt": lambda _: pickle.dumps(Bomb())}},
    "pickled weight": {"changes": {WEIGHTS: changed_json(use_pickle), "weight_0": lambda _: saved(Bomb())}},
    "custom object": {"changes": {}, "added": {"data/constants/custom_obj_0": pickle.dumps(Bomb())}},
    "shared library": {"changes": {}, "added": {"data/aotinductor/model/model.so": b"\x7fELF"}},
    "legacy weights": {"changes": {}, "added": {"data/weights/model.pt": saved(Bomb())}},
    "shape expression": {"changes": {MODEL: changed_json(lambda model: in_expressions(model, CODE))}},
    "hidden shape expression": {
        "changes": {MODEL: changed_json(lambda model: in_expressions(model, "().__class__.__base__.__subclasses__()"))}
    },
    "guard": {"changes": {MODEL: changed_json(lambda model: model.update(guards_code=[CODE]))}},
    "operation": {
        "changes": {
            MODEL: changed_json(
                lambda model: model["graph_module"]["graph"]["nodes"][0].update(target="torch.serialization.os.system")
            )
        }
    },
    "imported container": {
        "changes": {
            MODEL: changed_json(
                lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(
                    in_spec=json.dumps(
                        [
                            1,
                            {
                                "type": "collections.defaultdict",
                                "context": json.dumps(
                                    {"default_factory_module": "hostile", "default_factory_name": "x"}
                                ),
                                "children_spec": [],
                            },
                        ]
                    )
                )
            )
        }
    },
    "named input": {
        "changes": {
            MODEL: changed_json(
                lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(
                    forward_arg_names=[f"x={CODE}"]
                )
            )
        }
    },
    "compressed": {"changes": {}, "compression": zipfile.ZIP_DEFLATED},
}


def test_an_exported_network_is_let_through_and_works(tmp_path):
    file = exported(tmp_path)
    check_export(file)
    check_export(rewritten(file, {}))
    assert torch.export.load(file).module()(torch.rand(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("name", HOSTILE_EXPORTS)
def test_a_doctored_export_is_refused_before_anything_is_loaded(tmp_path, name):
    file = rewritten(exported(tmp_path), **HOSTILE_EXPORTS[name])
    (tmp_path / "hostile.py").write_text("import os\nos.system('touch ran')\n")
    with pytest.raises(ValueError, match=r"^its? ") as caught:
        check_export(file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_export_is_damaged_and_not_called_a_pickle(tmp_path):
    file = exported(tmp_path)
    content = file.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match="damaged") as caught:
            check_export(file)
        assert not isinstance(caught.value, PickledContentError)


class Built(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)


def test_checkpoints_that_would_run_code_are_refused(tmp_path):
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": Built().state_dict(), "extra": Bomb()}, file)
    with pytest.raises(ValueError, match="--allow-pickle"):
        load_checkpoint(file, "torch.nn:Flatten")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    with pytest.raises(ValueError, match="TorchScript archive; if you trust the file, add --allow-pickle"):
        load_checkpoint(file, "torch.nn:Flatten")
    hostile = {"state_dict": {}, "hyper_parameters": {"_instantiator": "os.system"}, "pytorch-lightning_version": "2.6"}
    torch.save(hostile, file)
    with pytest.raises(ValueError, match=r"name a function to build the module, 'os\.system'"):
        load_checkpoint(file, "lightning.pytorch:LightningModule")
    assert not (tmp_path / "ran").exists()


def test_a_module_of_the_current_folder_does_not_stand_in_for_an_installed_one(tmp_path):
    (tmp_path / "colorsys.py").write_text("import os\nos.system('touch ran')\n")
    (tmp_path / "own_model.py").write_text("import torch, colorsys\nnetwork = torch.nn.Flatten\n")
    torch.save({}, tmp_path / "model.ckpt")
    script = (
        "from fitb_callbacks.models.checkpoints import load_checkpoint\n"
        "print(load_checkpoint('model.ckpt', 'own_model:network'))\n"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "elsewhere/script.py"], capture_output=True, text=True, check=False)
    assert "Flatten" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()


def test_rules_run_no_code_unless_it_is_allowed(tmp_path):
    Path("rules.yaml").write_text("data: hostile:images\nmin: {coverage: 0.5}\n")
    with pytest.raises(ValueError, match=r"rules\.yaml: data names the function hostile:images.*add --allow-code"):
        Rules.load("rules.yaml")
    assert Rules.load("rules.yaml", allow_code=True).data == "hostile:images"
    Path("rules.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nmin: {coverage: *b}\n")
    with pytest.raises(ValueError, match="without aliases"):
        Rules.load("rules.yaml")
    Path("rules.yaml").write_bytes(b"#" * 2**21)
    with pytest.raises(ValueError, match="plain YAML of at most"):
        Rules.load("rules.yaml")


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(0))
    header = zeros.getvalue().replace(b"(0,), }", b"(9999999999,), }").replace(b" " * 10 + b"\n", b"\n")
    with zipfile.ZipFile("header.npz", "w") as archive:
        archive.writestr("images.npy", header)
        archive.writestr("labels.npy", header)
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (600, 1024, 1024)}
        )
        for _ in range(600):
            member.write(bytes(2**20))
    with zipfile.ZipFile("long.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as member:
        member.write(np.lib.format.magic(2, 0) + (200 * 2**20).to_bytes(4, "little"))  # all of it header
        for _ in range(200):
            member.write(b" " * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("bomb.npz", "header.npz", "long.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an .npz file without pickle: .*"):
            open_images(name, per_class=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    np.savez_compressed("blank.npz", images=np.zeros((100, 64, 64)))
    assert read_npz("blank.npz")["images"].shape == (100, 64, 64)


def test_a_folder_holds_its_own_pictures_of_a_sane_size(tmp_path):
    part = tmp_path / "images" / "zero"
    part.mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    (part / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="is a link that leaves"):
        open_images("images", per_class=1)
    (part / "a.png").unlink()
    os.mkfifo(part / "a.png")
    with pytest.raises(ValueError, match="is not a file"):
        open_images("images", per_class=1)
    (part / "a.png").unlink()
    Image.new("1", (10_000, 10_000)).save(part / "a.png")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with pytest.raises(ValueError, match="10000 x 10000 pixels; at most 67,108,864"):
        open_images("images", per_class=1)


@pytest.mark.parametrize("command", ["check", "probe"])
def test_commands_print_no_control_character(command, tmp_path):
    name = "\x1b]0;owned\x07\u202e.ckpt"
    done = subprocess.run(
        [sys.executable, "-m", "fitb_callbacks", command, name, "--class", "torch.nn:Flatten", "--data", "mnist",
         *(["--min", "coverage=0.5", "--junit", "a.xml"] if command == "check" else [])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    text = done.stdout + done.stderr + (Path("a.xml").read_text() if command == "check" else "")
    assert "owned" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
