"""02_preferences in a real JupyterLab, in a real browser, with a person at the keys.

What is stored is exactly what was judged.
"""

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from helpers_jupyterlab import jupyterlab
from papermill import execute_notebook

from rlhf_utils.preferences.pairs import KINDS
from rlhf_utils.preferences.store import LabelStore

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90_000  # ms; JupyterLab starts slowly on a busy machine

TOO_WIDE = """(() => {
    const widget = document.querySelector(".rk");
    const { right } = widget.closest(".jp-OutputArea-output").getBoundingClientRect();
    const parts = [widget, ...widget.querySelectorAll("*")];
    return parts.filter((part) => part.getBoundingClientRect().right > right + 1)
        .map((part) => part.outerHTML.slice(0, 80));
})()"""  # the parts of the widget that stick out of its cell


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab: (address, folder). Its folder has 02 twice, parameterised for two people.

    The run's 01 is finished. 02 is for "me", all.ipynb for "you", who ranks three.
    """
    folder = tmp_path_factory.mktemp("lab")
    parameters = yaml.safe_load((ROOT / "notebooks" / "profiles" / "smoke.yaml").read_text())
    parameters["run"] = "lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_OUTPUTS", str(folder / "outputs"))
        execute("01_sft", folder / "01.ipynb", parameters)
    parameters |= {"annotator": "person", "num_prompts": 14, "more": {"repeat": 0.0}}
    prepare(folder / "02.ipynb", parameters)
    prepare(folder / "all.ipynb", parameters | {"annotator_name": "you", "num_rankings": 3})
    with jupyterlab(folder) as address:
        yield address, folder


def execute(name, target, parameters, **options) -> None:
    path = ROOT / "notebooks" / f"{name}.ipynb"
    options = {"progress_bar": False, "cwd": str(ROOT)} | options
    execute_notebook(str(path), str(target), parameters, **options)


def prepare(path, parameters) -> None:
    """02 without outputs, and before it a cell that keeps the kernel busy for a while."""
    execute("02_preferences", path, parameters, prepare_only=True)
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    busy = "import time\ntime.sleep(12)\nprint('the other cell is done')"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(busy))
    nbformat.write(notebook, path)


class Notebook:
    """The page, driven as a person would."""

    def __init__(self, page, address):
        self.page = page
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_selector(
            ".jp-NotebookPanel .jp-Toolbar-kernelName:not(:has-text('No Kernel'))"
        )
        page.wait_for_selector("[data-status=idle] >> visible=true")

    def menu(self, *path):
        self.page.click(f".lm-MenuBar-itemLabel:text-is('{path[0]}')")
        self.page.click(f".lm-Menu-itemLabel:text-is('{path[1]}')")

    def run_all(self):
        """Runs the notebook; a later cell stops if nothing is ranked yet. The widget is there."""
        self.menu("Run", "Run All Cells")
        self.page.wait_for_selector(".rk-card")

    def run_to_widget(self):
        """As a person does who reads: all above, then Shift+Enter on the widget's cell."""
        cell = self.page.locator(".jp-CodeCell", has_text="widget.rank(queue")
        cell.locator(".cm-content").click(position={"x": 5, "y": 5})
        self.menu("Run", "Run All Above Selected Cell")
        self.page.locator(".jp-OutputArea-output", has_text="answers each; one of").wait_for()
        self.idle()
        cell.locator(".cm-content").click(position={"x": 5, "y": 5})
        self.press("Shift+Enter")
        self.page.wait_for_selector(".rk-card")

    def idle(self):
        self.page.wait_for_selector("[data-status=idle] >> visible=true")

    def widget_is_ready(self):
        """The whole of its question can be seen, or its top half, and keys go to it."""
        self.page.wait_for_function(
            """() => {
                const widget = document.querySelector(".rk");
                const { top } = widget.getBoundingClientRect();
                const frame = document.querySelector(".jp-WindowedPanel-outer");
                const { top: upper, bottom } = frame.getBoundingClientRect();
                const seen = top >= upper - 1 && top < (upper + bottom) / 2;
                return seen && document.activeElement === widget;
            }"""
        )

    def click_into_widget(self):
        self.page.click(".rk-progress")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def done(self, count):
        self.page.wait_for_function(
            "n => document.querySelector('.rk-progress span')?.textContent.startsWith(n + ' of ')",
            arg=count,
        )


def test_a_persons_run_without_anybody_there_ends_with_a_sentence(lab, monkeypatch):
    """Nothing waits: the widget's cell ends, and a later one says that no ranking is there."""
    _, folder = lab
    monkeypatch.setenv("RLHF_OUTPUTS", str(folder / "outputs"))
    with pytest.raises(Exception, match="No ranking is stored yet"):
        execute_notebook(
            str(folder / "02.ipynb"), str(folder / "x.ipynb"), progress_bar=False, cwd=str(ROOT)
        )


