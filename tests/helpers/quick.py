"""What nearly every test needs: a quiet Trainer, a quick callback, the command line."""

from pathlib import Path

from lightning.pytorch import Trainer
from typer.testing import CliRunner, Result

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.cli import app


def quiet_trainer(folder, **options):
    """A Trainer on one CPU that writes nothing, but for what the options say."""
    quiet = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(**quiet | options)


def quick_callback(**options):
    """A callback with few masks, whose errors end the training, and which takes the time that it needs."""
    quick = {"num_masks": 8, "images_per_class": 2, "on_error": "raise", "max_overhead": None}
    return FillInBlanksCallback(**quick | options)


def probed_epochs(callback):
    return [int(entry["epoch"]) for entry in callback.history]


def fitb(*arguments: str | Path | float) -> Result:
    """Run the command in this process, which is quicker than in one of its own; an error of ours is an error here."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
