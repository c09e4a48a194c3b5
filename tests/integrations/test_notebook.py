"""What people see in a notebook, in a real kernel."""

import base64
import io
import re

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from browser import browser, needs_browser, screenshot  # noqa: F401 - browser is a fixture
from fitb_callbacks import FillInBlanks

CELLS = [
    """
import logging, warnings
import torch
from lightning.pytorch import Trainer
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

torch.manual_seed(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target))
loader = DataLoader(data, batch_size=100)
names = ["<i>zero</i>", *"123456789"]
probe = FillInBlanksCallback(max_overhead=None, num_masks=8, class_names=names, on_error="raise")
options = dict(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
               enable_model_summary=False, limit_train_batches=2)
trainer = Trainer(max_epochs=3, callbacks=[probe], **options)
trainer.fit(SmallModule(), loader, loader)
""",
    "trainer.fit_loop.max_epochs = 4; trainer.fit(SmallModule(), loader, loader)",
    "probe.result",
    "probe.result.figure()",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, request):
    """What stands below each cell, by MIME type."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    helpers = str(request.path.parents[1] / "helpers")
    notebook.cells[0].source = f"import sys; sys.path.insert(0, {helpers!r})\n" + CELLS[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
        patch.setenv("IPYTHONDIR", str(folder))
        NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return [[output.data for output in cell.outputs if "data" in output] for cell in notebook.cells]


@pytest.mark.slow
def test_a_training_cell_shows_the_last_probe_in_one_place(outputs):
    (first,), (second,) = outputs[:2]
    for output in (first, second):
        assert output["text/html"].count("<img") == 1
    assert first["text/html"] != second["text/html"]


@pytest.mark.slow
def test_the_live_cell_and_a_result_show_the_same_summary(outputs):
    """They differ in what only the callback knows: the epoch, which is in the picture, and the judge's name."""
    live, result = (outputs[cell][0]["text/html"] for cell in (1, 2))
    table = re.compile(r"<table>.*</table>", re.DOTALL)
    assert table.search(live)[0] == table.search(result)[0]
    assert re.search(r"<td>accuracy</td><td>[\d.]+</td>", live)
    assert alternative_text(live) == alternative_text(result)
    sizes = [picture(html).size for html in (live, result)]
    assert sizes[0] == sizes[1] == (900, 768)


def alternative_text(html):
    return re.search(r'<img alt="([^"]+)"', html)[1]


def picture(html):
    return Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))


@pytest.mark.slow
def test_a_figure_shows_itself(outputs):
    (result,), (figure,) = outputs[2:]
    assert "image/png" in result
    assert "image/png" in figure


def test_outside_a_notebook_nothing_is_shown(trained, probe_images, capsys):
    from fitb_callbacks.integrations.notebook import in_notebook

    assert not in_notebook()
    result = FillInBlanks(num_masks=2).probe(trained, *probe_images, class_names=["<script>alert(1)</script>"] * 10)
    assert "<script" not in result._repr_html_()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@needs_browser
def test_the_output_is_readable(browser, outputs, tmp_path):  # noqa: F811
    page = browser.new_page(viewport={"width": 900, "height": 1200})
    page.set_content(f"<body style='font: 14px sans-serif'>{outputs[0][0]['text/html']}</body>")
    assert page.locator("img").evaluate("image => image.naturalWidth") > 400
    assert page.evaluate("document.documentElement.scrollWidth") <= 900
    meaning = page.get_by_text("self-consistency").first
    assert not meaning.is_visible()
    page.get_by_text("All scores").click()
    assert meaning.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 900
    screenshot(page, "notebook", tmp_path, full_page=True)
    page.close()
