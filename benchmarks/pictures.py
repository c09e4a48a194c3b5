"""Every picture in the docs but plots of measurements, drawn again by one command.

    apt install chromium dataset-fashion-mnist fonts-noto-color-emoji
    OMP_NUM_THREADS=1 python benchmarks/pictures.py                 # about an hour on one core
    OMP_NUM_THREADS=1 python benchmarks/pictures.py --only gallery  # some of them

Each step runs a command as a user would, and keeps its last pictures in ``--output``. Then look at every picture,
and correct what the pages say of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

WORK = Path("benchmarks/.cache/pictures")


def run(script: str, *arguments: str | Path) -> None:
    """Run a script of this repository, or ``fitb``, and end if it fails."""
    print("$", script, *arguments, flush=True)
    # As a command of its own: MLflow would show the branch of a script in a repository
    command = [Path(sys.executable).with_name("fitb")] if script == "fitb" else [sys.executable, script]
    subprocess.run([*map(str, command), *map(str, arguments)], check=True)


def keep(source: Path, path: Path) -> None:
    """Keep a picture in 256 colours, which halves the file and looks the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(source).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, flush=True)


def demo(output: Path) -> None:
    """The first run of the docs, and dashboards that show it."""
    folder = WORK / "demo"
    run("fitb", "demo", "--output", folder, "--tracking-uri", f"sqlite:///{folder.resolve()}/mlflow.db")
    keep(folder / "mnist.png", output / "demo.png")
    run("benchmarks/screenshots.py", folder, "--output", output)


def gallery(output: Path) -> None:
    """Small networks with and without a mark, many classes, and one that is not trained."""
    run("benchmarks/gallery.py", "--output", output / "gallery")


def shortcut(output: Path) -> None:
    """The healthy network and the one that goes by a mark, side by side."""
    run("examples/shortcut.py", "--output", WORK / "shortcut")
    keep(WORK / "shortcut" / "shortcut.png", output / "shortcut.png")


def photographs(output: Path) -> None:
    """EfficientNet-Lite0 on four photographs."""
    run("fitb", "demo", "--data", "photos", "--output", WORK / "photos")
    keep(WORK / "photos" / "photos.png", output / "gallery/photographs.png")


def colour(output: Path) -> None:
    """A residual network and a vision transformer on colour pictures, over training."""
    run("benchmarks/colour_training.py")
    for network in ("resnet", "vit"):
        last = max(Path("benchmarks/.cache/colour_training", network, "fitb/timeline").glob("*.png"))
        keep(last, output / f"gallery/colour-{network}-timeline.png")


STEPS: dict[str, Callable[[Path], None]] = {
    step.__name__: step for step in (demo, gallery, shortcut, photographs, colour)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    for name in arguments.only:
        STEPS[name](arguments.output)


if __name__ == "__main__":
    main()
