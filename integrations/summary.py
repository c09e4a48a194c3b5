"""What one probe found, as a few lines of Markdown: for run pages that show text."""

from __future__ import annotations

from fitb_callbacks.integrations.record import Record
from fitb_callbacks.scoring.catalogue import DECIDING, KEY_METRICS, METRICS

__all__ = ["ADVICE", "SIGNS", "facts_line", "judge_line", "probed_line", "summary_lines"]

SIGNS = {"good": "✓", "bad": "✗", "unclear": "?"}
"""What stands before a verdict, by its tone."""

ADVICE = {
    "good": "Next: compare it with another model of the same data (fitb report A B), or let fitb check decide.",
    "bad": "Next: open the worst class and look at where its maps are orange. If that is not the object, change the "
    "data, not the model.",
    "unclear": "Next: see to what the headline says; until then, the pictures say more than the numbers.",
}
"""What to do now, by the tone of the verdict."""

_MOST_SCORES = 5


def summary_lines(record: Record) -> list[str]:
    """The verdict, what to do now, the deciding scores with what they mean, and what was probed.

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
    verdict, scores = record["verdict"], record["scores"]
    lines = [f"**{SIGNS[verdict['tone']]} {verdict['headline']}** {verdict['reason']} {ADVICE[verdict['tone']]}", ""]
    lines += [judge_line(record), ""]
    lines += ["| score | value | 95% interval |", "| --- | --- | --- |"]
    if record["validation"] is not None:
        name, value = record["validation"]
        lines.append(f"| {name.replace('|', ' ')} of the training | {value:.2f} | |")
    names = [name for name in KEY_METRICS if scores.get(name) is not None][:_MOST_SCORES]
    lines += [f"| {name} | {scores[name]:.2f} | {_interval(record, name)} |" for name in names]
    lines += ["", *(f"- {name} (chance: {METRICS[name].chance}): {METRICS[name].meaning}." for name in names)]
    return [*lines, "", probed_line(record)]


def facts_line(record: Record) -> str:
    """The deciding scores with their intervals, in a line.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.integrations.record import make_record
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> record = make_record(result, validation=("val_acc", 0.4))
        >>> record["scores"] |= {"knows": 0.9, "shortcut": None, "structure": 0.9}
        >>> facts_line(record).partition(", coverage")[0]
        'structure 0.90, knows 0.90'
    """
    scores, facts = record["scores"], []
    for name in DECIDING:
        if scores.get(name) is not None:
            interval = _interval(record, name)
            facts.append(f"{name} {scores[name]:.2f}" + (f" ({interval})" if interval else ""))
    if record["validation"] is not None:
        name, value = record["validation"]
        facts.append(f"{name} {value:.2f}")
    return ", ".join(facts)


def judge_line(record: Record) -> str:
    """Whether the judge is able, and against what chance, in a line.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.integrations.record import make_record
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> judge_line(make_record(result))
        'There is no judge: only the model itself was asked.'
    """
    ceiling, noise = record["scores"].get("judge_ceiling"), record["scores"].get("null_accuracy")
    if ceiling is None:
        return "There is no judge: only the model itself was asked."
    of_noise = "" if noise is None else f" and {noise:.0%} of noise"
    chance = 1 / record["settings"]["num_classes"]
    return f"The judge recognises {ceiling:.0%} of the images themselves{of_noise}; chance is {chance:.0%}."


def probed_line(record: Record) -> str:
    """What was probed, in a line."""
    return (
        f"Epoch {record['epoch']}, {record['images']} probe images of {len(record['classes'])} classes, "
        f"{record['settings']['masking']} masks."
    )


def _interval(record: Record, name: str) -> str:
    return " to ".join(f"{end:.2f}" for end in record["intervals"].get(name, ()) if end is not None)
