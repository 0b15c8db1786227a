"""What people read and copy runs: code blocks of README and docs, examples, the notebook, the docstrings' promises."""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from devtools import Page, axe_core, visit
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "export")]

from blocks import blocks  # noqa: E402
from hub_server import TOKEN, LoopbackHub  # noqa: E402

from genaf_sdk.cli import COMMANDS  # noqa: E402
from genaf_sdk.inputs.keys import Knowledge  # noqa: E402
from genaf_sdk.report.robustness import RobustnessReport  # noqa: E402
from genaf_sdk.report.scores import Role, Score  # noqa: E402
from genaf_sdk.report.sections import DataDescription, Sizes  # noqa: E402
from genaf_sdk.rows import Comparison, read_rows  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = [page for page in PAGES if any(not block.needs for block in blocks(page))]
QUICK = ("README.md", "attacks.md", "reading-the-report.md")
"""Pages that every test run tries; the others are run with -m slow."""


def environment(**more: str) -> dict[str, str]:
    """Presets at the size of a test, no network."""
    paths = (ROOT / "tests" / "reduced", ROOT)
    found = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return found | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"} | more


def run(folder: Path, *arguments: str, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    run(folder, "-m", "genaf_sdk", "demo")
    return folder / "demo-output"


@pytest.fixture
def checkout(demo: Path, tmp_path: Path) -> Path:
    """A folder that looks like the repository after ``make demo``."""
    shutil.copytree(demo, tmp_path / "demo-output")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=() if page.name in QUICK else pytest.mark.slow) for page in RUNNABLE],
)
def test_code_blocks_run(page: Path, checkout: Path) -> None:
    run(checkout, str(ROOT / "tools" / "blocks.py"), str(page))


def test_most_blocks_are_run_and_the_others_say_what_they_need() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert sum(not block.needs for block in found) > len(found) / 2


