"""Every picture in the docs but plots of measurements, drawn again by one command.

    apt install chromium dataset-fashion-mnist fonts-noto-color-emoji
    OMP_NUM_THREADS=1 python benchmarks/pictures.py                 # about an hour on one core
    OMP_NUM_THREADS=1 python benchmarks/pictures.py --only gallery  # some of them

Each step runs a command as a user would, and keeps its last pictures in ``docs/images``. Then look at every picture,
and correct what the pages say of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

DOCS = Path("docs/images")
WORK = Path("benchmarks/.cache/pictures")


def run(*command: str | Path) -> None:
    """Run ``python command``, and end if it fails."""
    print("$ python", *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True)


def keep(source: Path, name: str) -> None:
    """Keep a picture in 256 colours, which halves the file and cannot be told from the original."""
    Image.open(source).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)
    print(DOCS / name, flush=True)


def demo() -> None:
    """The first run of the docs, and dashboards that show it."""
    folder = WORK / "demo"
    run("-m", "fitb_callbacks", "demo", "--output", folder, "--tracking-uri", f"sqlite:///{folder.resolve()}/mlflow.db")
    keep(folder / "mnist.png", "demo.png")
    run("benchmarks/screenshots.py", folder)


def gallery() -> None:
    """Small networks with and without a mark, many classes, and one that is not trained."""
    run("benchmarks/gallery.py", "--output", DOCS / "gallery")


def shortcut() -> None:
    """The healthy network and the one that goes by a mark, side by side."""
    run("examples/shortcut.py", "--output", WORK / "shortcut")
    keep(WORK / "shortcut" / "shortcut.png", "shortcut.png")


def photographs() -> None:
    """EfficientNet-Lite0 on four photographs."""
    run("-m", "fitb_callbacks", "demo", "--data", "photos", "--output", WORK / "photos")
    keep(WORK / "photos" / "photos.png", "gallery/photographs.png")


def colour() -> None:
    """A residual network and a vision transformer on colour pictures, over training."""
    run("benchmarks/colour_training.py")
    for network in ("resnet", "vit"):
        last = max(Path("benchmarks/.cache/colour_training", network, "fitb/timeline").glob("*.png"))
        keep(last, f"gallery/colour-{network}-timeline.png")


STEPS: dict[str, Callable[[], None]] = {step.__name__: step for step in (demo, gallery, shortcut, photographs, colour)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    for name in parser.parse_args().only:
        STEPS[name]()


if __name__ == "__main__":
    main()
