"""Draws notebooks/images/demo.png, the README's picture, from a finished run.

Above, what PPO changed over its updates; below, answers of four kinds of prompts before and after.
They are drawn at random among those whose first answer has filler.

    python tests/benchmarks/demo_picture.py demo --seed 8
"""

import argparse
import base64
import html
import random
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from rlhf_utils.files import read_file
from rlhf_utils.preferences.filler import filler
from rlhf_utils.run.paths import run_dir
from rlhf_utils.show import figures
from rlhf_utils.show.text import marked

PICTURE = Path(__file__).parents[2] / "notebooks" / "images" / "demo.png"
KINDS = ("everyday", "benign_lookalike", "harmful", "unanswerable")
PAGE = """
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #23272e; background: #fff;
       margin: 0; padding: 16px 20px; width: 1000px }}
img {{ width: 1000px }}
table {{ border-collapse: collapse; width: 100% }}
th {{ text-align: left; color: #5b6470; font-weight: 600 }}
td, th {{ padding: 7px 14px 7px 0; vertical-align: top; border-top: 1px solid #e4e6ea }}
td:first-child {{ width: 26%; color: #5b6470 }}
</style>
<img src="data:image/png;base64,{figure}">
<table><tr><th>prompt<th>π_SFT, before<th>π_RLHF, after PPO</tr>{rows}</table>
"""


def pairs_of(run: str, seed: int) -> list[tuple[dict, dict]]:
    """One prompt of each kind: its row of π_SFT and its row of π_RLHF."""
    by_policy = {"sft": {}, "ppo": {}}
    for row in read_file(run_dir(run) / "evaluation/samples.jsonl"):
        by_policy.get(row["policy"], {})[row["prompt"]] = row
    rng, found = random.Random(seed), []
    for kind in KINDS:
        rows = [row for row in by_policy["sft"].values() if row["category"] == kind]
        row = rng.choice([row for row in rows if filler(row["answer"])])
        found.append((row, by_policy["ppo"][row["prompt"]]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a folder below outputs/")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    options = parser.parse_args()
    metrics = read_file(run_dir(options.run) / "ppo/metrics.jsonl")
    figure = figures.manners(metrics).update_layout(paper_bgcolor="white")
    rows = ""
    for before, after in pairs_of(options.run, options.seed):
        rows += f"<tr><td>{html.escape(before['prompt'])}"
        for answer in (before["answer"], after["answer"]):
            rows += f"<td>{marked(answer, filler(answer))}"
        rows += "</tr>"
    image = base64.b64encode(figure.to_image("png", width=1000, scale=2)).decode()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "page.html"
        page_file.write_text(PAGE.format(figure=image, rows=rows), encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1040, "height": 100})
        page.goto(page_file.as_uri())
        page.screenshot(path=PICTURE, full_page=True)
        browser.close()
    print(f"written: {PICTURE.name}")


if __name__ == "__main__":
    main()
