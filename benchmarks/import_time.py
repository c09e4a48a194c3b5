"""What ``import fitb_callbacks`` adds to ``import lightning.pytorch``.

python benchmarks/import_time.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

ROUNDS = 7


def cpu_seconds(code: str) -> float:
    """CPU seconds of a new interpreter that runs some code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    lightning = "import lightning.pytorch"
    pairs = [
        (
            cpu_seconds(lightning),
            cpu_seconds(f"{lightning}; import fitb_callbacks; fitb_callbacks.FillInBlanksCallback"),
        )
        for _ in range(ROUNDS + 1)
    ][1:]
    added = statistics.median(both - alone for alone, both in pairs)
    alone = statistics.median(alone for alone, _ in pairs)
    print(f"import lightning.pytorch: {alone:.2f} s; fitb_callbacks with its callback adds {added:.2f} s")


if __name__ == "__main__":
    main()
