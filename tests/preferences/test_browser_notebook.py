"""02_preferences in a real JupyterLab, in a real browser, with a person at the keys: what is stored is exactly what was judged."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill import execute_notebook

from rlhf_utils.preferences.store import KINDS, LabelStore

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90_000  # ms; JupyterLab starts slowly on a busy machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a folder with 02, parameterised for a person, and a run whose 01 is finished: (address, folder)."""
    folder = tmp_path_factory.mktemp("lab")
    parameters = yaml.safe_load((ROOT / "notebooks" / "profiles" / "smoke.yaml").read_text()) | {
        "run": "lab"
    }
    environment = os.environ | {
        "RLHF_OUTPUTS": str(folder / "outputs"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "PYTHONWARNINGS": "ignore",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_OUTPUTS", environment["RLHF_OUTPUTS"])
        execute_notebook(
            str(ROOT / "notebooks" / "01_sft.ipynb"),
            str(folder / "01.ipynb"),
            parameters,
            progress_bar=False,
            cwd=str(ROOT),
        )
    prepared = folder / "02.ipynb"
    execute_notebook(
        str(ROOT / "notebooks" / "02_preferences.ipynb"),
        str(prepared),
        parameters
        | {"annotator": "person", "num_prompts": 12, "num_ood_prompts": 2, "repeat": 0.0},
        prepare_only=True,
    )
    notebook = nbformat.read(prepared, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.insert(
        0, nbformat.v4.new_code_cell("import time\ntime.sleep(12)\nprint('the other cell is done')")
    )
    nbformat.write(notebook, prepared)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    for _ in range(240):
        if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
            break
        assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
        time.sleep(0.25)
    yield f"http://127.0.0.1:{port}/lab/tree/02.ipynb", folder
    server.terminate()
    server.wait(30)


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
        page.wait_for_selector("[data-status=idle]")

    def menu(self, *path):
        self.page.click(f".lm-MenuBar-itemLabel:text-is('{path[0]}')")
        self.page.click(f".lm-Menu-itemLabel:text-is('{path[1]}')")

    def run_all(self):
        """Runs the notebook to the cell that asks for labels: the next one stops, as nothing is ranked yet, or goes through."""
        self.menu("Run", "Run All Cells")
        self.page.wait_for_selector(".rk-card")

    def focus(self):
        self.page.locator(".rk").focus()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def done(self, count):
        self.page.wait_for_function(
            "n => document.querySelector('.rk-progress span')?.textContent.startsWith(n + ' of ')",
            arg=count,
        )


def test_a_persons_run_without_anybody_there_ends_with_a_sentence(lab, monkeypatch):
    """Nothing waits: the widget's cell ends, and the next one says that there is nothing to go on with."""
    _, folder = lab
    monkeypatch.setenv("RLHF_OUTPUTS", str(folder / "outputs"))
    with pytest.raises(Exception, match="No ranking is stored yet"):
        execute_notebook(
            str(folder / "02.ipynb"), str(folder / "x.ipynb"), progress_bar=False, cwd=str(ROOT)
        )


def test_browser_a_person_labels_in_jupyterlab(lab, chromium):
    address, folder = lab
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    book = Notebook(context.new_page(), address)
    page = book.page
    book.run_all()
    store = LabelStore(folder / "outputs" / "lab" / "preferences" / "labels.sqlite")

    def rows():
        return store.rows(kinds=KINDS)

    def shown(row):
        return [row["ranks"][index] for index in row["shown_order"]]

    book.focus()
    book.press("2", "1", "4", "3", "Enter")  # keys
    book.done(1)
    for place in (0, 2, 1, 3):  # clicks
        page.locator(".rk-card").nth(place).click()
    page.click(".rk-do:has-text('submit')")
    book.done(2)
    for place in (3, 2, 1, 0):  # drags
        page.locator(".rk-head").nth(place).drag_to(page.locator(".rk-hint"))
    book.focus()
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
    assert [shown(row) for row in rows() if row["ranks"]] == [
        [2, 1, 4, 3],
        [1, 3, 2, 4],
        [4, 3, 2, 1],
        [1, 1, 3, 4],
    ]
    assert [row["kind"] for row in rows()] == ["ranking"] * 4 + ["skip"] and rows()[3]["flags"] == [
        "flagged"
    ]
    assert page.locator(".jp-Cell").count() == len(
        nbformat.read(folder / "02.ipynb", 4).cells
    )  # no key reached the notebook

    prompt = page.text_content(".rk-prompt")
    book.press("Backspace", "Backspace", "Backspace", "Backspace", "3", "1")
    page.click("[data-command='docmanager:save']")
    page.wait_for_timeout(1500)
    page.reload()  # the page is new, the kernel is not: the question and the draft are there
    page.wait_for_selector(".rk-card")
    assert page.text_content(".rk-prompt") == prompt and page.locator(
        ".rk-place"
    ).all_text_contents() == ["2nd", "", "1st", ""]
    book.focus()
    book.press("2", "4", "Enter")
    book.done(6)
    assert shown(rows()[-1]) == [2, 3, 1, 4]

    told = page.locator(".jp-Cell").first.locator(
        ".jp-OutputArea-output", has_text="the other cell is done"
    )
    page.locator(".jp-Cell").first.locator(".cm-content").click()  # rank while another cell runs
    book.press("Control+Enter")
    page.wait_for_selector("[data-status=busy]")
    book.focus()
    for count in (7, 8, 9):
        book.press("1", "2", "3", "4", "Enter")
        book.done(count)
    assert told.count() == 0 and len(rows()) == 9
    told.wait_for()

    book.menu("Kernel", "Restart Kernel…")
    page.click(".jp-Dialog .jp-mod-warn, .jp-Dialog .jp-mod-accept")
    page.wait_for_selector("[data-status=idle]")
    book.focus()
    book.press(
        "1", "2", "3", "4", "Enter"
    )  # nobody is there to save it: that is said, and the ranking kept
    page.wait_for_selector("text=Waiting for the kernel")
    assert len(rows()) == 9
    book.run_all()
    page.wait_for_function("document.querySelectorAll('.rk-alarm button').length === 0")
    book.done(9)
    assert page.locator(".rk-place").all_text_contents() == ["1st", "2nd", "3rd", "4th"]
    book.focus()
    book.press("Enter")
    book.done(10)
    ranked = [row for row in rows() if row["kind"] == "ranking"]
    assert len(rows()) == 10 and len(ranked) == 9 and len({row["item_id"] for row in rows()}) == 10
    assert all(
        re.fullmatch(r"[0-9a-f]{32}", row["uid"]) and row["session"] == "widget" for row in rows()
    )
    context.close()
