"""What one probe found, as a few lines of Markdown: for run pages that show text."""

from __future__ import annotations

from fitb_callbacks.integrations.record import Record
from fitb_callbacks.scoring.catalogue import KEY_METRICS

__all__ = ["SIGNS", "summary_lines"]

SIGNS = {"good": "✓", "bad": "✗", "unclear": "?"}
"""What stands before a verdict, by its tone."""

_MOST_SCORES = 5


def summary_lines(record: Record) -> list[str]:
    """The verdict, the deciding scores with their intervals, and what was probed.

    Args:
        record: Of the probe.

    Returns:
        Lines of Markdown, without HTML; class names do not occur in them.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.integrations.record import make_record
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> lines = summary_lines(make_record(result, epoch=3))
        >>> lines[-1]
        'Epoch 3, 5 probe images of 3 classes, random masks.'
    """
    verdict, scores, intervals = record["verdict"], record["scores"], record["intervals"]
    lines = [f"**{SIGNS[verdict['tone']]} {verdict['headline']}** {verdict['reason']}", ""]
    lines += ["| score | value | 95% interval |", "| --- | --- | --- |"]
    if record["validation"] is not None:
        name, value = record["validation"]
        lines.append(f"| {name.replace('|', ' ')} of the training | {value:.2f} | |")
    names = [name for name in KEY_METRICS if scores.get(name) is not None]
    for name in names[:_MOST_SCORES]:
        ends = [end for end in intervals.get(name, ()) if end is not None]
        lines.append(f"| {name} | {scores[name]:.2f} | {' to '.join(f'{end:.2f}' for end in ends)} |")
    lines += [
        "",
        f"Epoch {record['epoch']}, {record['images']} probe images of {len(record['classes'])} classes, "
        f"{record['settings']['masking']} masks.",
    ]
    return lines
