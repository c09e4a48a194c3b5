"""A probe's progress: in the Trainer's own bar on a real terminal, and nowhere else."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch

from fitb_callbacks import FillInBlanks

COMMAND = [sys.executable, Path(__file__).with_name("bars_run.py")]


def by_bar(written):
    """What was written while each of the bars was on."""
    parts = re.split(r"### ([a-z ]+):", written)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_line_in_the_trainers_bar_on_a_terminal():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 160, 0, 0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    process = subprocess.Popen(COMMAND, env=environment, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        written += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, written.decode()
    shown = by_bar(written.decode())
    for bar in ("tqdm", "rich", "rich leave"):
        assert "Probing" in shown[bar], bar
        assert "/10240" in shown[bar], bar  # 20 images under 512 masks
    for bar in ("tqdm off", "none"):
        assert "Probing" not in shown[bar], bar


def test_no_line_where_the_output_is_no_terminal():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=250, check=True)
    assert set(by_bar(done.stdout)) == {"tqdm", "tqdm off", "rich", "rich leave", "none"}
    assert "Probing" not in done.stdout + done.stderr


@pytest.mark.parametrize("masking", ["random", "progressive"])
def test_the_probe_reports_every_masked_image_once(trained, probe_images, masking):
    reports = []
    probe = FillInBlanks(masking=masking, num_masks=16, chunk_size=50)
    shown = probe.probe(trained, *probe_images, progress=lambda done, total: reports.append((done, total)))
    done, totals = zip(*reports, strict=True)
    assert len(done) > 3
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]} == {30 * (16 if masking == "random" else 4)}
    assert torch.equal(shown.updates, probe.probe(trained, *probe_images).updates)
