import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fitb_callbacks import FillInBlanks, FillInBlanksCallback, FillInBlanksResult
from fitb_callbacks.plotting.paper_figures import comparison, fill_figure, progressive_figure
from fitb_callbacks.probing.masks import partition_masks
from fitb_callbacks.probing.transform import prototype
from fitb_callbacks.probing.updates import GradientUpdate
from fitb_callbacks.utils.patch_grid import PatchGrid
from mlflow_store import new_store
from small_module import SmallModule
from warm_process import Warm


def linear(channels=1, height=8, width=8, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))


@pytest.mark.parametrize(
    ("height", "width", "patch_size", "num_steps"),
    [(8, 8, 2, 4), (28, 28, 2, 4), (7, 5, 2, 3), (9, 14, 4, 5), (3, 3, 1, 4), (6, 6, 3, 1)],
)
def test_masks_of_a_partition_are_disjoint_cover_everything_and_differ_by_at_most_a_patch(
    height, width, patch_size, num_steps
):
    visible = partition_masks(torch.arange(5), PatchGrid(height, width, patch_size), num_steps=num_steps, seed=3)
    assert visible.shape == (5, num_steps, height, width)
    assert ((~visible).sum(dim=1) == 1).all()
    patches = (~visible)[:, :, ::patch_size, ::patch_size].sum((2, 3))
    assert patches.max() - patches.min() <= 1


def test_partitions_depend_on_seed_and_index_alone():
    def masks(indices, seed):
        return partition_masks(torch.tensor(indices), PatchGrid(8, 8, 2), num_steps=4, seed=seed)

    assert torch.equal(masks([0, 1, 2], 0)[2], masks([2], 0)[0])
    assert not torch.equal(masks([0], 0), masks([1], 0))
    assert not torch.equal(masks([0], 0), masks([0], 1))


def test_each_fill_conditions_the_next_as_a_plain_loop_does():
    """One image at a time, written from the paper's section 4.2, against the batched probe."""
    model, images = linear(), torch.rand(3, 1, 8, 8)
    labels = model(images).argmax(dim=1)
    probe = FillInBlanks(masking="progressive", num_masks=4, patch_size=2, baseline=0, low=0, high=1)
    result = probe.probe(model, images, labels)
    masks = partition_masks(torch.arange(1), PatchGrid(8, 8, 2), num_steps=4, seed=0)[0]
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    for row, label in enumerate(labels):
        current = images[row : row + 1]
        for step, visible in enumerate(masks):
            found = GradientUpdate().find(model, current * visible, label[None], visible)
            fill = prototype(found.values * ~visible, low=zero, high=one, baseline=zero)
            current = torch.where(visible, current, fill)
            torch.testing.assert_close(result.steps[row, step], current[0])


def test_the_last_step_holds_no_original_pixel_and_is_the_prototype_of_a_single_partition():
    model, images = linear(), torch.rand(5, 1, 8, 8) * 0.5 + 0.25
    labels = model(images).argmax(dim=1)
    result = FillInBlanks(masking="progressive", num_masks=4, binarize=0.1, low=0, high=1).probe(model, images, labels)
    assert set(result.steps[:, -1].unique().tolist()) == {0.0, 1.0}  # no pixel of the images is either
    assert result.covered.any()
    assert torch.equal(result.prototypes[result.covered], result.steps[result.covered, -1])


def test_several_partitions_share_the_budget_and_the_chunk_size_changes_nothing():
    model, images, labels = linear(), torch.rand(5, 1, 8, 8), torch.arange(5) % 4
    settings = {"masking": "progressive", "num_masks": 30, "num_steps": 4}
    whole = FillInBlanks(**settings, chunk_size=10_000).probe(model, images, labels)
    parts = FillInBlanks(**settings, chunk_size=3).probe(model, images, labels)
    assert whole.kept.max() <= 7
    assert torch.equal(whole.kept, parts.kept)
    torch.testing.assert_close(whole.updates, parts.updates)
    torch.testing.assert_close(whole.steps, parts.steps)


def test_odd_sized_rgb_images_and_steps_that_do_not_divide_the_patches():
    model, images = linear(3, 7, 11), torch.rand(4, 3, 7, 11)
    result = FillInBlanks(masking="progressive", patch_size=2, num_steps=5, num_masks=10).probe(
        model, images, torch.arange(4)
    )
    assert result.steps.shape == (4, 5, 3, 7, 11)
    assert result.prototypes.isfinite().all()


@pytest.mark.parametrize("masking", ["random", "progressive"])
def test_a_model_that_predicts_one_class_covers_one_class(masking):
    class Constant(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :1] * 1e-6 + torch.tensor([0.0, 0.0, 9.0, 0.0])

    result = FillInBlanks(masking=masking, num_masks=8).probe(Constant(), torch.rand(8, 1, 8, 8), torch.arange(8) % 4)
    assert result.coverage == 0.25
    assert result.predictions[result.labels != 2].tolist() == [-1] * 6
    assert result.metrics["coverage"] == 0.25


def test_labels_can_be_the_models_own():
    model, images = linear(), torch.rand(5, 1, 8, 8)
    result = FillInBlanks(masking="progressive", num_masks=8, target="predicted").probe(model, images)
    assert torch.equal(result.labels, model(images).argmax(dim=1))


