"""The judge of a training run: a module, or one that learns from trusted images or the first epoch's batches."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.data.batches import BatchAdapter, Reference, batches_of
from fitb_callbacks.scoring.judges import STREAMED_JUDGES, StreamedJudge
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.scoring.judges.module import ModuleJudge
from fitb_callbacks.utils.distributed import from_all
from fitb_callbacks.utils.nested import tensors_in

__all__ = ["RunJudge"]

_MOST_BATCHES = 1000

_MOST_BYTES = 7.5 * 10**6
"""What the judge may take in a checkpoint: a ridge judge of 1,000 classes does."""


class RunJudge:
    """The judge of a training run.

    Args:
        judge: "ridge" or "centroid" for one that learns from training batches, a trained module, a judge, or None. A
            `StreamedJudge` that has seen nothing yet learns as "ridge" does.
        reference: Trusted images to learn from, in place of the training batches.
        errors: Is told what the judge lacks.

    Raises:
        ValueError: If the judge is none of these, or a reference is given for one that does not learn.

    Example:
        >>> import torch
        >>> judge = RunJudge("ridge", None, ErrorPolicy("raise"))
        >>> judge.stream(torch.rand(6, 1, 4, 4), torch.arange(6) % 3, epoch=0)
        >>> judge.present(epoch=0).counts.tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, judge: str | nn.Module | Judge | None, reference: Reference | None, errors: ErrorPolicy) -> None:
        if not (
            judge is None
            or (isinstance(judge, str) and judge in STREAMED_JUDGES)
            or isinstance(judge, (nn.Module, Judge))
        ):
            raise ValueError(f"judge must be 'ridge', 'centroid', a torch.nn.Module, a Judge or None; got {judge!r}")
        if isinstance(judge, str):
            judge = STREAMED_JUDGES[judge]()
        learner = None
        if isinstance(judge, StreamedJudge) and judge.image_shape is None:
            judge = learner = copy.deepcopy(judge)  # each run begins with one that has seen nothing
        if reference is not None and learner is None:
            raise ValueError(
                f"reference needs judge='ridge', 'centroid' or a judge that learns from it; got judge={judge!r}"
            )
        if reference is not None:
            batches_of(reference, name="reference")
        self._reference, self._errors = reference, errors
        # One that does not learn any more, unless the reference is still to be read
        self._fixed: Judge | None = ModuleJudge(judge) if isinstance(judge, nn.Module) else judge
        # One that learns from the training batches, in the epoch in which it does
        self._streamed: StreamedJudge | None = None
        if learner is not None and reference is None:
            self._streamed, self._fixed = learner, None
        self._streamed_epoch: int | None = None
        self._batches = 0
        self._learns = True
        self._apart = self._streamed is not None  # each process has one that saw its own batches alone
        self._gathered: StreamedJudge | None = None  # the same of all processes, as of the last probe
        self._num_classes = 0

    def check(
        self,
        image_shape: tuple[int, ...],
        num_classes: int,
        *,
        depth: int | None = None,
        batch_adapter: BatchAdapter | None = None,
    ) -> None:
        """Read the reference, if there is one, and refuse what does not fit the model.

        Args:
            image_shape: ``(C, H, W)``.
            num_classes: Number of classes of the model.
            depth: Slices of a volume, which are its channels here; None for images.
            batch_adapter: As for `fitb_callbacks.data.batches.read_batch`.
        """
        if isinstance(self._fixed, StreamedJudge) and self._fixed.image_shape is None and self._reference is not None:
            self._fixed.read(
                self._reference, image_shape=image_shape, num_classes=num_classes, batch_adapter=batch_adapter
            )
        if self._fixed is not None:
            judge = self._fixed if depth is None else self._fixed.of_volumes(depth)
            judge.check(image_shape, num_classes)
        self._num_classes = num_classes

    def wants_batches(self, epoch: int) -> bool:
        """Whether the judge learns from training batches of this epoch: the first one, at most 1,000 batches of it."""
        if self._streamed is None or self._batches >= _MOST_BATCHES or not self._learns:
            return False
        return self._streamed_epoch is None or self._streamed_epoch == epoch

    def stream(self, images: Tensor, labels: Tensor, *, epoch: int) -> None:
        """Let the judge learn from a training batch: images ``(B, C, H, W)``, labels ``(B,)``."""
        if self._streamed is not None and self.wants_batches(epoch):
            self._streamed_epoch, self._batches = epoch, self._batches + 1
            self._streamed.update(images, labels)
            self._learns = self._streamed.learns_from_more(self._num_classes)  # once, as asking makes a GPU wait

    def give_up(self) -> None:
        """Do without a judge for the rest of this run."""
        self._fixed = self._streamed = self._reference = None

    def epoch_ends(self, epoch: int) -> None:
        """After the epoch in which the judge learns, join what all processes have. Every process must call this."""
        if self._apart and (streamed := self._agreed()) is not None and self._streamed_epoch is not None:
            self._apart = False
            self._streamed = streamed.gathered() if self._streamed_epoch == epoch else streamed

    def present(self, epoch: int) -> Judge | None:
        """The judge as it is now, the same on every process, each of which must call this; None if there is none."""
        if self._apart:
            self._agreed()
        if self._streamed is None:
            return self._fixed
        complete = self._streamed_epoch is not None and self._streamed_epoch < epoch
        judge = self._streamed.gathered() if self._apart and not complete else self._streamed
        if judge.image_shape is None:
            self._errors.warn_once("judge", "the judge has seen no training batch, so there is none")
            return None
        if absent := judge.absent_classes(self._num_classes):
            named = ", ".join(map(str, absent[:20])) + (" and more" if len(absent) > 20 else "")
            self._errors.warn_once(
                "absent", f"the training batches hold no image of class {named}: the judge never sees it"
            )
        self._gathered = judge
        return judge

    def _agreed(self) -> StreamedJudge | None:
        """The judge that learns, unless a process has given its own up; and all have it learn in the same epoch."""
        states = from_all((self._streamed is not None, self._streamed_epoch))
        if not all(has_one for has_one, _ in states):
            self.give_up()
            self._apart = False
        # A process may have found no batch that it could read
        self._streamed_epoch = min((epoch for _, epoch in states if epoch is not None), default=None)
        return self._streamed

    @property
    def last(self) -> Judge | None:
        """The judge of the last probe."""
        return self._fixed if self._streamed is None else self._gathered

    @property
    def in_words(self) -> str | None:
        """Describe the judge in a few words."""
        judge = self._fixed or self._streamed
        if judge is None or not isinstance(judge, StreamedJudge):
            return None if judge is None else judge.name
        if self._streamed is None and self._reference is None:
            return judge.name
        return f"{judge.name} on {'training' if self._reference is None else 'trusted'} images"

    def state_dict(self) -> dict[str, Any]:
        """What the judge has learned from the training batches of all processes, as tensors and primitives.

        A judge of very many classes is left out, and learns anew after a resume.
        """
        state = None if self._streamed is None else (self._gathered or self._streamed).state_dict()
        if sum(tensor.nbytes for _, tensor in tensors_in(state)) > _MOST_BYTES:
            state = None
        return {"streamed": state, "streamed_epoch": self._streamed_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same judge; reads what `state_dict` gave, and passes over other keys."""
        if self._streamed is None or state_dict["streamed_epoch"] is None:
            return
        if state_dict["streamed"] is None:
            self._errors.warn_once(
                "judge state",
                f"the checkpoint holds no judge, as it would take over {_MOST_BYTES / 1e6:g} MB: it learns anew, so "
                "judged scores before and after do not compare exactly",
            )
            return
        self._streamed.load_state_dict(state_dict["streamed"])
        self._streamed_epoch = state_dict["streamed_epoch"]
