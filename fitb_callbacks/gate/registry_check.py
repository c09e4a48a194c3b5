"""What a check of a registered model is asked for, and what comes of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fitb_callbacks.gate.own_training import OwnTraining
from fitb_callbacks.gate.verdict import ModelCheck
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.utils.imports import import_from_string

__all__ = ["CouldNotCheckError", "Loading", "Promotion", "RegistryCheck", "TrainingScores", "Waiver"]


class CouldNotCheckError(Exception):
    """There is no verdict, or it could not be recorded: the server is away, for example."""


@dataclass(frozen=True)
class Loading:
    """How models are loaded.

    Attributes:
        class_path: A checkpoint's class, as ``package.module:Class``.
        allow_pickle: Whether a model may be a pickle. Loading one runs whatever code is in it.
        logits: Function of a model and images ``(B, C, H, W)`` that returns the logits ``(B, classes)``, as
            ``package.module:function``; None where the probe finds them by itself.
        device: Where models run, as torch names it.
    """

    class_path: str | None = None
    allow_pickle: bool = False
    logits: str | None = None
    device: str = "cpu"

    @property
    def logits_fn(self) -> LogitsFn | None:
        """The function itself."""
        if self.logits is None:
            return None
        function: LogitsFn = import_from_string(self.logits, argument="--logits")
        return function


@dataclass(frozen=True)
class Waiver:
    """A person's decision to let a refused model through.

    Attributes:
        name: Who decided.
        reason: Why.
    """

    name: str
    reason: str

    def __post_init__(self) -> None:
        for key in ("name", "reason"):
            if not getattr(self, key).strip():
                raise ValueError(f"a waiver must have a {key}: --waive NAME --reason TEXT")


@dataclass(frozen=True)
class Promotion:
    """What to do with a model that passes.

    Attributes:
        alias: Alias that shall point to its version; None for none.
        waiver: Lets a refused model through, too.
        dry_run: Whether to write nothing.
    """

    alias: str | None = None
    waiver: Waiver | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        alias = self.alias
        if alias is not None and (
            not re.fullmatch(r"[\w\-]{1,255}", alias) or alias == "latest" or re.fullmatch(r"[vV]\d+", alias)
        ):
            raise ValueError(
                f"an alias must be of letters, digits, _ and -, and neither 'latest' nor like 'v1'; got {alias!r}"
            )


@dataclass(frozen=True)
class TrainingScores:
    """What the callback found in training.

    Attributes:
        scores: Score to value, those that can be compared with the check's; empty if none can.
        differs: Why they cannot be compared, empty if they can.
    """

    scores: Mapping[str, float]
    differs: str


@dataclass(frozen=True, eq=False)
class RegistryCheck:
    """The verdict on a registered model, and where it is recorded.

    Attributes:
        model: Address of the model, with its version.
        champion: Address of the champion's version; None without one.
        check: The verdict.
        data: Where the images are from.
        judge: Who judged the prototypes, in words; None if nobody did.
        training: What training saw; None if its run has no record of a probe.
        own_training: What the candidate's training run has to say against it; None if it has no such run.
        skipped: Rules that could not be applied, since there is no champion yet.
        provenance: On what and by whom it was checked; see `fitb_callbacks.gate.evidence.provenance`.
        waiver: Who let a refused model through; None if nobody did.
        run_id: The MLflow run that holds the evidence; None if nothing was written.
        page: Where the server's pages show that run; None likewise.
        digest: SHA-256 of the evidence's ``SHA256SUMS``; None likewise.
        promoted: Alias that was moved (in a dry run: that would have been); None if it was not.
        promoted_from: Version that it pointed to before; None if there was none.
    """

    model: str
    champion: str | None
    check: ModelCheck
    data: str = ""
    judge: str | None = None
    training: TrainingScores | None = None
    own_training: OwnTraining | None = None
    skipped: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    waiver: Waiver | None = None
    run_id: str | None = None
    page: str | None = None
    digest: str | None = None
    promoted: str | None = None
    promoted_from: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the model is let through: every rule passes, or someone waived them."""
        return self.verdict in ("passed", "waived")

    @property
    def verdict(self) -> str:
        """In a word: "passed", "refused", "open" if these images cannot tell, or "waived"."""
        return "waived" if self.waiver is not None and not self.check.passed else self.check.verdict

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON types."""
        return {
            "model": self.model,
            "champion": self.champion,
            **self.check.as_dict(),
            "verdict": self.verdict,
            "skipped": list(self.skipped),
            "judge": self.judge,
            "training": None if self.training is None else dataclasses.asdict(self.training),
            "own_training": None if self.own_training is None else dataclasses.asdict(self.own_training),
            "waiver": None if self.waiver is None else dataclasses.asdict(self.waiver),
            "provenance": dict(self.provenance),
            "run_id": self.run_id,
            "digest": self.digest,
            "promoted": self.promoted,
            "promoted_from": self.promoted_from,
        }
