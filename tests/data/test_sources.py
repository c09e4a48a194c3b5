"""Labelled images from a folder, an .npz file, a function or a name."""

import numpy as np
import pytest
import torch
from PIL import Image

from fitb_callbacks import FillInBlanks
from fitb_callbacks.data.sources import open_images

MODULE = """
import torch
from torch.utils.data import DataLoader, TensorDataset

images, labels = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 4, 4) - 2.5, torch.tensor([1, 0, 1, 0, 1, 0])

def pair():
    return images, labels

def data_set():
    made = TensorDataset(images, labels)
    made.classes = ["cat", "dog"]
    return made

def loader():
    return DataLoader(data_set(), batch_size=4)

def nothing():
    return None

def broken():
    raise KeyError("secret")
"""


@pytest.fixture
def module(tmp_path, request):
    """The name of an importable module of functions, a new one for each test."""
    name = f"images_of_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return name


def write(path, value, mode="L", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    for name, value in (("dog", 255), ("cat", 0)):
        for number in range(3):
            write(tmp_path / "pets" / name / f"{number}.png", value if number else 51)
    return tmp_path / "pets"


def test_a_folder(folder):
    found = open_images(str(folder), per_class=2)
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.images.shape == (4, 1, 4, 6)
    assert found.images[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0, 0.2, 1])


def test_one_picture_in_colour_makes_all_rgb(folder):
    write(folder / "dog" / "0.jpg", (255, 0, 0), mode="RGB")
    found = open_images(str(folder), per_class=2)
    assert found.images.shape == (4, 3, 4, 6)
    assert found.images[2, :, 0, 0].tolist() == pytest.approx([1, 0, 0], abs=0.02)
    assert found.images[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.2])


def test_a_folder_at_the_models_size(folder):
    write(folder / "cat" / "0.bmp", (0, 255, 0), mode="RGB", size=(9, 9))
    found = open_images(str(folder), per_class=2, image_shape=(3, 5, 7))
    assert found.images.shape == (4, 3, 5, 7)
    assert found.images[0, :, 0, 0].tolist() == [0, 1, 0]
    assert open_images(str(folder), per_class=2, image_shape=(1, 5, 7)).images.shape == (4, 1, 5, 7)


def test_sixteen_bits_and_orientation(tmp_path):
    deep = np.full((4, 6), 65535, dtype=np.uint16)
    deep[0] = 0
    for name in ("a", "b"):
        (tmp_path / "deep" / name).mkdir(parents=True)
        Image.fromarray(deep).save(tmp_path / "deep" / name / "0.png")
        turned = Image.new("L", (4, 6))
        turned.paste(255, (0, 0, 1, 6))
        turned.getexif()[0x0112] = 6  # to be turned by 90 degrees clockwise
        (tmp_path / "turned" / name).mkdir(parents=True)
        turned.save(tmp_path / "turned" / name / "0.png", exif=turned.getexif())
    assert open_images(str(tmp_path / "deep"), per_class=1).images[0, 0, :, 0].tolist() == [0, 1, 1, 1]
    assert open_images(str(tmp_path / "turned"), per_class=1).images[0, 0, :, 0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 1, 4, 5), (6, 4, 5, 1), (6, 4, 5, 3)])
def test_an_npz_file(tmp_path, shape):
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.array([1, 0] * 3), class_names=np.array(["cat", "dog"]))
    found = open_images("a.npz", per_class=1)
    assert found.images.shape == (2, 3 if shape[-1] == 3 else 1, 4, 5)
    assert found.class_names == ("cat", "dog")
    assert found.images[1].flatten()[0] == pixels[0].flatten()[0] / 255
    np.savez(tmp_path / "b.npz", images=pixels.astype(np.float64) - 3, labels=np.array([1, 0] * 3))
    found = open_images("b.npz", per_class=1)
    assert found.images[1].flatten()[0] == -3
    assert found.class_names is None


def test_a_saved_result_gives_its_own_images(trained, probe_images):
    images, labels = probe_images
    FillInBlanks(num_masks=2).probe(trained, images, labels).save("probe.npz")
    found = open_images("probe.npz", per_class=3)
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("function", ["pair", "data_set", "loader"])
def test_a_function_in_the_current_folder(module, function):
    state = torch.get_rng_state()
    found = open_images(f"{module}:{function}", per_class=2)
    assert found.images[:, 0, 0, 0].tolist() == [-1.5, 0.5, -2.5, -0.5]
    assert found.class_names == (None if function == "pair" else ("cat", "dog"))
    assert torch.equal(torch.get_rng_state(), state)


def broken_folder(tmp_path):
    write(tmp_path / "one" / "a" / "0.png", 0)
    (tmp_path / "one" / "b").mkdir()
    write(tmp_path / "sizes" / "a" / "0.png", 0)
    write(tmp_path / "sizes" / "b" / "0.png", 0, size=(5, 5))
    write(tmp_path / "junk" / "a" / "0.png", 0)
    (tmp_path / "junk" / "a" / "0.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.npz").write_bytes(b"no zip file")
    np.savez(tmp_path / "keys.npz", pictures=np.zeros(3))
    np.savez(tmp_path / "shape.npz", x=np.zeros((3, 4)), y=np.zeros(3, int))
    np.savez(tmp_path / "labels.npz", x=np.zeros((3, 4, 4)), y=np.zeros((3, 1)))
    np.savez(tmp_path / "pickle.npz", x=np.array([{}, {}], dtype=object), y=np.zeros(2, int))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "there is no 'nowhere'"),
        ("one", "it has none of b"),
        ("sizes", "sizes/a/0.png has 6 x 4 pixels, sizes/b/0.png 5 x 5"),
        ("junk", "junk/a/0.png cannot be read as a picture"),
        ("empty", "empty must hold one folder a class; it holds none"),
        ("lost.npz", "there is no file lost.npz"),
        ("no.npz", "no.npz cannot be read as an .npz file"),
        ("keys.npz", "it holds pictures"),
        ("shape.npz", r"got float64 \(3, 4\)"),
        ("labels.npz", r"got float64 \(3, 1\)"),
        ("pickle.npz", "without pickle"),
        ("nosuchmodule:images", "cannot be imported: ModuleNotFoundError"),
        ("folder/nosuchmodule.py:images", "must be package.module:name, not a file"),
        ("MODULE:lost", "there is no 'lost'"),
        ("MODULE:images", "must name a function"),
        ("MODULE:nothing", "what .*:nothing returns must be a pair of tensors"),
        ("MODULE:broken", "gives no images: KeyError: 'secret'"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, module, source, says):
    broken_folder(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        open_images(source.replace("MODULE", module), per_class=1)
    assert "\n" not in str(caught.value)
