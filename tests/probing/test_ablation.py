import csv
import itertools
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.ablation import ablate
from quick import fitb

RATIOS, SIZES, CUTS = [0.25, 0.5], [1, 3], [0.05, None]


class Counting(nn.Module):
    """A classifier that counts the images it sees."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))
        self._seen = array("q", [0])  # a counter that a probe does not put back, as it would an integer

    @property
    def seen(self):
        return self._seen[0]

    def forward(self, images):
        self._seen[0] += len(images)
        return self.layers(images)


@pytest.fixture
def images():
    return torch.rand(6, 1, 6, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(6) % 3
PROBE = FillInBlanks(num_masks=12)


def test_every_cell_is_what_the_probe_finds_by_itself(images):
    model = Counting()
    ablation = ablate(model, images, LABELS, probe=PROBE, mask_ratios=RATIOS, patch_sizes=SIZES, thresholds=CUTS)
    settings = [(cell.binarize, cell.patch_size, cell.mask_ratio) for cell in ablation.cells]
    assert settings == list(itertools.product(CUTS, SIZES, RATIOS))
    for cell in ablation.cells:
        alone = FillInBlanks(
            num_masks=12,
            mask_ratio=cell.mask_ratio,
            patch_size=cell.patch_size,
            binarize=cell.binarize,
            gentler=False,
        ).probe(model, images, LABELS)
        torch.testing.assert_close(cell.result.prototypes, alone.prototypes)
        assert cell.result.metrics == pytest.approx(alone.metrics, nan_ok=True)
        assert cell.result.settings == alone.settings


def test_further_thresholds_cost_next_to_nothing(images):
    def seen(thresholds):
        model = Counting()
        ablate(model, images, LABELS, probe=PROBE, mask_ratios=[0.5], patch_sizes=[1], thresholds=thresholds)
        return model.seen

    assert seen([0.05, 0.1, 0.2, None]) - seen([0.05]) == 3 * len(images)


def test_progressive_masks_come_in_as_many_steps_as_the_ratio_says(images):
    ablation = ablate(
        Counting(), images, LABELS, probe=FillInBlanks(masking="progressive", num_masks=12),
        mask_ratios=RATIOS, patch_sizes=[1], thresholds=CUTS,
    )  # fmt: skip
    assert [cell.result.steps.shape[1] for cell in ablation.cells] == [4, 2, 4, 2]


def test_an_interrupted_ablation_goes_on_where_it_stopped(images, tmp_path):
    settings = {"probe": PROBE, "mask_ratios": RATIOS, "patch_sizes": SIZES, "thresholds": CUTS}

    class Interrupted(Exception):  # noqa: N818
        pass

    def stop(done, total):
        if done == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        ablate(Counting(), images, LABELS, folder=tmp_path, on_cell=stop, **settings)
    assert len(list(tmp_path.glob("*.npz"))) == 5
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    progress = []
    resumed = ablate(Counting(), images, LABELS, folder=tmp_path, on_cell=lambda *p: progress.append(p), **settings)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert progress == [(done, 8) for done in range(9)]
    whole = ablate(Counting(), images, LABELS, **settings)
    for left, right in zip(resumed.cells, whole.cells, strict=True):
        assert torch.equal(left.result.prototypes, right.result.prototypes)
    finished = Counting()
    ablate(finished, images, LABELS, folder=tmp_path, **settings)
    assert finished.seen == 0


def test_a_folder_of_another_model_is_refused(images, tmp_path):
    settings = {"mask_ratios": [0.5], "patch_sizes": [1], "folder": tmp_path}
    model = Counting()
    ablate(model, images, LABELS, probe=PROBE, **settings)
    with torch.no_grad():
        model.layers[1].bias += 1
    with pytest.raises(ValueError, match=r"folder must be new or hold the same ablation.*another model"):
        ablate(model, images, LABELS, probe=PROBE, **settings)


def test_table_and_picture(images, tmp_path):
    ablation = ablate(Counting(), images, LABELS, probe=PROBE, mask_ratios=RATIOS, patch_sizes=SIZES, thresholds=CUTS)
    ablation.write_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[0]["binarize"] == "0.05"
    assert rows[-1]["binarize"] == ""
    assert [float(row["coverage"]) for row in rows] == pytest.approx(
        [cell.result.coverage for cell in ablation.cells], abs=1e-4
    )
    picture = ablation.picture()
    assert picture.dtype.name == "uint8"
    assert picture.shape[0] > 4 * 100  # a row of tiles for each patch size and threshold
    assert picture.shape[1] > 2 * 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratios": []}, "mask_ratios must hold at least one value"),
        ({"mask_ratios": [1.0]}, "every value in mask_ratios must be a number greater than 0 and less than 1; got 1.0"),
        ({"patch_sizes": [1, 9]}, "patch_size must be at most 6"),
    ],
)
def test_bad_lists_are_named_before_anything_is_probed(images, settings, message):
    model = Counting()
    with pytest.raises(ValueError, match=message):
        ablate(model, images, LABELS, probe=PROBE, **settings)
    assert model.seen == 0


@pytest.mark.slow
def test_command_writes_a_table_and_a_picture_a_class_and_resumes(tmp_path):
    lists = "--mask-ratio 0.25 --mask-ratio 0.5 --patch-size 4 --threshold none --threshold 0.05"
    arguments = ["ablate", *lists.split(), "--num-masks", "8", "--images-per-class", "1", "--output", str(tmp_path)]
    for _ in range(2):
        ran = fitb(*arguments)
        assert ran.exit_code == 0, ran.output
        assert "The scores of 4 settings" in ran.output
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 5
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == set("0123456789")


def test_command_takes_a_model_and_data_of_ones_own(images, tmp_path):
    model = Counting()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "data.npz", images=images, labels=LABELS, class_names=["cat", "dog", "cow/calf"])
    arguments = ["--checkpoint", "model.pt", "--class", f"{__name__}:Counting", "--data", "data.npz"]
    ran = fitb("ablate", *arguments, "--patch-size", "2", "--num-masks", "8")
    assert ran.exit_code == 0, ran.output
    assert "The scores of 4 settings" in ran.output
    assert ran.output.count("★") == 2  # its row of the table, and the last line
    assert ran.output.splitlines()[-1].startswith("★ best: mask_ratio=")
    assert "nan" not in ran.output
    table = ran.output.partition("The scores of")[0]
    assert "…" not in table  # 80 characters are enough for all titles
    assert {path.stem for path in Path("fitb-ablation/pictures").iterdir()} == {"cat", "dog", "cow_calf"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--threshold", "high"], "--threshold must be a number or none; got 'high'"),
        (["--checkpoint", "none.ckpt"], "none.ckpt"),
        (["--data", "nowhere", "--checkpoint", "none.ckpt"], "there is no 'nowhere'"),
        (["--data", "pictures"], "--checkpoint must be given with data of your own; --data is pictures"),
        (["--checkpoint", "junk.ckpt"], "fitb ablate:"),
        (["--checkpoint", "junk.ckpt", "--class", "SmallCNN"], "--class must be package.module:name; got 'SmallCNN'"),
        (["--checkpoint", "junk.ckpt", "--class", "json:JSONDecoder"], "--class must name a LightningModule"),
    ],
)
def test_command_says_in_a_line_what_is_wrong(tmp_path, arguments, says):
    (tmp_path / "junk.ckpt").write_bytes(b"no checkpoint")
    ran = fitb("ablate", *arguments, "--output", str(tmp_path / "output"))
    assert ran.exit_code == 2
    assert says in ran.output
    assert "Traceback" not in ran.output


def test_an_ablation_can_be_extended_in_its_folder(images, tmp_path):
    first, second = Counting(), Counting()
    ablate(first, images, LABELS, probe=PROBE, mask_ratios=[0.5], patch_sizes=[1], thresholds=[None], folder=tmp_path)
    both = [None, 0.1]
    ablate(second, images, LABELS, probe=PROBE, mask_ratios=[0.5], patch_sizes=[1], thresholds=both, folder=tmp_path)
    assert second.seen == len(images)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mask-ratio", "2"], "mask_ratio must be a number greater than 0 and less than 1; got 2.0"),
        (["--patch-size", "29"], "patch_size must be at most 28"),
        (["--masking", "both"], "'both' is not one of 'random', "),
    ],
)
def test_wrong_settings_end_the_command_before_a_network_is_trained(arguments, says, tmp_path):
    done = fitb("ablate", "--output", str(tmp_path / "ablation"), *arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())
    assert not (tmp_path / "ablation").exists()
