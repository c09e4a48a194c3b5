"""Classify prototypes in the model's place: one module per judge, one base class."""

from __future__ import annotations

from typing import Any

from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from fitb_callbacks.scoring.judges.ridge import RidgeJudge
from fitb_callbacks.scoring.judges.streamed import StreamedJudge

__all__ = ["STREAMED_JUDGES", "CentroidJudge", "RidgeJudge", "StreamedJudge", "judge_from_state"]

STREAMED_JUDGES: dict[str, type[StreamedJudge]] = {"ridge": RidgeJudge, "centroid": CentroidJudge}
"""Judges that learn from batches as they pass by, by the name that a setting gives them."""


def judge_from_state(state: dict[str, Any]) -> StreamedJudge:
    """Make the judge that a `StreamedJudge.state_dict` came from.

    Args:
        state: As `StreamedJudge.state_dict` returned it; of a `RidgeJudge` without a feature module.

    Example:
        >>> import torch
        >>> judge = CentroidJudge()
        >>> judge.update(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
        >>> judge_from_state(judge.state_dict()).counts.tolist()
        [1.0, 1.0]
    """
    judge: StreamedJudge = CentroidJudge() if "means" in state else RidgeJudge()
    judge.load_state_dict(state)
    return judge
