"""The probe of this tree against that of another, an older commit's for example, taken in turn in one run.

    git worktree add /tmp/before <commit>
    OMP_NUM_THREADS=1 python benchmarks/against.py /tmp/before

Each tree's probe runs in a process of its own; both take the same model, images, labels, masks and settings. The
seconds are CPU seconds of one probe in chunks of 128, so that a search for a better size plays no part. A tree that
also finds out what the model relies on is measured a second time without that: so the parts that both trees have are
compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIZES = {  # images, masks
    "small CNN, 1 x 28 x 28": [(40, 256), (8, 512)],
    "ResNet-18, 3 x 64 x 64": [(4, 256)],
    "small ViT, 3 x 32 x 32": [(4, 256)],
}


class Probe:
    """One tree's probe in a process of its own."""

    def __init__(self, tree: Path, name: str, num_images: int, num_masks: int) -> None:
        command = [sys.executable, __file__, "--serve", name, str(num_images), str(num_masks)]
        paths = os.pathsep.join([str(tree), str(HERE)])
        self.process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.ask, self.answers = self.process.stdin, self.process.stdout
        self.plan = self.answers.readline().strip()

    def seconds(self, what: str) -> float:
        """CPU seconds of one more probe: of the whole of it, or of the updates, means and prototypes alone."""
        print(what, file=self.ask, flush=True)
        return float(self.answers.readline())

    def close(self) -> None:
        """End the process."""
        self.ask.close()
        self.process.wait()


def serve(name: str, num_images: int, num_masks: int) -> None:
    """Run a probe for each line of standard input, and print its CPU seconds."""
    from throughput_models import build
    from timing import cpu_seconds, without_reliance

    from fitb_callbacks import FillInBlanks

    model, images, labels = build(name, num_images)
    fixed = {"num_masks": num_masks, "tolerance": None, "baseline": 0.0, "chunk_size": 128}
    known = {key: value for key, value in fixed.items() if hasattr(FillInBlanks, key)}
    if hasattr(FillInBlanks, "fill"):
        known["fill"] = None  # what the older tree does not have
    probe = FillInBlanks(**known)
    for _ in range(2):  # the first ones load kernels
        probe.probe(model, images, labels)
    print(FillInBlanks.__module__, flush=True)
    for line in sys.stdin:
        with without_reliance() if line == "updates\n" else nullcontext():
            print(cpu_seconds(lambda: probe.probe(model, images, labels)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, nargs="?", help="a checkout of the other commit")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", default="", help="part of a model's name")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        name, num_images, num_masks = arguments.serve
        serve(name, int(num_images), int(num_masks))
        return
    for name in (name for name in SIZES if arguments.only in name):
        for num_images, num_masks in SIZES[name]:
            before, after = (Probe(tree, name, num_images, num_masks) for tree in (arguments.tree, HERE.parent))
            for what in ("updates", "whole"):
                taken = [(before.seconds(what), after.seconds(what)) for _ in range(arguments.pairs)]
                old, new = (statistics.median(side) for side in zip(*taken, strict=True))
                ratio = statistics.median(old / new for old, new in taken)
                print(
                    f"{name}, {num_images} images x {num_masks} masks, {what}: before {old:.3f} s, after {new:.3f} s, "
                    f"before/after {ratio:.2f}",
                    flush=True,
                )
            before.close()
            after.close()


if __name__ == "__main__":
    main()