def test_a_block_that_fails_stops_the_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\n```\n\n*Needs a miracle:*\n\n```python\n1 / 0\n```\n\n```sh\ntrue\nfalse | cat\n```\n\n"
        "```python\nprint('never', x)\n```\n"
    )
    assert [(block.line, block.needs) for block in blocks(page)] == [
        (2, ""),
        (8, "Needs a miracle"),
        (12, ""),
        (17, ""),
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "blocks.py", page], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Needs a miracle" in done.stdout
    assert "never" not in done.stdout


def anchors(page: Path) -> set[str]:
    """What a link may name after ``#``: the headings, as GitHub and the site spell them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "tests/README.md"))],
    ids=lambda page: page.name,
)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            found = page.parent / target if target else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def test_the_reference_lists_every_command() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8")
    assert sorted(re.findall(r"^### genaf (\S+)$", page, re.M)) == sorted(COMMANDS)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda example: example.name)
def test_examples_fit_on_one_screen(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 60


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "quickstart.py"))
    assert "white-box" in printed
    assert (tmp_path / "quickstart-output" / "report.html").is_file()


@pytest.mark.slow
def test_a_folder_of_ones_own_runs(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "own_folder.py"))
    assert "'disc'" in printed
    assert "under the strongest attack" in printed


def test_export_and_serve_runs(checkout: Path) -> None:
    printed = run(checkout, "examples/export_and_serve.py", "demo-output").splitlines()
    here = printed[1].removeprefix("here: ").partition(" ")[0]
    assert printed[2] == f"served: {here}"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_several_processes_run(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    printed = run(tmp_path, *launcher, str(ROOT / "examples" / "several_gpus.py"), "--quick", OMP_NUM_THREADS="1")
    assert printed.startswith("2 processes: ")


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    server = LoopbackHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_push_and_a_fetch_run(checkout: Path, hub: LoopbackHub) -> None:
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(checkout / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    printed = run(checkout, "examples/push_to_hub.py", "demo-output", "tester/digits", **settings)
    assert "Nothing differs" in printed
    assert len(hub.repositories["tester/digits"].commits) == 1


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = ROOT / "examples" / "quickstart.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "committed without outputs"
    printed = run(tmp_path, str(ROOT / "tools" / "blocks.py"), str(notebook), MPLBACKEND="agg")
    assert printed.splitlines()[-1].endswith("processor seconds so far")
    assert [line.split()[0] for line in printed.splitlines() if "attacked" in line] == ["fine-tuned", "hardened"]
    assert (tmp_path / "hardened" / "report.html").is_file()
    stopped = json.loads((tmp_path / "server.log").read_text().splitlines()[-1])
    assert stopped["event"] == "stopped"


@pytest.fixture(scope="session")
def site() -> Path:
    """The built documentation."""
    pytest.importorskip("zensical")
    pytest.importorskip("latex2mathml")
    run(ROOT, str(ROOT / "tools" / "build_docs.py"))
    return ROOT / "build" / "site"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site: Path) -> None:
    index = json.loads((site / "search.json").read_text("utf-8"))
    found = {item["location"].partition("#")[0] for item in index["items"] if item["text"]}
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for page in PAGES if page.parent != ROOT}
    assert {page for page in pages if not page.startswith("results/")} <= found, "what the site's search finds"


SEARCH_FIELD = """[...document.querySelectorAll("*")].some((element) => element.shadowRoot?.activeElement)"""
SEARCH_RESULTS = """[...document.querySelectorAll("*")].map((element) => element.shadowRoot?.textContent)
  .find((text) => text?.includes("result"))"""


LEFT_OUT = """[...document.querySelectorAll("pre > code, .equation, .md-typeset__scrollwrap")]
  .filter((region) => region.scrollWidth > region.clientWidth && region.tabIndex < 0).length"""
"""How many regions that scroll sideways the keyboard cannot reach (yet): docs/assets/site.js sees to them."""


class Files(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_equations_are_shown_as_such(site: Path) -> None:
    page = (site / "explanation" / "algorithm.html").read_text("utf-8")
    assert page.count("<math") > 40
    for path in (path for path in site.rglob("*.html") if "results" not in path.parts):
        text = re.sub(r"<(code|script|style)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"\$[^$\n<]+\$|\$\$", text), path.name


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the built documentation is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_site_finds_a_word(address: str, tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        await page.until("document.querySelector('.md-search__button')", lambda button: button is not None)
        await page.evaluate("document.querySelector('.md-search__button').click()")
        await page.until(SEARCH_FIELD, bool)
        await page.call("Input.insertText", text="PatchCleanser")
        await page.until(SEARCH_RESULTS, lambda text: "Certificates" in text, 60)
        assert page.complaints == []

    visit(tmp_path, address + "index.html", act)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_every_page_of_the_site_can_be_used_by_everybody(
    site: Path, address: str, scheme: str, width: int, tmp_path: Path
) -> None:
    axe = axe_core(tmp_path)
    names = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    names = [name for name in names if not name.startswith("results/")]
    found: dict[str, list[str]] = {}

    async def act(page: Page) -> None:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await page.call("Emulation.setDeviceMetricsOverride", **screen)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        await page.call("Emulation.setEmulatedMedia", features=media)
        for name in names:
            await page.call("Page.navigate", url=address + name)
            await page.until("document.readyState", lambda state: state == "complete")
            await page.until(LEFT_OUT, lambda count: count == 0)
            found[name] = [f"{each['id']}: {each['nodes'][0]['target']}" for each in await page.axe(axe)]
            if await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                found[name].append("the page scrolls sideways")
            assert page.complaints == []

    visit(tmp_path, address + names[0], act, 1200)
    assert len(found) > 30
    assert {name: violations for name, violations in found.items() if violations} == {}


@pytest.mark.parametrize(
    "folder",
    sorted(rows.parent for rows in (ROOT / "docs" / "results").glob("*/comparison.jsonl")),
    ids=lambda folder: folder.name,
)
def test_tables_of_results_are_their_rows(folder: Path) -> None:
    rows = Comparison(read_rows(folder / "comparison.jsonl")).cells()
    assert sorted(table_cells((folder / "comparison.md").read_text())) == sorted(rows)


def test_the_table_to_decide_by_is_made_from_the_rows() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_decision.py"))
    assert tool["PAGE"].read_text("utf-8") == tool["page"](), "run tools/write_decision.py"
    table = tool["table"]()
    begins = [table.index(f"| {task} | {images:,} | `") for task, images in tool["TASKS"].values()]
    assert begins == sorted(begins)
    for begin, end in pairwise([*begins, len(table)]):  # what belongs to a task, which its first line names
        assert table[begin:end].count("| `default` | ") == 1


