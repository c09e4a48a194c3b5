"""The README and the documentation keep their word: their code runs, their links exist, the site needs no network."""

import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from typer.testing import CliRunner

from browser import browser, needs_browser  # noqa: F401 - browser is a fixture
from fitb_callbacks.cli import app
from fitb_callbacks.scoring.catalogue import KEY_METRICS, METRICS, metrics_table
from mlflow_store import new_store
from small_module import SmallModule

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
NOT_RUN = ("bash", "git", "mlflow", "mkdocs", "pip", "pre-commit", "pytest", "python3", "ruff", "tensorboard", "python")
"""Commands that install, serve, or run what other tests run."""


def run_commands(example):
    """Run every ``fitb`` command of a block, as the shell would; a block that installs first is for the CI script."""
    for line in str(example.parsed).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["fitb", "demo"]:
            continue  # .ci/run does, from a fresh installation
        if words and words[0] == "fitb":
            words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
            done = CliRunner().invoke(app, words[1:])  # in this process: starting one takes longer than the command
            assert done.exit_code == 0, f"{line}\n{done.output}"
        else:
            assert not words or words[0] in NOT_RUN, f"a command of a kind that no test knows: {line}"
            for word in words:
                if word.endswith(".py") and "/" in word:
                    assert (ROOT / word).exists(), line


TRAIN_AND_CHECK = {"registry.md", "command-line.md", "loggers.md", "first-run.md", "fabric.md"}
"""Pages whose commands take over five seconds."""

BLOCKS = Sybil(
    parsers=[CodeBlockParser("python", PythonEvaluator()), CodeBlockParser("bash", run_commands)],
    pattern="*.md",
    path=str(ROOT),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in TRAIN_AND_CHECK else [])
        for page in PAGES
    ],
)
def test_every_code_block_runs(path, loaders, probe_images):
    document = BLOCKS.parse(path)
    if path.name == "README.md":  # its snippets are about data and a model that the reader has
        images, labels = probe_images
        model = SmallModule()
        named = {"train_loader": loaders[0], "val_loader": loaders[1], "images": images, "labels": labels}
        document.namespace.update(named, model=model)
    new_store("mlflow.db")
    torch.manual_seed(0)
    for example in document.examples():
        example.evaluate()


def test_a_block_that_fails_is_noticed(tmp_path):
    for block in ("```python\nassert 1 > 2\n```", "```bash\nfitb no-such-command\n```", "```bash\nrm -r x\n```"):
        page = tmp_path / "page.md"
        page.write_text(block + "\n")
        (example,) = Sybil(BLOCKS.parsers, path=str(tmp_path)).parse(page).examples()
        with pytest.raises(AssertionError):
            example.evaluate()


def test_the_table_of_scores_is_the_codes():
    shown = re.search(r"<!-- metrics -->\n(.*)\n<!-- /metrics -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == metrics_table(KEY_METRICS)


def test_what_the_readme_links_to_exists():
    targets = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_two_commands_install_and_run():
    commands = re.findall(r"```bash\n(pip .*?)\n```", README, re.DOTALL)
    assert [command.split(" && ")[1] for command in commands] == ["fitb demo", "pytest"]
    assert all("-c constraints.txt" in command for command in commands)


# --- the site --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built as for publishing: a broken link, anchor or docstring is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_navigation(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        place = "." if page.stem == "index" else f"{page.stem}/"
        assert f'href="{place}"' in home, f"mkdocs.yml does not list {page.name}"


def test_the_site_has_every_setting_and_every_score(site):
    settings = (site / "settings" / "index.html").read_text(encoding="utf-8")
    for name in ("mask_ratio", "num_masks", "baseline", "images_per_class", "reference", "on_error", "audit"):
        assert re.search(rf"<code>{name}</code>", settings), name
    scores = (site / "what-the-scores-mean" / "index.html").read_text(encoding="utf-8")
    for name in METRICS:
        assert f"<code>fitb/{name}</code>" in scores, name


CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]


@pytest.fixture(scope="module")
def served(site):
    """Address of the built pages on a server of this process."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(CHROMIUM is None and "FITB_CI" not in os.environ, reason="needs chromium: apt-get install chromium")
@pytest.mark.slow
def test_the_pages_are_whole_without_a_network(site, served):
    """No request leaves, no script fails, no picture is missing, and on a phone nothing sticks out."""
    from playwright.sync_api import sync_playwright

    pages = sorted(f"{file.parent.relative_to(site)}/" for file in site.rglob("index.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        phone = browser.new_context(viewport={"width": 390, "height": 844})
        requested, errors = [], []
        phone.on("request", lambda request: requested.append(request.url))
        phone.on("weberror", lambda error: errors.append(str(error.error)))
        opened = {name: phone.new_page() for name in pages}
        for name, page in opened.items():  # all at once, as each is idle only after half a second without a request
            page.goto(f"{served}/{name}", wait_until="commit")
        for name, page in opened.items():
            page.wait_for_load_state("networkidle")
            broken = "images => images.filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
            assert page.eval_on_selector_all("article img:not([loading=lazy])", broken) == [], name
            wide = page.evaluate("document.scrollingElement.scrollWidth")
            assert wide <= 390, f"{name} is {wide} pixels wide"
        assert page.goto(f"{served}/how-it-works/")
        assert page.locator("math[display=block]").count() >= 5
        assert page.locator("math").first.bounding_box()["width"] > 5
        page.goto(f"{served}/")
        page.get_by_label("Search", exact=True).first.click(force=True)
        page.get_by_role("textbox", name="Search").press_sequentially("mask ratio")
        page.locator(".md-search-result__link").first.wait_for(timeout=30_000)
        browser.close()
    assert not errors
    outside = {url for url in requested if not url.startswith((served, "data:", "blob:"))}
    assert not outside


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_axe_finds_nothing(browser, served, scheme):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
    for name in ("how-it-works", "dashboards", "settings"):  # formulas, wide tables, code and signatures
        page.goto(f"{served}/{name}/")
        page.wait_for_timeout(100)
        found = Axe().run(page).response["violations"]
        assert not found, [(each["id"], each["nodes"][0]["html"]) for each in found]
    page.close()


def test_the_table_of_what_works_names_tests_that_exist():
    """Each row of docs/real-runs.md: the file, the function, and in brackets the cases."""
    table = (ROOT / "docs" / "real-runs.md").read_text(encoding="utf-8").split("## What works")[1].split("\n\n**")[0]
    named = re.findall(r"`((?:[\w/]+/)?\w+\.py)(?:::(\w+))?((?:\[[^`]+\])?)`", table)
    assert len(named) > 60
    for file, function, cases in named:
        found = [path for path in (ROOT / "tests").rglob(Path(file).name) if str(path).endswith(file)]
        assert found, file
        text = found[0].read_text(encoding="utf-8")
        assert f"def {function}(" in text if function else True, (file, function)
        for case in cases[1:-1].split("][") if cases else ():
            assert f'"{case}"' in text, (file, case)
