"""Scripts that measure what this machine may lack are run small."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    yield gpu
    for name in ("gpu", "ascent_speed", "throughput", "throughput_models", "timing"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_it_says_so_and_writes_nothing(gpu, tmp_path, capsys):
    gpu.main(["--output", str(tmp_path / "gpu.md")])
    assert "No GPU was found" in capsys.readouterr().out
    assert not (tmp_path / "gpu.md").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_it_fills_every_cell_of_its_tables(gpu):
    tables = "\n".join(gpu.measure(torch.device("cpu"), gpu.TINY))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.splitlines() if "|" in line]
    by_name = {row[0]: row[1:] for row in rows}
    for case in gpu.TINY.cases:
        masked, bare, speed, share, whole, first, memory = by_name[f"{case.name}, {' x '.join(map(str, case.shape))}"]
        assert masked == "2 x 8"
        assert "chunks of 8" in bare
        assert all(float(cell.replace(",", "")) > 0 for cell in (speed, share, whole, first))
        assert memory == "not measured / not measured"
    assert float(by_name["small CNN"][2]) > 0
    assert re.fullmatch(r"[\d.]+%", by_name["256"][3])
    assert re.search(r"on CPU, torch \S+, 20\d\d-\d\d-\d\d\.", tables)


def test_every_picture_of_the_docs_is_drawn_by_a_script():
    images = BENCHMARKS.parent / "docs" / "images"
    scripts = {path.name: path.read_text(encoding="utf-8") for path in BENCHMARKS.glob("*.py")}
    drawn = set(re.findall(r"([\w-]+)\.png", "".join(scripts.values())))
    pictures = ("at-a-glance", "prototypes", "timeline", "confusion")
    runs = re.findall(r'"([\w-]+)": Run\(', scripts["gallery.py"])
    drawn |= {f"{run}-{picture}" for run in runs for picture in pictures}
    drawn |= {f"colour-{network}-timeline" for network in ("resnet", "vit")}  # of colour_training.py
    there = {path.stem for path in images.rglob("*.png")}
    assert len(there) > 20
    assert there <= drawn