def test_steps_are_saved_and_random_masks_have_none(tmp_path):
    model, images, labels = linear(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    for masking in ("random", "progressive"):
        result = FillInBlanks(masking=masking, num_masks=8).probe(model, images, labels)
        result.save(tmp_path / masking)
        again = FillInBlanksResult.load(tmp_path / masking)
        if masking == "random":
            assert result.steps is again.steps is None
        else:
            assert torch.equal(result.steps, again.steps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking": "both"}, "masking must be one of 'random', 'progressive'; got 'both'"),
        ({"num_steps": 0}, "num_steps must be an integer >= 1; got 0"),
        ({"update": "newton"}, "update must be one of 'gradient', 'bfgs', 'ascent', 'none'; got 'newton'"),
        ({"bfgs_steps": 0}, "bfgs_steps must be an integer >= 1; got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FillInBlanks(**settings)


def test_more_steps_than_patches_are_refused():
    with pytest.raises(ValueError, match=r"num_steps must be at most 16.*got 17"):
        FillInBlanks(masking="progressive", patch_size=2, num_steps=17).probe(
            linear(), torch.rand(1, 1, 8, 8), torch.tensor([0])
        )


@pytest.mark.slow
def test_callback_probes_both_maskings_under_their_own_keys(trainer, loaders, tmp_path):
    tensorboard = TensorBoardLogger(tmp_path, name="tensorboard")
    table = CSVLogger(tmp_path, name="csv")
    mlflow = MLFlowLogger(
        tracking_uri=new_store(tmp_path / "mlflow.db"), artifact_location=(tmp_path / "artifacts").as_uri()
    )
    callback = FillInBlanksCallback(
        max_overhead=None, masking=("random", "progressive"), num_masks=16, on_error="raise", scores="all"
    )
    checkpoint = ModelCheckpoint(tmp_path, monitor="fitb/progressive/coverage", mode="max")
    module = SmallModule()
    trainer(callbacks=[callback, checkpoint], logger=[tensorboard, mlflow, table], enable_checkpointing=True).fit(
        module, *loaders
    )

    assert callback.result.steps is None
    further = callback.further_results["progressive"]
    assert further.steps.shape[1] == 4
    alone = FillInBlanks(masking="progressive", num_masks=16).probe(module, callback.result.images, further.labels)
    assert alone.metrics == pytest.approx({key: further.metrics[key] for key in alone.metrics}, nan_ok=True)

    events = EventAccumulator(tensorboard.log_dir, size_guidance={"images": 0}).Reload()
    logged = {f"fitb/{name}" for name in callback.history[-1]} - {"fitb/epoch", "fitb/step"}
    assert {"fitb/coverage", "fitb/progressive/coverage", "fitb/progressive/accuracy"} <= logged
    assert logged <= set(events.Tags()["scalars"])
    assert events.Scalars("fitb/progressive/coverage")[-1].value == pytest.approx(further.coverage)
    assert {"fitb/prototypes", "fitb/progressive/prototypes"} <= set(events.Tags()["images"])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(mlflow.run_id).data.metrics["fitb/progressive/coverage"] == pytest.approx(further.coverage)
    pictures = [file.path for file in client.list_artifacts(mlflow.run_id, "images") if file.path.endswith(".png")]
    assert len([path for path in pictures if "prototypes+" in path and "+step+0+" not in path]) == 2 * 2
    assert checkpoint.best_model_score == pytest.approx(
        max(entry["progressive/coverage"] for entry in callback.history)
    )


@pytest.mark.parametrize("masking", [(), ("random", "random"), ("random", "both")])
def test_callback_refuses_other_maskings(masking):
    with pytest.raises(ValueError, match="masking must be one"):
        FillInBlanksCallback(masking=masking)


def test_figures_show_every_step():
    model, images = linear(3, 7, 11), torch.rand(4, 3, 7, 11)
    labels = model(images).argmax(dim=1)
    random, progressive = (
        FillInBlanks(masking=masking, num_masks=8, num_steps=3).probe(model, images, labels)
        for masking in ("random", "progressive")
    )
    first, second = progressive.cells([0, 1])
    wide = progressive_figure(first)
    assert wide.dtype.name == "uint8"
    assert wide.shape[1] > wide.shape[0]  # four columns, three rows
    assert (progressive_figure(first) != progressive_figure(second)).any()
    assert fill_figure(random.cells([0])[0]).ndim == 3
    both = {"random": random.cells(), "progressive": progressive.cells()}
    assert comparison(both, updates=True).shape[0] > comparison(both).shape[0]
    with pytest.raises(ValueError, match="cell must be of masking="):
        progressive_figure(random.cells([0])[0])


RANK = """
import sys
import torch
import torch.distributed as dist
from fitb_callbacks import FillInBlanks

rank, world, rendezvous, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
images, labels = torch.rand(5, 1, 8, 8), torch.arange(5) % 3
FillInBlanks(masking="progressive", num_masks=8).probe(model, images, labels, share=(rank, world)).save(output)
if world > 1:
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_share_the_partitions_and_agree(tmp_path):
    """Two partitions over three processes, so that one has none; and all of it in a single process."""

    (tmp_path / "rank.py").write_text(RANK)

    def start(rank, world):
        return Warm(tmp_path / "rank.py", rank, world, tmp_path / "rendezvous", tmp_path / f"{world}-{rank}.npz")

    processes = [start(0, 1), *(start(rank, 3) for rank in range(3))]
    assert [process.wait(timeout=200).returncode for process in processes] == [0] * 4
    alone = FillInBlanksResult.load(tmp_path / "1-0.npz")
    for rank in range(3):
        ranks = FillInBlanksResult.load(tmp_path / f"3-{rank}.npz")
        assert torch.equal(ranks.steps, alone.steps)
        assert torch.equal(ranks.kept, alone.kept)
        torch.testing.assert_close(ranks.updates, alone.updates)
