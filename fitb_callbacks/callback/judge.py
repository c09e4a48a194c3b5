"""The judge of a training run: a module, class means of trusted images, or those of the first epoch's batches."""

from __future__ import annotations

from typing import Any

from torch import nn

from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.data.batches import BatchAdapter, Reference, read_batch
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from fitb_callbacks.scoring.judges.module import ModuleJudge

__all__ = ["RunJudge"]


class RunJudge:
    """The judge of a training run.

    Args:
        judge: "centroid" for class means, a trained module, or None for no judge.
        reference: Trusted images for the class means, in place of the training batches.
        errors: Is told what the judge lacks.

    Raises:
        ValueError: If the judge is none of these, or a reference is given for another one than class means.

    Example:
        >>> import torch
        >>> judge = RunJudge("centroid", None, ErrorPolicy("raise"))
        >>> judge.stream((torch.rand(6, 1, 4, 4), torch.arange(6) % 3), epoch=0)
        >>> judge.present(epoch=0).counts.tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, judge: str | nn.Module | None, reference: Reference | None, errors: ErrorPolicy) -> None:
        if not (judge is None or judge == "centroid" or isinstance(judge, nn.Module)):
            raise ValueError(f"judge must be 'centroid', a torch.nn.Module or None; got {judge!r}")
        if reference is not None and judge != "centroid":
            raise ValueError(f"reference needs judge='centroid', whose class means it gives; got judge={judge!r}")
        self._judge, self._reference, self._errors = judge, reference, errors
        self._fixed: Judge | None = ModuleJudge(judge) if isinstance(judge, nn.Module) else None
        # Class means that the training batches give, in the epoch in which they do
        self._streamed = CentroidJudge() if judge == "centroid" and reference is None else None
        self._streamed_epoch: int | None = None
        self._gathered: CentroidJudge | None = None  # the same of all processes, as of the last probe
        self._num_classes = 0

    def check(
        self, image_shape: tuple[int, ...], num_classes: int, *, batch_adapter: BatchAdapter | None = None
    ) -> None:
        """Read the reference, if there is one, and refuse what does not fit the model.

        Args:
            image_shape: ``(C, H, W)``.
            num_classes: Number of classes of the model.
            batch_adapter: As for `fitb_callbacks.data.batches.read_batch`.
        """
        if self._reference is not None and self._fixed is None:
            self._fixed = CentroidJudge.from_reference(
                self._reference, image_shape=image_shape, num_classes=num_classes, batch_adapter=batch_adapter
            )
        if self._fixed is not None:
            self._fixed.check(image_shape, num_classes)
        self._num_classes = num_classes

    def stream(self, batch: Any, *, epoch: int, batch_adapter: BatchAdapter | None = None) -> None:
        """Let a training batch go into the class means; only those of the first epoch seen do."""
        if self._streamed is None:
            return
        if self._streamed_epoch is None:
            self._streamed_epoch = epoch
        if self._streamed_epoch != epoch:
            return
        with self._errors.survive("stream", "a training batch was left out of the class means"):
            self._streamed.update(*read_batch(batch, batch_adapter))

    def epoch_ends(self, epoch: int) -> None:
        """After the epoch that gave the class means, join those of all processes. Every process must call this."""
        if self._streamed is not None and self._streamed_epoch == epoch:
            self._streamed = self._streamed.gathered()

    def present(self, epoch: int) -> Judge | None:
        """The judge as it is now, the same on every process, each of which must call this; None if there is none."""
        if self._streamed is None:
            return self._fixed
        complete = self._streamed_epoch is not None and self._streamed_epoch < epoch
        judge = self._streamed if complete else self._streamed.gathered()
        if judge.image_shape is None:
            self._errors.warn_once("judge", "no training batch has given class means, so there is no judge")
            return None
        if absent := judge.absent_classes(self._num_classes):
            named = ", ".join(map(str, absent[:20])) + (" and more" if len(absent) > 20 else "")
            self._errors.warn_once(
                "absent", f"the training batches hold no image of class {named}: the judge never sees it"
            )
        self._gathered = judge
        return judge

    @property
    def last(self) -> Judge | None:
        """The judge of the last probe."""
        return self._fixed if self._streamed is None else self._gathered

    @property
    def in_words(self) -> str | None:
        """What the judge is, for people."""
        if isinstance(self._judge, nn.Module):
            return f"the module {type(self._judge).__name__}"
        source = "training images" if self._reference is None else "trusted images"
        return None if self._judge is None else f"class means of {source}"

    def state_dict(self) -> dict[str, Any]:
        """The streamed class means of all processes, as tensors and primitives."""
        return {
            "streamed": None if self._streamed is None else (self._gathered or self._streamed).state_dict(),
            "streamed_epoch": self._streamed_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same class means; reads what `state_dict` gave, and passes over other keys."""
        if self._streamed is not None and state_dict["streamed"] is not None:
            self._streamed.load_state_dict(state_dict["streamed"])
            self._streamed_epoch = state_dict["streamed_epoch"]
