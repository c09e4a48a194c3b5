"""What a Trainer's set-up means for the callback, before anything runs."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

__all__ = ["check_package", "check_strategy", "weights_probed"]


def check_package(trainer: Trainer) -> None:
    """Raise TypeError for a Trainer of the old package, whose classes are other ones."""
    package = type(trainer).__module__.split(".")[0]
    if package == "pytorch_lightning":
        raise TypeError(
            f"FillInBlanksCallback needs a lightning.pytorch.Trainer; got that of {package}. "
            "Import Trainer, LightningModule and loggers from lightning.pytorch: it is the same code"
        )


def check_strategy(trainer: Trainer) -> None:
    """Raise ValueError for a strategy under which no process has the whole model.

    Example:
        >>> check_strategy(Trainer(logger=False, accelerator="cpu"))
    """
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
        raise ValueError(  # noqa: TRY004 - the strategy's type is the value here
            f"FillInBlanksCallback does not work with {type(trainer.strategy).__name__}, which splits the model's "
            "parameters over processes. Train with it without the callback, then probe a consolidated checkpoint "
            "with fitb_callbacks.FillInBlanks().probe(model, images, labels)"
        )


def weights_probed(trainer: Trainer, probing: Callback) -> str | None:
    """Which weights are probed where another callback swaps averaged ones in for validation, in a sentence.

    Example:
        >>> trainer = Trainer(callbacks=[probing := Callback()], logger=False, accelerator="cpu")
        >>> weights_probed(trainer, probing) is None  # no callback does that
        True
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if any(base.__name__ == "WeightAveraging" for base in type(callback).__mro__):  # Lightning 2.6 and later
            first = callbacks.index(probing) < callbacks.index(callback)
            kind = type(callback).__name__
            return (
                f"where an epoch ends with validation, the {'averaged' if first else 'current, not averaged,'} weights "
                f"are probed, because this callback stands {'before' if first else 'after'} {kind} in the Trainer's "
                "callbacks. Without validation it is always the current weights"
            )
    return None
