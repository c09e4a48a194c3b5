"""`fitb report`, as a user types it, and its page in a real browser."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from browser import browser, needs_browser, screenshot  # noqa: F401 - browser is a fixture
from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.gate.description import report_head
from fitb_callbacks.integrations.folder import write_record
from fitb_callbacks.integrations.record import make_record
from fitb_callbacks.integrations.report.page import render_report
from mlflow_store import new_store
from quick import fitb, quiet_trainer
from small_module import SmallModule

NAMES = ["<b>zero</b>", "one & only", '"two"', "</script><script>alert(1)</script>", "x" * 300, *map(str, range(5, 10))]


class WithAccuracy(SmallModule):
    """Logs an accuracy of its own."""

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_acc", (self(images).argmax(dim=1) == labels).float().mean())


def report(*arguments):
    done = fitb("report", *arguments)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits):
    """Four epochs with three loggers and both kinds of masks; the folder and MLflow's run."""
    folder = tmp_path_factory.mktemp("run")
    mlflow = MLFlowLogger(
        tracking_uri=new_store(folder / "mlflow.db"),
        artifact_location=(folder / "artifacts").as_uri(),
        run_name="first",
    )
    probe = FillInBlanksCallback(
        max_overhead=None,
        num_masks=16,
        class_names=NAMES,
        masking=("random", "progressive"),
        on_error="raise",
        fill=None,
    )
    loggers = [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard"), mlflow]
    trainer = quiet_trainer(folder, max_epochs=4, callbacks=[probe], logger=loggers)
    parts = (TensorDataset(*(tensor[part] for tensor in digits.tensors)) for part in (slice(400), slice(1500, 1700)))
    trainer.fit(WithAccuracy(), *(DataLoader(part, batch_size=50) for part in parts))
    return folder, mlflow, probe


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """The run's page."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    code, output = report(run[0] / "csv", "--output", path)
    assert code == 0, output
    return path


@pytest.fixture
def opened(browser, written):  # noqa: F811
    """A function that opens a page from disk, and fails if the page fetches anything or complains."""
    pages = []

    def start(path=written, **options):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | options)
        pages.append(page)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.complaints.append(request.url[:80]) if not allowed(request) else None)
        page.goto(path.as_uri())
        page.locator("#prototypes canvas:not([width='1'])").first.wait_for()
        return page

    def allowed(request):
        return request.url.startswith("data:") or request.url.endswith(".html")

    yield start
    for page in pages:
        assert page.complaints == []
        page.close()


def picture(page, number=0):
    return page.locator("#prototypes canvas").nth(number).evaluate("canvas => canvas.toDataURL()")


def data_of(path):
    text = path.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    del data["runs"]  # their titles
    return data


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


# --- sources -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_folder_mlflow_and_tensorboard_give_the_same_page(run, written, tmp_path):
    folder, mlflow, probe = run
    sources = {"tensorboard": [folder / "tensorboard" / "version_0"], "csv": [folder / "csv/version_0/fitb-records"]}
    sources["mlflow"] = [f"runs:/{mlflow.run_id}", "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    for name, arguments in sources.items():
        code, output = report(*arguments, "--output", tmp_path / f"{name}.html")
        assert (code, "8 probes" in output) == (0, True), output
        assert data_of(tmp_path / f"{name}.html") == data_of(written)
    assert "<title>first: what this model learned" in (tmp_path / "mlflow.html").read_text()
    first, second = data_of(written)["series"]
    assert (first["name"], second["name"]) == ("fitb, random, 10 classes", "fitb, progressive, 10 classes")
    assert [record["epoch"] for record in first["records"]] == [0, 1, 2, 3]
    assert [record["step"] for record in first["records"]] == [entry["step"] for entry in probe.history]
    for record, entry in zip(first["records"], probe.history, strict=True):
        assert record["scores"]["coverage"] == pytest.approx(entry["coverage"], abs=1e-5)


def test_records_hold_the_accuracy_that_the_training_logged_in_the_same_validation(tmp_path, loaders):
    seen = []

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen.append(round(float(trainer.callback_metrics["val_acc"]), 5))

    logger = CSVLogger(tmp_path)
    callbacks = [FillInBlanksCallback(num_masks=4, max_overhead=None, on_error="raise"), Watch()]
    quiet_trainer(tmp_path, max_epochs=3, callbacks=callbacks, logger=logger).fit(WithAccuracy(), *loaders)
    records = [json.loads(path.read_text()) for path in sorted(Path(logger.log_dir, "fitb-records").glob("*.json"))]
    assert [name for name, _ in (record["validation"] for record in records)] == ["val_acc"] * 3
    assert [value for _, value in (record["validation"] for record in records)] == pytest.approx(seen, abs=1e-4)


def test_the_folder_holds_pictures_and_scores_too(run):
    folder = run[0] / "csv" / "version_0"
    for name in ("prototypes", "confusion", "timeline", "progressive/prototypes"):
        pictures = {path.name for path in (folder / "fitb" / name).glob("step-*.png")}
        assert len(pictures - {"step-00000000.png"}) == 4  # but for that before training
    assert (folder / "metrics.csv").read_text().count("\n") >= 5


def test_a_result_and_a_folder_of_results(trained, probe_images, tmp_path):
    result = FillInBlanks(num_masks=8).probe(trained, *probe_images)
    for number in range(3):
        result.save(tmp_path / f"probe-{number}.npz")
    for source, probes, said in ((tmp_path / "probe-0.npz", 1, "1 probe:"), (tmp_path, 3, "3 probes:")):
        code, output = report(source, "--output", "page.html")
        assert (code, said in output) == (0, True)
        (series,) = data_of(Path("page.html"))["series"]
        assert [record["epoch"] for record in series["records"]] == list(range(probes))
        assert series["records"][0]["scores"]["accuracy"] == pytest.approx(result.metrics["accuracy"], abs=1e-5)


def test_a_partial_run_shows_what_there_is(run, tmp_path):
    shutil.copytree(run[0] / "csv" / "version_0", tmp_path / "half")
    records = sorted((tmp_path / "half" / "fitb-records").glob("fitb-random-*"))
    records[0].unlink()
    records[1].write_text(records[1].read_text()[:500])
    records[2].write_text('{"format": "fitb-callbacks record 2"}')
    of_the_other = sorted((tmp_path / "half" / "fitb-records").glob("fitb-progressive-*"))
    of_the_other[0].write_text(
        json.dumps({**json.loads(of_the_other[1].read_text()), "extra": 1}).replace("images", "x")
    )
    code, output = report(tmp_path / "half", "--output", "half.html")
    assert code == 0
    assert f"Left out: {records[1].name}: it is cut off or not JSON" in output
    assert f"Left out: {records[2].name}: another version of fitb-callbacks wrote it" in output
    assert f"Left out: {of_the_other[0].name}: it lacks images" in output
    assert "4 probes" in output
    page = Path("half.html").read_text()
    assert f"Left out: {records[2].name}" in page
    assert [record["epoch"] for record in data_of(Path("half.html"))["series"][0]["records"]] == [3]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("step", "seven"),
        ("classes", []),
        ("classes", ["a", 5]),
        ("scores", {"structure": "high"}),
        ("verdict", {"tone": "odd", "headline": "x", "reason": "y"}),
        ("settings", {}),
        ("pictures", {"image": "data:,"}),
        ("gallery", {}),
        ("first", [10**6] * 10),
        ("per_class", {"accuracy": [1.0]}),
        ("validation", ["val_acc"]),
    ],
)
def test_a_damaged_record_is_left_out_and_its_part_named(run, tmp_path, part, value):
    shutil.copytree(run[0] / "csv" / "version_0" / "fitb-records", tmp_path / "fitb-records")
    first, *_ = sorted((tmp_path / "fitb-records").glob("fitb-random-*"))
    first.write_text(json.dumps({**json.loads(first.read_text()), part: value}))
    code, output = report(tmp_path, "--output", tmp_path / "page.html")
    assert (code, "7 probes" in output) == (0, True), output
    assert re.search(rf"Left out: {first.name}: it is damaged: {part}\S* is not what was written there", output)


def test_a_deeply_nested_file_is_no_record(tmp_path):
    (tmp_path / "fitb-records").mkdir()
    (tmp_path / "fitb-records" / "fitb-random-00000001.json").write_text("[" * 100_000)
    assert "it is cut off or not JSON" in report(tmp_path)[1]


def test_results_of_other_classes_are_a_series_of_their_own(trained, probe_images, tmp_path):
    for number, classes in enumerate((10, 3)):
        images, labels = (tensor[: 3 * classes] for tensor in probe_images)
        FillInBlanks(num_masks=2).probe(trained, images, labels).save(tmp_path / f"{number}.npz")
    assert report(tmp_path, "--output", "page.html")[0] == 0
    series = data_of(Path("page.html"))["series"]
    assert [each["name"] for each in series] == ["fitb, random, 10 classes", "fitb, random, 3 classes"]


def test_bad_input_gets_one_line_and_exit_code_2(run, tmp_path):
    folder, mlflow, _ = run
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "fitb-records").mkdir(parents=True)
    (tmp_path / "broken" / "fitb-records" / "fitb-random-00000001.json").write_text('{"format": "fitb')
    (tmp_path / "other.npz").write_bytes(b"PK nothing")
    client = mlflow.experiment
    without = client.create_run(mlflow.experiment_id).info.run_id
    store = ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    for arguments, says in (
        (["nowhere"], "there is no folder or file nowhere; a run in MLflow is runs:/RUN_ID, a registered"),
        ([folder / "csv", "nowhere"], "there is no folder or file nowhere"),
        (["models:/nothing/1", *store], "models:/nothing/1"),
        ([tmp_path / "empty"], "holds no probes: neither fitb-records/ of a logger, nor saved results (*.npz)"),
        ([tmp_path / "broken"], "holds no probe that can be read: fitb-random-00000001.json: it is cut off"),
        ([tmp_path / "other.npz"], "is not a saved FillInBlanksResult: it is no .npz file, or cut off"),
        ([folder], "holds 3 runs; give one of them: "),
        (["runs:/abc", *store], "the run abc cannot be read from sqlite:"),
        (["runs:/abc", "--tracking-uri", "sqlite:///none.db"], "there is no MLflow database sqlite:///none.db"),
        (["runs:/abc", "--tracking-uri", "nonsense://x"], "a tracking server must be like http://host:5000"),
        ([f"runs:/{without}", *store], "holds no probes: it has no artifacts in fitb-records/"),
        (["runs:/abc", "--tracking-uri", "http://127.0.0.1:9"], "127.0.0.1"),
        ([folder / "csv", "--output", tmp_path / "no" / "report.html"], "No such file or directory"),
    ):
        code, output = report(*arguments)
        assert code == 2, output
        assert output.startswith("fitb report: ")
        assert says in output
        assert "Traceback" not in output
    assert not Path("none.db").exists()


# --- the page ----------------------------------------------------------------------------------------------------


def tile_of(page, name):
    return page.locator("#tiles .score", has=page.locator(".label", has_text=re.compile(f"^{name}$")))


@needs_browser
def test_verdict_headline_and_prototypes_are_seen_without_scrolling(opened, written, tmp_path):
    page = opened(viewport={"width": 1366, "height": 768})
    last = data_of(written)["series"][0]["records"][-1]
    assert page.locator("#verdict-headline").inner_text() == last["verdict"]["headline"]
    low, high = last["intervals"]["structure"]
    assert f"{last['scores']['structure']:.2f}" in tile_of(page, "structure").inner_text()
    ends = re.search(r"95%: ([\d.]+) to ([\d.]+)", tile_of(page, "structure").inner_text())
    assert [float(end) for end in ends.groups()] == pytest.approx([low, high], abs=0.005)  # 0.998 is not rounded to 1
    assert f"{last['validation'][1]:.2f}" in tile_of(page, "val_acc").inner_text()
    assert (
        "since epoch 0" in tile_of(page, "val_acc").inner_text()
        or "as in epoch 0" in page.locator("#tiles").inner_text()
    )
    for part in [
        "#verdict",
        "#tiles",
        "#main-chart svg",
        *(f"#prototypes .card:nth-child({n}) canvas" for n in (1, 10)),
    ]:
        box = page.locator(part).first.bounding_box()
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= 768, part
    legend = page.locator("#main-chart li").all_inner_texts()
    assert [line.split()[0] for line in legend] == ["val_acc", "structure,", "the", "its", "its"]
    screenshot(page, "report", tmp_path)


@needs_browser
@pytest.mark.parametrize(
    ("question", "clicks", "answer", "says"),
    [
        ("Which class is worst?", [], "#worst", "Worst"),
        ("Which images?", ["#prototypes .card"], "#gallery figure", "judge"),
        ("What does this number mean?", ["#tiles a"], "#meaning-structure", "The headline"),
        ("Is the judge able?", [], "#judge-line", "of the images themselves"),
        ("Since when?", [], "#verdict-since", "since|for the first time"),
        ("Against what chance?", [], "#judge-line", "chance is 10%"),
        ("What do I do now?", [], "#verdict-next", "Next: "),
        ("Can I trust this?", [], "#verdict-reason", "judge"),
    ],
)
def test_the_answer_is_at_most_two_clicks_away(opened, question, clicks, answer, says):
    """Of the ten questions in docs/dashboards.md, those that one run answers; two more take several, or a check."""
    page = opened(viewport={"width": 1366, "height": 768})
    assert len(clicks) <= 2
    for click in clicks:
        page.locator(click).first.click()
    found = page.locator(answer).first
    found.wait_for()
    assert re.search(says, found.inner_text()), question
    box = found.bounding_box()
    assert 0 <= box["y"] < 768, f"{question} needs scrolling"


@needs_browser
def test_the_slider_moves_pictures_scores_and_verdict_by_keyboard(opened, written):
    page, records = opened(), data_of(written)["series"][0]["records"]
    seen = set()
    page.get_by_role("slider", name="Epoch").focus()
    for record in reversed(records):
        assert f"epoch {record['epoch']} " in page.locator("#shown").inner_text()
        assert page.locator("#verdict-headline").inner_text() == record["verdict"]["headline"]
        assert f"{record['scores']['structure']:.2f}" in tile_of(page, "structure").inner_text()
        page.wait_for_timeout(50)
        seen.add(picture(page))
        page.keyboard.press("ArrowLeft")
    assert len(seen) == 4
    page.get_by_role("button", name="Play").press("Enter")
    page.locator("#shown", has_text=re.compile("^epoch 3")).wait_for()  # the page lets nobody evaluate text as code


@needs_browser
def test_class_names_are_text_and_every_number_is_explained(opened, run):
    page = opened()
    unfold(page)
    assert [card.get_attribute("title") for card in page.locator("#prototypes .card").all()] == NAMES
    assert {name.get_attribute("title") for name in page.locator("#classes tbody th button").all()} == set(NAMES)
    assert page.locator("#prototypes b, #classes b").count() == 0
    shown = page.locator("#charts figcaption a")
    assert set(shown.all_inner_texts()) >= {"structure", "accuracy", "drift", "seconds"}
    for link in shown.all():
        assert page.locator(link.get_attribute("href")).locator("td").first.inner_text()
    assert page.locator("#settings tr").count() == len(run[2].result.settings)
    counts = page.locator("#confusion table").first.locator("td").all_inner_texts()
    assert sum(int(count) for count in counts if count) == len(run[2].result.labels)


@needs_browser
def test_a_link_to_a_number_unfolds_its_meaning(opened):
    page = opened()
    assert not page.locator("#meaning-structure").is_visible()
    tile_of(page, "structure").get_by_role("link").click()
    page.locator("#meaning-structure").wait_for(state="visible")
    bar, meaning = (page.locator(part).bounding_box() for part in ("#epochs", "#meaning-structure"))
    assert meaning["y"] >= bar["y"] + bar["height"] - 1


@needs_browser
def test_links_within_the_page_work_in_mlflows_preview(browser, written):  # noqa: F811
    """It shows a page in a sandbox, where following a link within the page is not allowed."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto("about:blank")
    page.evaluate(
        """text => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.style = "width: 845px; height: 536px";
            frame.src = URL.createObjectURL(new Blob([text], { type: "text/html" }));
            document.body.append(frame);
        }""",
        written.read_text(encoding="utf-8"),
    )
    shown = page.frame_locator("iframe")
    shown.locator("#tiles a", has_text="structure").click()
    shown.locator("#meaning-structure").wait_for(state="visible")
    label = shown.locator("#tiles .label", has_text="structure")
    assert label.evaluate("label => label.scrollWidth <= label.clientWidth")  # not cut off
    page.close()


@needs_browser
def test_cards_rows_and_cells_open_every_image_worst_first(opened, run, tmp_path):
    page, result = opened(), run[2].result
    dialog = page.locator("#gallery")
    page.locator("#prototypes .card").nth(1).press("Enter")
    assert dialog.locator("h2").inner_text() == NAMES[1]
    assert dialog.locator("figure").count() == int((result.labels == 1).sum())
    assert "worst first" in page.locator("#gallery-scope").inner_text()
    signs = [text[0] for text in dialog.locator("figure p:nth-of-type(1)").all_inner_texts()]
    rank = {"n": 0, "✗": 1, "✓": 2}  # no mask kept, wrong, right
    assert signs == sorted(signs, key=rank.__getitem__)
    small = dialog.locator("figure canvas").first.bounding_box()["width"]
    dialog.locator(".enlarge").first.press("Enter")
    assert dialog.locator("figure canvas").first.bounding_box()["width"] > 2 * small
    page.wait_for_timeout(100)
    screenshot(page, "report-gallery", tmp_path)
    dialog.get_by_role("button", name="The next class").click()
    assert dialog.locator("h2").inner_text() == NAMES[2]
    page.keyboard.press("Escape")
    assert not dialog.is_visible()

    unfold(page)
    page.locator("#classes tbody tr", has=page.locator("button[title='7']")).get_by_role("button").click()
    assert dialog.locator("h2").inner_text() == "7"
    page.keyboard.press("Escape")
    cell = page.locator("#confusion td button").first
    count, says = int(cell.inner_text()), cell.get_attribute("aria-label")
    cell.click()
    assert dialog.locator("figure").count() == count
    assert says.startswith(f"{count} of ")


@needs_browser
def test_pointing_at_a_curve_moves_the_cursor_of_all_and_pressing_goes_there(opened, written):
    page, records = opened(), data_of(written)["series"][0]["records"]
    unfold(page)
    chart = page.locator("#charts figure", has=page.get_by_role("link", name="coverage", exact=True)).locator("svg")
    chart.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.14 * box["width"], box["y"] + box["height"] / 2)
    value = records[0]["scores"]["coverage"]
    assert page.locator("#tip").inner_text().startswith(f"epoch 0: {value:.2f} (")
    cursors = [cursor.get_attribute("x1") for cursor in page.locator("#charts .cursor, #main-chart .cursor").all()]
    assert set(cursors) == {"40"}  # the left end of every chart
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#shown").inner_text() == "epoch 0 (1 of 4)"