def test_the_tables_of_methods_are_made_from_the_rows() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_tables.py"))
    for path in tool["PAGES"]:
        text = path.read_text("utf-8")
        assert text == tool["page"](path), "run tools/write_tables.py"
        assert "<!-- write_tables: methods-" in text
        assert "| `default` | " in text


def test_figures_in_sentences_are_those_of_the_table() -> None:
    text = (ROOT / "docs" / "methods.md").read_text("utf-8")
    table = text.partition("<!-- write_tables: methods-mobilenet_v1_x0.25-128-trash -->\n")[2].partition("<!--")[0]
    head, _, *lines = [[cell.strip(" `≤†") for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    rows = {line[0]: dict(zip(head[1:], map(float, line[1:]), strict=True)) for line in lines}

    def gain(method: str, column: str) -> str:
        return f"{rows[method][column] - rows['fine-tuning'][column]:.0f}"

    words = {"-5": "five points", "-2": "two"}
    asked = " ".join((ROOT / "docs" / "how-to" / "decide.md").read_text("utf-8").split())
    for method, said in {
        "default": "`default` kept {} points more than fine-tuning under a perturbation from the public encoder, and {}"
        " more under one from its own. That cost {} of clean accuracy.",
        "strict": "`strict` kept {} and {} more, for {}.",
    }.items():
        columns = [gain(method, column) for column in ("UAP, transferred", "UAP, adaptive", "clean")]
        assert said.format(*columns[:2], words[columns[2]]) in asked
    limits = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"leaves {rows['default']['patch an image']:.0f} % of `default` on the photographs of trash" in limits


def test_the_board_is_made_from_the_rows() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_board.py"))
    assert tool["PAGE"].read_text("utf-8") == tool["page"](), "run tools/write_board.py"
    entries = list(tool["own_entries"]())
    assert len({(entry.data, entry.method) for entry in entries}) == len(entries) >= 2 * len(tool["FOLDERS"])
    commands = {command.format(method="default", seeds="0 1 2") for *_, command in tool["FOLDERS"].values()}
    beginnings = {command.partition(" --seeds")[0] for command in commands}
    assert beginnings <= {entry.command.partition(" --seeds")[0] for entry in entries}
    assert all(0 < entry.accuracies["patch"][0] < entry.accuracies["clean"][0] for entry in entries)


def test_figures_that_an_attack_may_lower_are_marked_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row without the attacks of today, or with fewer tries of them, is an upper bound; so is one that lacks one."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    bounded = runpy.run_path(str(ROOT / "tools" / "bounds.py"))["bounded"]

    def scores(**tries: int) -> list[Score]:
        return [
            Score(Role.HARDENED, Knowledge.ADAPTIVE, name.replace("_", "-"), 0.03, 9, 5, 5, tries=count)
            for name, count in tries.items()
        ]

    assert bounded(scores(uapgd=1)) == {"perturbation", "patch"}
    assert bounded(scores(cluster_patch=12, encoder_patch=6)) == set()
    assert bounded(scores(cluster_patch=12, encoder_patch=1)) == {"patch"}
    assert bounded(scores(cluster_patch=12)) == {"patch"}, "one that failed would have left less"


def test_a_row_of_somebody_else_stands_on_the_board_with_the_command_that_verifies_it(
    demo: Path, tmp_path: Path
) -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_board.py"))
    (tmp_path / "someone--digits").mkdir()
    shutil.copy(demo / "report.json", tmp_path / "someone--digits")
    report = json.loads((demo / "report.json").read_text())
    (entry,) = tool["others_entries"](tmp_path)
    hardened = [row for row in report["scores"] if row["model"] == "hardened"]
    label_free = [row for row in hardened if row["column"] in ("transfer", "adaptive")]
    universal = [row["accuracy"] for row in label_free if row.get("threat") == "linf"]
    assert entry.accuracies["universal"] == [min(universal)]
    assert entry.accuracies["clean"] == [row["accuracy"] for row in hardened if row["column"] == "clean"]
    line = tool["table"]([entry]).splitlines()[-1]
    assert line.startswith("| digits | `bundled:simclr-cifar10` | `someone/digits` |")
    assert line.endswith("| `genaf verify hf-hub:someone/digits` |")


def test_a_row_that_was_easily_borne_is_in_no_column_of_the_board(tmp_path: Path) -> None:
    """A smaller budget, a smaller patch, or few images: ``genaf verify`` agrees, as the report states them."""
    tool = runpy.run_path(str(ROOT / "tools" / "write_board.py"))
    (tmp_path / "someone--digits").mkdir()
    data = DataDescription("digits", Sizes(1000, 200, 450), ["0", "1"], (3, 32, 32), "0" * 64)

    def columns(attack: str, column: str, budget: float, n: int) -> set[str]:
        threat = "patch" if attack.endswith("patch") else "linf"
        saved = "" if attack == "pgd" else f"{column}-{attack}"
        row = Score(Role.HARDENED, Knowledge(column), attack, budget, n, n, 0, perturbation=saved, threat=threat)
        report = RobustnessReport(data, [row]).to_dict()
        (tmp_path / "someone--digits" / "report.json").write_text(json.dumps(report))
        (entry,) = tool["others_entries"](tmp_path)
        return set(entry.accuracies)

    assert columns("uapgd", "adaptive", 10 / 255, 450) == {"universal"}
    assert columns("label-uap", "white-box", 10 / 255, 450) == {"universal, labels"}
    assert columns("encoder-patch", "adaptive", 0.03, 450) == {"patch"}
    assert columns("pgd", "white-box", 8 / 255, 100) == {"each image, 8/255"}
    assert columns("uapgd", "adaptive", 2 / 255, 450) == columns("label-uap", "white-box", 9 / 255, 450) == set()
    assert columns("encoder-patch", "adaptive", 0.01, 450) == set()
    assert columns("pgd", "white-box", 7.6 / 255, 100) == columns("pgd", "white-box", 8 / 255, 1) == set()


def test_the_drawing_of_the_threat_is_what_the_tool_draws() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "draw_threat.py"))
    assert tool["DRAWING"].read_text("utf-8") == tool["drawing"](), "run tools/draw_threat.py"
    drawn = ET.fromstring(tool["drawing"]())
    assert drawn.find("{http://www.w3.org/2000/svg}title") is not None
    for (left, top, width, height), _, _, lines in tool["BOXES"].values():
        assert left + width <= tool["WIDTH"]
        assert top + height <= tool["HEIGHT"]
        assert all(len(line) < width / 6 for line in lines), "at 12 px a letter takes some 6"


