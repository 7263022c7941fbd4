"""04 in a real JupyterLab: its buttons reach the loop while the kernel is busy."""

from pathlib import Path

import nbformat
import pytest
import yaml
from helpers_jupyterlab import jupyterlab
from papermill import execute_notebook

from rlhf_utils.files import read_file, read_json

ROOT = Path(__file__).resolve().parents[2]
IDLE = "[data-status=idle] >> visible=true"
PROMPT = "<img src=x onerror=alert(1)> Who are you?"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab whose 04.ipynb is at work for a minute: (address, folder)."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "slow.py").write_text(
        "import time\n\n"
        "def letters(completions, **columns):\n"
        "    time.sleep(0.5)\n"
        "    return [text.count('e') / max(len(text), 1) * 20 for text in completions]\n"
    )
    parameters = yaml.safe_load((ROOT / "notebooks" / "profiles" / "smoke.yaml").read_text())
    parameters |= {"run": "lab", "num_demonstrations": 24, "response_length": 8}
    parameters |= {"prompts": "builtin", "reward": f"{folder}/slow.py:letters"}
    parameters |= {"total_episodes": 32 * 60}
    options = {"progress_bar": False, "cwd": str(ROOT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_OUTPUTS", str(folder / "outputs"))
        first = ROOT / "notebooks" / "01_sft.ipynb"
        execute_notebook(str(first), str(folder / "01.ipynb"), parameters, **options)
    fourth, target = ROOT / "notebooks" / "04_ppo.ipynb", folder / "04.ipynb"
    execute_notebook(str(fourth), str(target), parameters, prepare_only=True, **options)
    notebook = nbformat.read(target, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, target)
    with jupyterlab(folder) as address:
        yield address, folder


def test_browser_the_buttons_reach_a_loop_that_is_at_work(lab, chromium):
    address, folder = lab
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page, run = context.new_page(), folder / "outputs" / "lab"
    page.set_default_timeout(90_000)

    def rows():
        return read_file(run / "ppo" / "metrics.jsonl")

    page.goto(address + "steer/tree/04.ipynb")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector(IDLE)
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_selector(".steer[data-state=running]")
    page.locator(".steer").scroll_into_view_if_needed()
    page.click(".steer button:has-text('Pause')")
    page.wait_for_selector(".steer[data-state=paused]")
    held = len(rows())
    page.fill(".steer-field input >> nth=0", "0.5")
    page.press(".steer-field input >> nth=0", "Enter")
    newest = page.locator(".steer-log li").first
    newest.filter(has_text="kl_coef 0.05 → 0.5").wait_for()
    page.fill(".steer-field input >> nth=1", "-1")
    page.click(".steer-field button >> nth=1")
    newest.filter(has_text="learning_rate=-1.0 must be above 0").wait_for()
    page.fill(".steer-sample input", PROMPT)
    page.click("text=Sample now")
    newest.filter(has_text=", reward ").wait_for()
    assert page.locator(".steer-log img").count() == 0
    assert len(rows()) == held
    page.click(".steer button:has-text('Resume')")
    page.wait_for_selector(".steer[data-state=running]")
    for _ in range(300):
        if len(rows()) > held:
            break
        page.wait_for_timeout(100)

    before = len(rows())
    assert before > held
    page.click(".steer button:has-text('Stop and save')")
    clicked = len(rows())
    page.locator(".jp-OutputArea-output", has_text="The loop has ended.").wait_for()
    done = rows()
    assert before <= len(done) <= clicked + 1 < 60, "it ended within one update"
    assert (run / f"ppo/checkpoints/update-{len(done):06d}/state.json").is_file()
    assert done[held]["objective/kl_coef"] == 0.5 and "kl_coef" in done[held]["interventions"][0]
    page.wait_for_selector(IDLE)
    assert page.locator(".steer").count() == 0
    assert read_json(run / "ppo/manifest.json")["results"]["ppo.stopped_early"]
    page.click("[data-command='docmanager:save']")
    page.wait_for_timeout(1500)
    assert "widget-view" not in (folder / "04.ipynb").read_text()
    context.close()
