"""Memory and clocks of devices."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from fitb_callbacks.utils.devices import keep_freed_memory
keep_freed_memory(torch.device("cpu"))
def chunk():
    blocks = [torch.zeros(2**19) for _ in range(8)]  # 2 MiB each
    del blocks
chunk()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    chunk()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory in this way")
def test_freed_memory_is_kept_for_the_next_chunk():
    # Without it, two processes of three get new pages for every block; it depends on where their heaps happen to lie.
    for _ in range(4):
        run = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
        assert int(run.stdout) < 0.05 * 50 * 8 * 2**21 / 4096