@needs_browser
def test_figures_do_not_contradict_themselves_and_axes_hide_nothing(opened):
    page = opened()
    shown = page.evaluate("[0, 0.004, 0.5, 0.996, 0.9996, 1, 1.5, -0.001].map((value) => figure(value))")
    assert shown == ["0.00", "0.004", "0.50", "0.996", "0.9996", "1.00", "1.50", "-0.001"]
    assert page.evaluate("change(0.914, 0.906)") == "+0.00"  # 0.91 and 0.91
    assert page.evaluate("[[0, 0.004], [0, 0.9], [0.1, 3.2], [-0.3, 1], [0, 0]].map((values) => axis(values)[1])") == [
        pytest.approx(0.005), 1, 5, 1, 1,
    ]  # fmt: skip


@needs_browser
def test_another_masking_can_be_chosen(opened):
    page = opened()
    before = picture(page)
    page.locator("#series").select_option("fitb, progressive, 10 classes")
    page.wait_for_timeout(100)
    assert picture(page) != before
    unfold(page)
    assert "progressive" in page.locator("#settings").inner_text()


@needs_browser
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        pytest.param(*each, marks=pytest.mark.slow)
        for each in [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]
    ],
)
def test_it_is_accessible_and_fits(opened, scheme, width, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    unfold(page)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    screenshot(page, f"report-{scheme}-{width}", tmp_path, full_page=True)
    page.locator("#prototypes .card").first.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.get_by_role("button", name="Close").click()
    other = {"light": "dark", "dark": "light"}[scheme]
    page.get_by_label("Theme").select_option(other)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#play").is_visible()
    assert page.locator("#verdict-headline").is_visible()
    screenshot(page, f"report-print-{width}", tmp_path, full_page=True)


@needs_browser
def test_the_timeline_begins_before_training_with_pictures_only(opened, tmp_path):
    page = opened()
    assert page.locator("#epoch").get_attribute("max") == "3"  # a score of each epoch, and none before them
    page.get_by_text("Pictures over training", exact=True).click()
    titles = page.locator("#timeline thead th").all_inner_texts()
    assert titles == ["before training", "0", "1", "2", "3"]
    page.locator("#timeline canvas[width='1']").wait_for(state="detached")
    tiles = [
        tile.evaluate("canvas => canvas.toDataURL()")
        for tile in page.locator("#timeline tbody tr:first-child canvas").all()
    ]
    assert len(tiles) == len(set(tiles)) == 5
    label = page.locator("#timeline canvas").first.get_attribute("aria-label")
    assert label == f"prototype of class {NAMES[0]}, before training"
    for width in (1366, 390):
        page.set_viewport_size({"width": width, "height": 800})
        screenshot(page, f"timeline-{width}", tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_a_hundred_epochs_are_small_and_smooth(opened, tmp_path):
    """Noise in nearly every tile, which is as hard to compress as prototypes get."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(2704, 10)
    )
    images, labels = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    for epoch in range(100):
        result = FillInBlanks(num_masks=4, seed=epoch, target="predicted").probe(model, images)
        result = dataclasses.replace(result, labels=labels, settings={**result.settings, "target": "label"})
        assert result.coverage > 0.8
        write_record(tmp_path / "run", make_record(result, epoch=epoch, step=epoch))
    code, output = report(tmp_path / "run", "--output", tmp_path / "long.html")
    assert (code, "100 probes" in output) == (0, True)
    size = (tmp_path / "long.html").stat().st_size
    assert size < 10 * 2**20
    page = opened(tmp_path / "long.html")
    frames = page.evaluate(
        """async () => {
            const slider = document.getElementById("epoch"), times = [];
            const frame = () => new Promise(requestAnimationFrame);
            let before = await frame();
            for (let epoch = 0; epoch < 100; epoch++) {
                slider.value = epoch;
                slider.dispatchEvent(new Event("input"));
                const now = await frame();
                times.push(now - before);
                before = now;
            }
            return times;
        }"""
    )
    median = sorted(frames)[50]
    print(f"{size / 2**20:.1f} MiB, {median:.0f} ms a frame")
    assert median < 100


@pytest.mark.slow
@needs_browser
def test_forty_classes_with_long_names_stay_short(opened, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 40))
    labels = torch.arange(120) % 40
    names = [
        f"a class whose name is much longer than any column of a table, number {number}, and ends like all the others"
        for number in range(40)
    ]
    for epoch in range(2):
        result = FillInBlanks(num_masks=4, seed=epoch, fill=None).probe(
            model, torch.rand(120, 1, 8, 8), labels, class_names=names
        )
        write_record(tmp_path / "run", make_record(result, epoch=epoch, step=epoch))
    assert report(tmp_path / "run", "--output", tmp_path / "forty.html")[0] == 0
    page = opened(tmp_path / "forty.html", viewport={"width": 1366, "height": 768})
    assert page.locator("#prototypes .card").count() == 20
    assert page.evaluate("document.documentElement.scrollHeight") < 2500
    page.get_by_role("button", name="20 of 40 classes: show all").click()
    assert page.locator("#prototypes .card").count() == 40
    assert page.evaluate("document.documentElement.scrollHeight") < 7000
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 1366
    header = page.locator("#confusion .rotated thead th").nth(3)
    assert header.get_attribute("title") == names[2]
    assert header.bounding_box()["height"] > 2 * header.bounding_box()["width"]
    assert header.inner_text().startswith("a cl…2, and")
    for shown in ("#prototypes .name", "#classes tbody th", "#confusion .rotated >> nth=0 >> tbody th"):
        assert len(set(page.locator(shown).all_inner_texts())) == 40
    confusions = page.locator("#confusion .top").first
    assert confusions.locator("li").count() == 10
    assert "Top 10 of" in confusions.get_attribute("aria-label")
    screenshot(page, "report-forty", tmp_path, full_page=True)


@pytest.mark.slow
@needs_browser
def test_two_runs_side_by_side(opened, trained, probe_images, digits, tmp_path):
    images, labels = probe_images
    FillInBlanks(num_masks=8, fill=None).probe(trained, images, labels).save(tmp_path / "good.npz")
    untrained = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    FillInBlanks(num_masks=8, fill=None).probe(untrained, images, labels).save(tmp_path / "poor.npz")
    FillInBlanks(num_masks=4, fill=None).probe(trained, images, labels).save(tmp_path / "other.npz")
    code, output = report(tmp_path / "good.npz", tmp_path / "poor.npz", "--output", tmp_path / "two.html")
    assert (code, "2 probes" in output) == (0, True)
    assert "good.npz: " in output
    page = opened(tmp_path / "two.html", viewport={"width": 1366, "height": 768})
    assert page.locator("#compared-scores thead th").all_inner_texts() == ["score", "good.npz", "poor.npz"]
    better = page.locator("#compared-scores tr", has=page.get_by_role("link", name="image_accuracy")).locator("td")
    assert ["★" in cell for cell in better.all_inner_texts()] == [True, False]
    assert page.locator("#compared-pictures tbody tr").count() == 3  # image, one, the other
    assert "Same settings, same probe images" in page.locator("#compared-note").inner_text()
    assert not page.locator("#epochs").is_visible()  # one probe each
    page.locator("#series").select_option("poor.npz: fitb, random, 10 classes")
    assert tile_of(page, "image_accuracy").inner_text().split()[1] == better.nth(1).inner_text().split()[0]
    from axe_playwright_python.sync_playwright import Axe

    assert Axe().run(page).violations_count == 0
    screenshot(page, "report-two", tmp_path, full_page=True)
    report(tmp_path / "good.npz", tmp_path / "other.npz", "--output", tmp_path / "differ.html")
    assert "different settings (num_masks)" in opened(tmp_path / "differ.html").locator("#compared-note").inner_text()


def test_two_results_of_the_same_name_are_called_by_their_paths(trained, probe_images, tmp_path):
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        FillInBlanks(num_masks=2, fill=None).probe(trained, *probe_images).save(tmp_path / day / "probe.npz")
    code, output = report(
        *(tmp_path / day / "probe.npz" for day in ("monday", "tuesday")), "--output", tmp_path / "two"
    )
    assert code == 0
    assert "monday/probe.npz: " in output
    assert "tuesday/probe.npz: " in output


def test_large_images_become_small_tiles_of_the_same_shape():
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 4))
    images = torch.rand(20, 3, 120, 240)
    record = make_record(FillInBlanks(num_masks=2, fill=None).probe(model, images, torch.arange(20) % 4))
    assert record["gallery"]["number"] == [number % 4 for number in range(20)]
    assert [record["gallery"]["number"][index] for index in record["first"]] == [0, 1, 2, 3]
    for pictures, size in ((record["pictures"], (4 * 96, 48)), (record["gallery"]["pictures"], (16 * 64, 2 * 32))):
        for uri in pictures.values():
            assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == size
    assert len(json.dumps(record)) < 60_000


@needs_browser
def test_the_report_of_a_check_opens_with_the_rules_and_both_models(opened, trained, probe_images, tmp_path):
    images, labels = probe_images
    candidate = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    records = [
        make_record(FillInBlanks(num_masks=4, fill=None).probe(model, images, labels)) for model in (candidate, trained)
    ]
    rule = {"rule": "coverage at least <b>0.9</b>", "kind": "min", "key": "coverage", "bound": 0.9, "interval": None}
    verdict = {"verdict": "refused", "rules": [{**rule, "value": 0.25, "passed": False, "certain": True}]}
    page = render_report(
        records[:1], title="m/2", beside={"m/1, the champion": records[1:]}, check=report_head(verdict)
    )
    (tmp_path / "check.html").write_text(page, encoding="utf-8")
    page = opened(tmp_path / "check.html", viewport={"width": 1366, "height": 768})
    assert page.locator("main section h2").first.inner_text().startswith("✗ REFUSED: 1 of 1 rule failed: coverage")
    assert page.locator("#check tbody tr").inner_text().split("\t") == [rule["rule"], "0.250", "", "no"]
    assert page.locator("#check b").count() == 0
    for part in ("#check", "#compared-scores"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 768, part
    assert page.locator("#compared-scores thead th").all_inner_texts() == ["score", "m/2", "m/1, the champion"]
    assert not page.locator("#epochs").is_visible()
    assert not page.locator("#main-chart").is_visible()
    page.get_by_text("All scores", exact=True).click()  # nothing is over training, and so no curve
    assert page.locator("#score-table").is_visible()
    assert not page.locator("#charts").is_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    heads = page.locator("#check tbody th, #compared-pictures tbody th")
    assert min(heads.nth(row).bounding_box()["width"] for row in range(heads.count())) > 60  # not letter by letter
    from axe_playwright_python.sync_playwright import Axe

    assert Axe().run(page).violations_count == 0
    screenshot(page, "report-check", tmp_path, full_page=True)


def test_text_in_records_cannot_leave_the_script(trained, probe_images):
    names = [f"{{{{ {number} }}}} <!-- </script> ' \" &" for number in range(10)]
    result = FillInBlanks(num_masks=2).probe(trained, *probe_images, class_names=names)
    page = render_report([make_record(result)], title="<script>", problems=["<img src=x onerror=alert(1)>"])
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert os.linesep.join(names) not in page