def test_the_banner_is_what_the_tool_draws() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "draw_banner.py"))
    assert tool["BANNER"].read_text("utf-8") == tool["banner"](), "run tools/draw_banner.py"
    assert tool["LOGO"].read_text("utf-8") == tool["logo"](), "run tools/draw_banner.py"
    ET.fromstring(tool["logo"]())
    last = [float(each.get("x", 0)) + float(each.get("width", 0)) for each in ET.fromstring(tool["banner"]())]
    assert max(last) < tool["WIDTH"] + 1
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(says in readme for _, says in tool["badges"]())


def table_cells(table: str) -> list[list[str]]:
    """Return the cells of each row, heads included; remarks below the table are none."""
    lines = [line.strip("| ").split(" | ") for line in table.strip().splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def test_the_picture_of_the_report_shows_the_run_of_the_tutorial() -> None:
    tutorial = (ROOT / "docs" / "tutorials" / "first-run.md").read_text("utf-8")
    with Image.open(ROOT / "docs" / "report.png") as picture:
        shown = re.findall(r"(\d+\.\d)%(?! of the area)", picture.info["Description"])
    assert len(set(shown)) > 2
    assert [number for number in shown if number not in tutorial] == [], "genaf demo, then tools/draw_report.py"


def test_the_gallery_is_made_from_its_rows() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_gallery.py"))
    rows = tool["read_rows"]()
    assert tool["PAGE"].exists() == bool(rows), "a page without a run says nothing"
    assert not rows or tool["PAGE"].read_text("utf-8") == tool["page"](), "run tools/write_gallery.py"
    assert {path.stem for path in tool["FOLDER"].glob("*.html")} == {row["name"] for row in rows}
    for path, after, said in tool["LINKS"]:
        assert after in path.read_text("utf-8")
        assert (said in path.read_text("utf-8")) == bool(rows), "readers find the page once there is one"
