"""The run page of MLflow and TensorBoard, served by the real servers and seen in a real browser."""

import os
import signal
import socket
import time
import urllib.request

import pytest
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

from browser import browser, needs_browser, screenshot  # noqa: F401 - browser is a fixture
from fitb_callbacks import FillInBlanksCallback
from mlflow_store import new_store
from small_module import SmallModule
from warm_process import Warm

NAMES = ["<b>zero</b>", "one & only", '"two"', "three/3", *map(str, range(4, 10))]
# How far the last row of an image that is not white is above (in pixels) the lower edge of what a card shows
ROOM_BELOW_INK = """image => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const values = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    const ink = (values.findLastIndex((value) => value < 128) / 4 / canvas.width + 1) / canvas.height;
    let card = image.parentElement;
    while (getComputedStyle(card).overflowY === "visible") card = card.parentElement;
    const box = image.getBoundingClientRect();
    return card.getBoundingClientRect().bottom - (box.top + ink * box.height);
}"""

pytestmark = needs_browser


@pytest.fixture
def page(browser):  # noqa: F811
    page = browser.new_page(viewport={"width": 1600, "height": 1300})
    yield page
    page.close()


@pytest.fixture
def serve():
    """Start ``python -m arguments --port PORT`` and wait until it answers; ended after the test."""
    processes = []

    def start(*arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["-m", *arguments, "--host", "127.0.0.1", "--port", str(port)]
        # without MLflow's job workers, which take minutes to start on a small machine
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        processes.append(Warm(*command, environment=environment))
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(address, timeout=2).close()
                return address
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(f"{command} does not answer")

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def train(trainer, loaders, logger):
    probe = FillInBlanksCallback(max_overhead=None, num_masks=32, class_names=NAMES, on_error="raise", scores="all")
    trainer(callbacks=[probe], logger=logger, max_epochs=3).fit(SmallModule(), *loaders)


@pytest.mark.slow
def test_mlflow_shows_the_pictures_beside_the_scores_with_a_slider(trainer, loaders, page, serve, tmp_path):
    store = new_store(tmp_path / "mlflow.db")
    logger = MLFlowLogger(tracking_uri=store, artifact_location=(tmp_path / "artifacts").as_uri())
    train(trainer, loaders, logger)
    address = serve("mlflow", "server", "--backend-store-uri", store, "--workers", "1")

    page.goto(f"{address}/#/experiments/{logger.experiment_id}/runs/{logger.run_id}/model-metrics")
    page.get_by_text("A glance at fitb/at_a_glance", exact=True).wait_for(timeout=90_000)  # above the charts
    search = page.get_by_placeholder("Search metric charts")
    search.fill("fitb/(at_a_glance|confusion|prototypes|timeline|accuracy|coverage)$")
    for score in ("accuracy", "coverage"):
        page.get_by_text(score, exact=True).first.wait_for(timeout=60_000)

    def opened(name):
        """Card, slider and picture of this name, once the picture is there."""
        named = page.locator("div").filter(has=page.get_by_text(f"A glance at fitb/{name}", exact=True))
        card = named.filter(has=page.get_by_role("slider")).last
        picture = card.locator("img[src*='blob:'], img[src*='get-artifact']").first
        picture.wait_for(timeout=60_000)
        page.wait_for_function("image => image.complete && image.naturalWidth > 200", arg=picture.element_handle())
        return card.get_by_role("slider"), picture

    for name in ("at_a_glance", "confusion", "prototypes", "timeline"):  # without a click
        slider, picture = opened(name)
        # screenshots scroll the card, so only its first picture says whether all of it can be seen
        assert 0 <= picture.evaluate(ROOM_BELOW_INK) < 100, f"the bottom of {name} is cropped"
        shown = [picture.screenshot()]
        for step in (7, 15, 23) if name in ("confusion", "prototypes") else ():
            slider.press("ArrowRight")
            assert opened(name)[0].get_attribute("aria-valuenow") == str(step)
            shown.append(opened(name)[1].screenshot())
        assert len(set(shown)) == len(shown)  # before training, and three epochs
    screenshot(page, "mlflow", tmp_path)

    page.set_viewport_size({"width": 1366, "height": 768})
    search.fill("")
    slider, picture = opened("at_a_glance")
    assert page.get_by_text("fitb.settings=random 0.25, patch 1, ").first.is_visible()
    page.wait_for_function(f"image => ({ROOM_BELOW_INK})(image) >= 0", arg=picture.element_handle())
    assert slider.bounding_box()["y"] < 768  # the whole card is seen without scrolling

    page.set_viewport_size({"width": 1600, "height": 1300})
    search.fill("zero")
    page.get_by_text("coverage _b_zero_b_", exact=True).first.wait_for(timeout=60_000)
    assert page.locator("b").filter(has_text="zero").count() == 0


@pytest.fixture
def tensorboard(trainer, loaders, serve, tmp_path):
    """Address of TensorBoard on a run of three epochs."""
    train(trainer, loaders, TensorBoardLogger(tmp_path / "runs", name="digits"))
    return serve("tensorboard.main", "--logdir", str(tmp_path / "runs"), "--samples_per_plugin", "images=200")


@pytest.mark.slow
def test_tensorboard_shows_the_pictures_and_the_scores(tensorboard, page, tmp_path):
    page.goto(f"{tensorboard}/?tagFilter=fitb%2F(prototypes|timeline|accuracy|coverage)%24#timeseries")
    page.get_by_text("fitb/prototypes").first.wait_for(timeout=60_000)
    assert page.get_by_text("fitb/accuracy").first.is_visible()
    for name in ("fitb/prototypes", "fitb/timeline"):
        card = page.locator("image-card").filter(has=page.get_by_text(name))
        picture = card.locator("img").first
        picture.wait_for(timeout=60_000)
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth > 500", arg=picture.element_handle())
        last = picture.get_attribute("src")
        card.locator("input[type=range], [role=slider]").first.press("ArrowLeft")
        page.wait_for_function(
            "([image, last]) => image.getAttribute('src') !== last", arg=[picture.element_handle(), last]
        )
    screenshot(page, "tensorboard", tmp_path)

    page.goto(f"{tensorboard}/?tagFilter=zero#timeseries")
    page.get_by_text("fitb_by_class/coverage _b_zero_b_").first.wait_for(timeout=60_000)
    assert page.locator("b").filter(has_text="zero").count() == 0
