"""The panel in a real JupyterLab: it moves while the cell runs, and never flickers."""

import re

import nbformat
import pytest
from helpers_jupyterlab import jupyterlab

PREPARE = """
import time
from rlhf_utils.show import notebook as show, panel
keys = dict.fromkeys([*panel.KEYS, *panel.SPREADS.values()], 0.5)
rows = [keys | {"update": n, "episode": 8 * n, "objective/scores": n / 9} for n in range(1, 16)]
"""
LOOP = """
live = show.LivePlot(panel.live_panel, len(rows))
for done in range(1, len(rows) + 1):
    time.sleep(0.7)
    live(rows[:done], done)
print(f"all {done} are drawn")
"""
WATCH = """() => {
  window.seen = [];
  window.heights = [];
  const look = () => {
    const line = document.querySelector(".js-plotly-plot .gtitle")?.textContent;
    const busy = !document.body.innerText.includes("all 15 are drawn");
    if (busy && line && line !== window.seen.at(-1)) window.seen.push(line);
    if (window.seen.length) {
      const cell = [...document.querySelectorAll(".jp-CodeCell")].at(-1);
      window.heights.push(cell.getBoundingClientRect().height);
    }
    requestAnimationFrame(look);
  };
  look();
}"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """(address, name) of a small notebook."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(source) for source in (PREPARE, LOOP)]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "loop.ipynb")
    with jupyterlab(folder) as address:
        yield address + "loop/tree/loop.ipynb"


def test_browser_the_panel_is_redrawn_while_the_cell_runs(book, chromium):
    page = chromium.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(90_000)
    page.goto(book)
    page.wait_for_selector("[data-status=idle] >> visible=true")
    page.evaluate(WATCH)
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.locator(".jp-OutputArea-output", has_text="all 15 are drawn").wait_for()
    seen, heights = page.evaluate("[window.seen, window.heights]")
    updates = [int(re.match(r"update (\d+) of 15", line).group(1)) for line in seen]
    assert len(updates) >= 3 and updates == sorted(set(updates))
    assert seen[-1].endswith("left") or updates[-1] == 15
    # no frame without the panel: the page would jump
    settled = heights[len(heights) // 4 :]
    assert min(settled) > 0.95 * max(settled) > 900
    assert page.locator(".js-plotly-plot").count() == 1
    page.close()