def test_browser_after_run_all_the_widget_waits_for_keys_and_then_all_runs(lab, chromium):
    address, folder = lab
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    book = Notebook(context.new_page(), address + "you/tree/all.ipynb")
    page = book.page
    book.run_all()
    stop = page.locator(".jp-RenderedText", has_text="No ranking is stored yet")
    stop.wait_for()
    page.wait_for_timeout(1000)  # JupyterLab scrolls to what failed
    book.widget_is_ready()
    page.set_viewport_size({"width": 640, "height": 400})  # 1280 × 800 at 200%
    page.wait_for_timeout(500)
    assert page.evaluate(TOO_WIDE) == []
    page.set_viewport_size({"width": 1280, "height": 800})
    book.click_into_widget()
    for number in range(3):
        book.press("2", "1", "4", "3", "Enter")
        book.done(number + 1)
    page.wait_for_selector(".rk-next >> text=Run Selected Cell and All Below")
    store = LabelStore(folder / "outputs" / "lab" / "preferences" / "labels.sqlite")
    found = store.judgements()
    assert [[each.ranks[i] for i in each.shown_order] for each in found] == [[2, 1, 4, 3]] * 3
    book.menu("Run", "Run Selected Cell and All Below")
    page.locator(".jp-OutputArea-output", has_text="judgements in preferences").wait_for()
    book.idle()
    assert stop.count() == 0  # no old error stands between what was ranked and the results
    assert page.evaluate("document.activeElement.closest('.rk')") is None
    context.close()


def test_browser_a_person_labels_in_jupyterlab(lab, chromium):
    address, folder = lab
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    book = Notebook(context.new_page(), address + "me/tree/02.ipynb")
    page = book.page
    book.run_to_widget()
    store = LabelStore(folder / "outputs" / "lab" / "preferences" / "labels.sqlite")

    def judgements():
        return [each for each in store.judgements(kinds=KINDS) if each.annotator == "me"]

    def shown():
        """The ranks of each ranking, as the annotator saw the answers."""
        ranked = [each for each in judgements() if each.ranks]
        return [[each.ranks[i] for i in each.shown_order] for each in ranked]

    def places():
        return page.locator(".rk-place").all_text_contents()

    book.widget_is_ready()  # nobody has clicked into it
    assert page.text_content(".rk-progress span") == "0 of 14 · 14 prompts"
    book.press("2", "1", "4", "3", "Enter")  # keys
    book.done(1)
    for place in (0, 2, 1, 3):  # clicks
        page.locator(".rk-card").nth(place).click()
    page.click(".rk-do:has-text('submit')")
    book.done(2)
    for place in (3, 2, 1, 0):  # drags
        page.locator(".rk-head").nth(place).drag_to(page.locator(".rk-hint"))
    book.press("Enter")
    book.done(3)
    book.press("1", "2", "t", "3", "4", "f", "Enter")  # a tie, flagged
    book.done(4)
    book.press("s")  # skipped
    book.done(5)
    book.press("1", "2", "3", "4", "Enter")
    book.done(6)
    book.press("u")  # taken back
    book.done(5)
    assert [each.kind for each in judgements()] == ["ranking"] * 4 + ["skip"]
    assert shown() == [
        [2, 1, 4, 3],
        [1, 3, 2, 4],
        [4, 3, 2, 1],
        [1, 1, 3, 4],
    ]
    assert judgements()[3].flags == ["flagged"]
    cells = nbformat.read(folder / "02.ipynb", 4).cells
    assert page.locator(".jp-Cell").count() == len(cells)  # no key reached the notebook

    prompt = page.text_content(".rk-prompt")
    book.press("Backspace", "Backspace", "Backspace", "Backspace", "3", "1")
    page.click("[data-command='docmanager:save']")
    page.wait_for_timeout(1500)
    page.reload()  # the page is new, the kernel is not: the question and the draft are there
    page.wait_for_selector(".rk-card")
    assert page.text_content(".rk-prompt") == prompt and places() == ["2nd", "", "1st", ""]
    stolen = "document.activeElement.closest('.rk')"
    assert page.evaluate(stolen) is None  # whoever opens a notebook may read it first
    book.click_into_widget()
    book.press("2", "4", "Enter")
    book.done(6)
    assert shown()[-1] == [2, 3, 1, 4]

    first = page.locator(".jp-Cell").first  # rank while another cell runs
    told = first.locator(".jp-OutputArea-output", has_text="the other cell is done")
    first.locator(".cm-content").click()
    book.press("Control+Enter")
    page.wait_for_selector("[data-status=busy]")
    book.click_into_widget()
    for count in (7, 8, 9):
        book.press("1", "2", "3", "4", "Enter")
        book.done(count)
    assert told.count() == 0 and len(judgements()) == 9
    told.wait_for()

    book.menu("Kernel", "Restart Kernel…")
    page.click(".jp-Dialog .jp-mod-warn, .jp-Dialog .jp-mod-accept")
    page.wait_for_selector("[data-status=idle] >> visible=true")
    book.click_into_widget()
    # nobody is there to save it: that is said, and the ranking kept
    book.press("1", "2", "3", "4", "Enter")
    page.wait_for_selector("text=Waiting for the kernel")
    assert len(judgements()) == 9
    book.run_all()
    page.wait_for_function("document.querySelectorAll('.rk-alarm button').length === 0")
    book.done(9)
    assert places() == ["1st", "2nd", "3rd", "4th"]
    book.widget_is_ready()
    book.press("Enter")
    book.done(10)
    found = judgements()
    assert [each.kind for each in found].count("ranking") == 9
    assert len(found) == 10 == len({each.item_id for each in found})
    for each in found:
        assert re.fullmatch(r"[0-9a-f]{32}", each.uid) and each.session == "widget"
    context.close()
