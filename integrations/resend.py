"""Upload what was logged while an MLflow server could not be reached."""

from __future__ import annotations

from pathlib import Path

from fitb_callbacks.integrations.mlflow.sink import deliver
from fitb_callbacks.integrations.outbox import Outbox

__all__ = ["resend"]


def resend(folder: Path) -> tuple[int, dict[Path, Exception]]:
    """Upload everything that waits in a folder of outboxes.

    Args:
        folder: What `outbox_folder` was.

    Returns:
        Number of parcels that were delivered, and the first error of each run whose parcels were not.
    """
    sent, failures = 0, {}
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        box = Outbox(run, deliver, background=False)
        before = len(box.waiting())
        try:
            box.deliver_all()
        except Exception as error:  # noqa: BLE001 - reported, and other runs may still be sent
            failures[run] = error
        sent += before - len(box.waiting())
    return sent, failures
