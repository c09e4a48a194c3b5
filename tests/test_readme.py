"""The README keeps its word: its code runs, its table of scores is that of the code, its links exist."""

import re
import warnings
from pathlib import Path

import pytest

from fitb_callbacks.metrics import metrics_table
from small_module import SmallModule

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=[code.splitlines()[0] for code in PYTHON])
def test_python_blocks_run(code, loaders, probe_images, monkeypatch, tmp_path):
    images, labels = probe_images
    names = {"train_loader": loaders[0], "val_loader": loaders[1], "images": images, "labels": labels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "README.md", "exec"), names | {"model": SmallModule()})


def test_the_table_of_scores_is_the_codes():
    shown = re.search(r"<!-- metrics -->\n(.*)\n<!-- /metrics -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == metrics_table()


def test_what_the_readme_links_to_exists():
    targets = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_two_commands_install_and_run():
    commands = re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL)
    assert [command.split(" && ")[1] for command in commands] == ["fitb demo", "pytest"]
    assert all("-c constraints.txt" in command for command in commands)
