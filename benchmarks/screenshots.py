"""The pictures of dashboards in the docs, taken of a real run of ``fitb demo`` in a real browser.

Run it with::

    fitb demo --output /tmp/demo --tracking-uri sqlite:////tmp/demo/mlflow.db
    python benchmarks/screenshots.py /tmp/demo

It starts TensorBoard and MLflow on this machine only, and ends them. Needs Debian's `chromium` and the extra `test`.
"""

import argparse
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--disable-quic", "--disable-component-update"]
SHOWN = "(at_a_glance|structure|knows|shortcut)$"


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """Address of ``python -m arguments``, which is ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def opened(browser: Browser, address: str, size: tuple[int, int]) -> Iterator[Page]:
    """A page of this size."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(180_000)
    page.goto(address)
    yield page
    page.close()


def save(page: Page, path: Path, part: tuple[int, int, int, int] | None = None) -> None:
    """What can be seen without scrolling, or a part of it (left, upper, right, lower), in 256 colours."""
    page.wait_for_timeout(3000)
    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    whole.crop(part).quantize(256).save(path, optimize=True)
    print(path, flush=True)


def close_assistant(page: Page) -> None:
    """Close what MLflow opens beside every page on a first visit."""
    assistant = page.get_by_role("button", name="Close").first
    if assistant.is_visible():
        assistant.click()


def tensorboard(browser: Browser, demo: Path, output: Path) -> None:
    with served("tensorboard.main", "--logdir", str(demo / "tensorboard")) as server:
        address = f"{server}/?smoothing=0&tagFilter=fitb%2F{SHOWN.replace('$', '%24')}#timeseries"
        with opened(browser, address, (1366, 768)) as page:
            page.get_by_label("Close side pane").click()
            picture = page.locator("image-card img").first
            picture.wait_for()
            page.wait_for_function("image => image.naturalWidth > 500", arg=picture.element_handle())
            save(page, output / "tensorboard.png")


def mlflow(browser: Browser, demo: Path, output: Path) -> None:
    store = f"sqlite:///{demo / 'mlflow.db'}"
    client = MlflowClient(store)
    experiments = [each.experiment_id for each in client.search_experiments()]
    run = client.search_runs(experiments, order_by=["attributes.start_time DESC"])[0].info
    with served("mlflow", "server", "--backend-store-uri", store, "--workers", "1") as server:
        address = f"{server}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
        with opened(browser, address, (1366, 768)) as page:
            page.get_by_text("fitb.verdict").first.wait_for()
            close_assistant(page)
            save(page, output / "mlflow-overview.png", (195, 0, 1366, 768))  # without the menu
        with opened(browser, f"{address}/model-metrics", (1366, 768)) as page:
            page.get_by_role("slider").first.wait_for()
            close_assistant(page)
            for slider in page.get_by_role("slider").all()[1:3]:  # those in sight, but for the summary's
                for _ in range(5):  # the demo's epochs
                    slider.press("ArrowRight")
                    page.wait_for_timeout(500)
            save(page, output / "mlflow.png", (195, 0, 1366, 768))


def report(browser: Browser, demo: Path, output: Path) -> None:
    page_of_run = demo / "report.html"
    run = max((demo / "tensorboard").glob("*/version_*"), key=lambda folder: folder.stat().st_mtime)
    subprocess.run(
        [sys.executable, "-m", "fitb_callbacks", "report", str(run), "--output", str(page_of_run)], check=True
    )
    with opened(browser, page_of_run.resolve().as_uri(), (1366, 768)) as page:
        save(page, output / "report.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="the --output of fitb demo, with its mlflow.db inside")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*", choices=("tensorboard", "mlflow", "report"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    demo = arguments.demo.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for shot in (tensorboard, mlflow, report):
            if not arguments.only or shot.__name__ in arguments.only:
                shot(browser, demo, arguments.output)
        browser.close()


if __name__ == "__main__":
    main()
