from __future__ import annotations

import base64
import html
import io
import itertools
import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import pytest
import torch
from devtools import axe_core
from PIL import Image

from genaf_sdk.config import EvaluationConfig
from genaf_sdk.errors import OutputError
from genaf_sdk.evaluation.chosen import stated_attacks
from genaf_sdk.evaluation.pictures import chosen_images, gallery_section
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.report.figures import curve_chart, training_charts
from genaf_sdk.report.gallery import MOST_BYTES, amplified, draw_gallery
from genaf_sdk.report.html import html_report
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Check, CurvePoint, Failure, Score, is_universal
from genaf_sdk.report.sections import ClassCounts, DataDescription, EpochRecord, Sizes
from genaf_sdk.report.verdict import headline

SECTIONS = (
    *("verdict", "columns", "attacks", "proven", "corruptions", "curve", "gallery", "classes"),
    *("layers", "training", "guard", "cost", "checks", "replay", "settings"),
)


class Page(HTMLParser):
    """What the tests ask of a page: its tags with attributes, its text, and that tags are closed in order."""

    VOID = frozenset(("meta", "img", "br", "wbr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_every_section_is_there_and_filled(report: RobustnessReport) -> None:
    page = Page(html_report(report))
    assert tuple(attributes["id"] for attributes in page.all("section")) == SECTIONS
    for link in page.all("a"):
        assert (link["href"] or "").removeprefix("#") in SECTIONS
    assert "absent" not in {attributes.get("class") for attributes in page.all("p")}, "a section lacks its data"
    assert report.verdict in page.text
    assert all(sentence.replace("`", "") in " ".join(page.text.split()) for sentence in report.limits)
    for score in report.scores:
        low, high = score.interval
        assert f"{low:.1%} to {high:.1%}, n = {score.n}" in page.text.replace("\xa0", " ")
    assert report.data.fingerprint in page.text
    assert page.text.count("fine-tuned in stage 2") == len(report.adaptation.layers)  # type: ignore[union-attr]
    assert "method.against.bank_size" in page.text
    assert "Peak main memory of the process" in page.text
    assert "Energy of the CPU packages" in page.text
    assert "genaf verify" in page.text


def test_commands_are_set_as_code_and_strings_in_them_stay_text(report: RobustnessReport) -> None:
    report.data.name = "`<b>`"
    page = html_report(report)
    assert "<code>genaf evaluate MODEL --attacks" in page
    assert "<code>&lt;b&gt;</code>" in page
    assert "<b>" not in page


def test_the_saved_page_is_made_from_the_folder_alone(bundle: Path) -> None:
    saved = (bundle / "report.html").read_text(encoding="utf-8")
    assert saved == html_report(RobustnessReport.load(bundle)), "the same report gives the same bytes"
    assert len(saved) < 3_000_000


def test_matplotlib_waits_until_a_chart_is_drawn() -> None:
    code = "import sys, genaf_sdk.report.html; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_nothing_is_loaded_from_elsewhere(report: RobustnessReport) -> None:
    text = html_report(report)
    page = Page(text)
    assert not page.all("script") + page.all("link") + page.all("iframe") + page.all("object")
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert {link["href"][0] for link in page.all("a") + page.all("use") if link["href"]} == {"#"}
    policy = [meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_strings_of_the_report_are_text_never_markup(report: RobustnessReport) -> None:
    attack, name = "<script>alert(1)</script>", report.data.class_names[2]
    assert "<b class" in name
    report.scores = [
        replace(score, attack=attack if score.attack == "pgd" else score.attack) for score in report.scores
    ]
    report.curve = [replace(point, attack=attack) for point in report.curve]
    report.checks = [Check("<i>check</i>", False, "<img src=x>")]
    report.notes = ["<u>note</u>"]
    report.data.name = '"><base href="//x">'
    report.sensitivity = {"<em>layer</em>$x_2$": 1.0}
    report.history[0].stage = "<svg onload=x>"  # type: ignore[index]
    report.versions["<tt>"] = "</style>"
    page = Page(html_report(report))
    used = {tag for tag, _ in page.tags}
    assert not used & {"script", "u", "base", "tt"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for text in (attack, "<i>check</i>", "<img src=x>", "<u>note</u>", "<em>layer</em>$x_2$", "<svg onload=x>", name):
        assert text in page.text
    assert any(name in (image["alt"] or "") for image in page.all("img"))


def test_headings_tables_and_pictures_speak_to_a_screen_reader(report: RobustnessReport) -> None:
    text = html_report(report)
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(head.get("scope") for head in page.all("th"))
    assert all(image.get("alt") for image in page.all("img"))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    drawings = [div for div in page.all("div") if div.get("role") == "img"]
    assert len(drawings) == len(page.all("figure")) - len([f for f in page.all("figure") if f["class"] != "chart"])
    assert all(drawing["aria-label"] for drawing in drawings)


def test_the_headline_stands_apart_from_what_follows(report: RobustnessReport) -> None:
    text = html_report(report)
    shown = re.search(r'<p class="verdict[^>]*>(.*?) <span>(.*?)</span></p>', text, re.DOTALL)
    assert shown is not None
    assert html.unescape(shown[1]).endswith(headline(report)), "a warning comes before it"
    assert html.unescape(f"{shown[1]} {shown[2]}") == report.verdict


def test_a_stage_of_one_epoch_is_no_curve(report: RobustnessReport) -> None:
    once = [EpochRecord("probe", 1, 1.0, {"loss": 0.1, "train_accuracy": 0.9})]
    drawn = training_charts(report)
    report.history = [*(report.history or []), *once]
    assert [chart.title for chart in training_charts(report)] == [chart.title for chart in drawn]
    report.history = once
    page = Page(html_report(report))
    assert "There is no training history" not in page.text
    assert "train_accuracy 0.9" in page.text


def test_a_failed_check_is_the_first_thing_said(report: RobustnessReport) -> None:
    report.checks = [Check("An unbounded attack succeeds", False, "PGD leaves 40.0% of 100"), *report.checks[:2]]
    page = Page(html_report(report))
    assert report.verdict.startswith("WARNING: 1 of 3 sanity checks failed (An unbounded attack succeeds)")
    assert any("warned" in (attributes.get("class") or "") for attributes in page.all("p"))
    assert "WARNING An unbounded attack succeeds PGD leaves 40.0% of 100" in page.text


def test_what_is_missing_is_said_in_its_place() -> None:
    data = DataDescription("mine", Sizes(4, 2, 10), ["a", "b"], (3, 8, 8), "0" * 64)
    bare = RobustnessReport(data, [Score("hardened", "clean", "", 0.0, 10, 9, 0)])
    page = Page(html_report(bare))
    assert tuple(attributes["id"] for attributes in page.all("section")) == SECTIONS
    absent = [attributes for attributes in page.all("p") if attributes.get("class") == "absent"]
    assert len(absent) == 14, "thirteen sections without data, and the notes"
    assert "Not measured: the columns noise, transfer, adaptive, white-box." in page.text
    assert "No sanity check was run: masked gradients would go unnoticed." in page.text
    assert len([span for span in page.all("span") if span.get("class") == "absent"]) == 4, "empty columns"


def test_what_a_foreign_report_leaves_out_or_mistypes_is_passed_over() -> None:
    data = DataDescription("mine", Sizes(4, 2, 10), ["a", "b"], (3, 8, 8), "0" * 64)
    both = [Score(role, "clean", "", 0.0, 10, 9, 0) for role in ("undefended", "hardened")]
    counted = {"hardened": ClassCounts([6, 4], [6, 3])}
    config = {"baseline": {"encoder_learning_rate": "fast"}, "method": {"adaptability": 3}}
    page = Page(html_report(RobustnessReport(data, both, classes=counted, config=config)))
    assert "75.0%" in page.text
    assert "was fine-tuned with an encoder learning rate" not in page.text


def test_every_budget_of_a_chart_is_on_its_axis() -> None:
    data = DataDescription("mine", Sizes(4, 2, 10), ["a", "b"], (3, 8, 8), "0" * 64)
    budgets = {"adaptive": (4, 8), "white-box": (8, 32)}
    points = [CurvePoint("hardened", k, "any", b / 255, 10, 5) for k, each in budgets.items() for b in each]
    chart = curve_chart(RobustnessReport(data, [Score("hardened", "clean", "", 0.0, 10, 9, 0)], points))
    assert chart is not None
    for budget in (0, 4, 8, 32):
        assert f">{budget}</text>" in chart.svg


def test_what_could_not_be_done_is_told(report: RobustnessReport) -> None:
    report.failures = [Failure("attack", "autoattack", "needs <a package>", "white-box", "hardened")]
    page = Page(html_report(report))
    assert "FAILED attack autoattack (white-box, hardened) failed: needs <a package>" in page.text
    assert "NOT DONE: attack autoattack" in page.text


def test_pictures_other_than_small_pngs_are_refused(report: RobustnessReport) -> None:
    assert report.gallery is not None
    image = Image.new("RGB", (16, 16))
    for kind in ("TIFF", "BMP", "GIF", "EPS"):
        file = io.BytesIO()
        image.save(file, kind)
        report.gallery.images[1].png = base64.b64encode(file.getvalue()).decode()
        with pytest.raises(OutputError, match=r"gallery\.images\[1\] is no PNG"):
            html_report(report)
    for size, mode in (((97, 16), "RGB"), ((16, 16), "RGBA"), ((8, 16), "RGB"), ((16, 16), "L")):
        file = io.BytesIO()
        Image.new(mode, size).save(file, "PNG")
        report.gallery.images[1].png = base64.b64encode(file.getvalue()).decode()
        with pytest.raises(OutputError, match=r"gallery\.images\[1\]"):
            html_report(report)
    report.gallery.images[1].png = "no base64!"
    with pytest.raises(OutputError, match="cannot be read"):
        html_report(report)


def test_the_gallery_shows_what_was_scored(report: RobustnessReport) -> None:
    gallery = draw_gallery(report)
    assert [row.score.perturbation for row in gallery.rows[1:] if row.score] == [
        "transfer-uapgd",
        "adaptive-uapgd-hardened",
        "white-box-label-uap-hardened",
    ]
    clean, perturbed = gallery.rows[0].pictures[0], gallery.rows[1].pictures[0]
    change = _pixels(perturbed.uri) - _pixels(clean.uri)
    expected = report.perturbations["transfer-uapgd"].apply(_pixels(clean.uri)[None])[0] - _pixels(clean.uri)
    assert float((change - expected).abs().max()) <= 0.5 / 255 + 1e-6
    assert float(change.abs().max()) > 4 / 255
    assert {picture.label for picture in gallery.rows[0].pictures} == {0, 1, 2}
    assert set(clean.predictions) == {"hardened", "undefended"}


def test_pictures_are_chosen_blindly_and_kept_small() -> None:
    labels = torch.tensor([2, 2, 2, 1, 1, 0, 0, 0, 0])
    places = chosen_images(labels, (224, 160))
    assert labels[places].tolist() == [2, 2, 1, 0]
    assert len(chosen_images(labels, (32, 32))) == 6
    patch = Perturbation(torch.ones(3, 224, 160), 0.03, torch.zeros(1, 224, 160))
    images = torch.rand(4, 3, 224, 160)
    section = gallery_section(images, labels[places], {"hardened": nothing}, {"p": patch})
    assert section is not None
    assert [image.label for image in section.images] == [2, 2, 1, 0]
    assert section.predictions == {"": {"hardened": [0] * 4}, "p": {"hardened": [0] * 4}}
    with Image.open(io.BytesIO(base64.b64decode(section.images[0].png))) as image:
        assert image.size == (69, 96)
    assert gallery_section(torch.rand(2, 4, 8, 8), labels[:2], {}, {}) is None


def nothing(images: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(images), dtype=torch.long)


def test_many_large_pictures_stay_under_the_limit(report: RobustnessReport) -> None:
    noise = {f"p{i}": Perturbation((torch.rand(3, 224, 224) - 0.5) / 10, Linf(0.05)) for i in range(40)}
    report.gallery = gallery_section(torch.rand(4, 3, 224, 224), torch.arange(4) % 3, {"hardened": nothing}, noise)
    report.data.image_shape = (3, 224, 224)
    report.perturbations = noise
    report.scores += [Score("hardened", "adaptive", "uapgd", 0.05, 24, 12, 3, "train", key) for key in noise]
    gallery = draw_gallery(report)
    assert gallery.omitted > 0
    assert gallery.omitted + len(gallery.rows) == 41
    text = html_report(report)
    assert f"{gallery.omitted} more perturbations not shown" in text
    assert MOST_BYTES / 2 < len(text) < 3_000_000


def test_amplified_perturbations_use_the_whole_range() -> None:
    values = torch.tensor([-0.1, 0.0, 0.1]).expand(1, 3, 3)
    assert amplified(Perturbation(values, 0.1))[0, 0].tolist() == pytest.approx([0.0, 0.5, 1.0])
    mask = torch.tensor([0.0, 1.0, 0.0]).expand(1, 3, 3)
    assert amplified(Perturbation(values.abs(), 0.1, mask))[0, 0].tolist() == pytest.approx([0.5, 0.0, 0.5])


def test_classes_are_counted_exactly(report: RobustnessReport) -> None:
    counted = report.classes["hardened"]  # type: ignore[index]
    worst = min(s.correct for s in report.scores if s.model == "hardened" and s.perturbation and s.column != "noise")
    assert counted.n == [8, 8, 8]
    assert sum(counted.attacked or []) == worst
    assert sum(counted.clean) == round(report.accuracy("clean") * 24)
    assert sum(pair.count for pair in counted.confusions) == 24 - worst
    assert all(pair.true != pair.predicted for pair in counted.confusions)


@pytest.mark.slow
def test_chromium_shows_it_without_errors_and_axe_finds_nothing_serious(
    report: RobustnessReport, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(html_report(report), encoding="utf-8")
    dom, said = browser.chromium(tmp_path, page)
    assert said == []
    assert dom.count("<section") == len(SECTIONS)
    axe = axe_core(tmp_path)
    for width in (1280, 390):
        for theme in (0, 1):
            flags = (f"--window-size={width},900", f"--blink-settings=preferredColorScheme={theme}")
            assert browser.violations(tmp_path, page.read_text(encoding="utf-8"), axe, *flags) == []


def _pixels(uri: str) -> torch.Tensor:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return data.view(image.height, image.width, -1).permute(2, 0, 1).float() / 255


def test_what_is_proven_stands_apart_from_what_was_measured(report: RobustnessReport) -> None:
    proof, corruptions = report.certificate, report.corruptions
    assert proof is not None
    assert corruptions is not None
    text = " ".join(html_report(report).split())
    section = text.partition('<section id="proven"')[2].partition("</section>")[0]
    for share in (proof.clean / proof.n, proof.answered / proof.n, proof.accuracy):
        assert f"{share:.1%}" in section
    assert f"on how many of these test images {proof.patch_text}" in section
    section = text.partition('<section id="corruptions"')[2].partition("</section>")[0]
    for row in corruptions.rows:
        assert f"{row.accuracy:.1%}" in section
    mean = corruptions.mean("hardened")
    assert mean is not None
    assert f">{mean:.1%}<" in section
    report.certificate = report.corruptions = None
    bare = " ".join(html_report(report).split())
    assert "Nothing was proven" in bare
    assert "Common corruptions were not tried." in bare


def test_a_notebook_shows_the_page_in_a_frame(report: RobustnessReport, tmp_path: Path) -> None:
    frame = report._repr_html_()
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><html lang=en><title>x</title><body>{frame}</body></html>", encoding="utf-8")
    dom, complaints = browser.chromium(tmp_path, page)
    assert "Lowest accuracy by attacker" in html.unescape(dom)
    assert complaints == []
    (shown,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(shown) == html_report(report)


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What writes the gallery, into a folder of the test's own."""
    tools = Path(__file__).parents[2] / "tools"
    monkeypatch.syspath_prepend(tools)
    found = runpy.run_path(str(tools / "write_gallery.py"))
    found["add"].__globals__.update(FOLDER=tmp_path, ROWS=tmp_path / "runs.jsonl")
    return found


def test_a_run_in_the_gallery_keeps_its_accuracies_and_not_its_pictures(
    bundle: Path, tmp_path: Path, tool: dict[str, Any]
) -> None:
    about = {"title": "Colors", "command": "genaf harden", "machine": "one core"}
    for pictures in (True, False):
        tool["add"](bundle, "colors", pictures=pictures, **about)
        assert ("data:image/png" in (tmp_path / "colors.html").read_text("utf-8")) == pictures
    (row,) = tool["read_rows"]()
    report = RobustnessReport.load(bundle)
    assert row["clean"]["hardened"]["accuracy"] == report.accuracy("clean")
    assert row["clean"]["undefended"]["accuracy"] == report.accuracy("clean", "undefended")
    for column in ("transfer", "adaptive"):
        universal = [score.accuracy for score in report.rows() if score.column == column and is_universal(score)]
        assert row[column]["hardened"]["accuracy"] == min(universal)
    assert f"{100 * report.accuracy('clean'):.1f} % (n = 24)" in tool["page"]()
    assert "[open](gallery/colors.html)" in tool["page"]()
    assert tool["page"]().count("| ≤ ") == 3, "other attacks than today's: transfer, adaptive, single images"
    assert "before today's attacks" in tool["page"]()
    of_today = json.dumps(row | {"attacks": stated_attacks(EvaluationConfig())})
    (tmp_path / "runs.jsonl").write_text(of_today)
    assert "≤" not in tool["page"]()
    tool["link"].__globals__["LINKS"] = ((tmp_path / "README.md", "Runs", ": [here](docs/gallery.md)"),)
    (tmp_path / "README.md").write_text("Runs.")
    for _ in range(2):
        tool["link"]()
        assert (tmp_path / "README.md").read_text() == "Runs: [here](docs/gallery.md)."


@pytest.mark.parametrize(
    "path", ["/home/me/pictures", "hf-hub:/srv/models/x:{}", "C:\\Users\\me\\x", "in /srv/pictures/1.png"]
)
def test_no_gallery_page_names_a_path_of_the_machine(
    path: str, bundle: Path, tmp_path: Path, tool: dict[str, Any]
) -> None:
    report = RobustnessReport.load(bundle)
    report.data.notes = (*report.data.notes, path)
    report.save(tmp_path / "run")
    with pytest.raises(SystemExit, match="names no path of a machine"):
        tool["add"](tmp_path / "run", "x", title="x", command="x", machine="x", pictures=True)
    assert not list(tmp_path.glob("*.html"))


def test_long_words_make_no_page_wider_than_its_window(report: RobustnessReport, tmp_path: Path) -> None:
    """What a publisher names and sets may be one word, and no reader scrolls a whole page sideways for it."""
    report.versions["v" * 200] = "w" * 500
    report.notes, report.config = ["n" * 400], {"x" * 200: "z" * 900}
    tell = "<script>document.title = document.documentElement.scrollWidth + '/' + innerWidth</script></body>"
    path = tmp_path / "page.html"
    path.write_text(browser.POLICY.sub("", html_report(report)).replace("</body>", tell), encoding="utf-8")
    dom, _ = browser.chromium(tmp_path, path, "--window-size=1000,900")
    found = re.search(r"<title>(\d+)/(\d+)</title>", dom)
    assert found is not None
    assert int(found[1]) <= int(found[2])
