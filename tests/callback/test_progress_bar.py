"""A probe's progress: in the Trainer's own bar on a real terminal, and nowhere else."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fitb_callbacks import FillInBlanks
from fitb_callbacks.cli.console import work_bar

COMMAND = [sys.executable, Path(__file__).parents[1] / "helpers" / "bars_run.py"]


def by_bar(written):
    """What was written while each of the bars was on."""
    parts = re.split(r"### ([a-z ]+):", written)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.slow
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
        assert "/40960" in shown[bar], bar  # 20 images under 2,048 masks
    for bar in ("tqdm off", "none"):
        assert "Probing" not in shown[bar], bar


@pytest.mark.slow
def test_no_line_where_the_output_is_no_terminal():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=250, check=True)
    assert set(by_bar(done.stdout)) == {"tqdm", "tqdm off", "rich", "rich leave", "none"}
    assert "Probing" not in done.stdout + done.stderr


@pytest.mark.parametrize("masking", ["random", "progressive"])
def test_the_probe_reports_every_masked_image_once(trained, probe_images, masking):
    reports = []
    probe = FillInBlanks(masking=masking, num_masks=512, tolerance=None, chunk_size=50)
    shown = probe.probe(trained, *probe_images, progress=lambda done, total: reports.append((done, total)))
    done, totals = zip(*reports, strict=True)
    assert len(done) > 1
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]} == {30 * (512 if masking == "random" else 128)}
    assert torch.equal(shown.updates, probe.probe(trained, *probe_images).updates)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_of_a_command_shows_rate_and_time_left(terminal):
    output = io.StringIO()
    with work_bar(Console(file=output, force_terminal=terminal, width=100), "Probing", "masked images") as show:
        show.step("Probing both")
        for done in (*range(0, 201, 40), *range(0, 101, 20)):  # twice, as for two models
            show(done, 200)
            time.sleep(0.12)
        show.step("Writing")
        time.sleep(0.12)
    if terminal:
        assert "Probing both" in output.getvalue()
        assert "/200" not in output.getvalue().split("Writing", 1)[1]
        assert re.search(r"100/200 [\d,]+ masked images/s 00:0\d", re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue()))
    else:
        assert "Probing" not in output.getvalue()
