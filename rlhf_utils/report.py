"""The report of a run as one HTML file that opens offline: headline numbers, figures, answers side by side.

Model text is escaped; figures are plotly's, whose script is put into the file once. Left out: comparing runs.
"""

import html
import time

import plotly.io as pio

from .show import value_text

CSS = """
:root{--bg:#fbfbfa;--card:#fff;--ink:#23272e;--soft:#68707c;--line:#e4e6ea;--blue:#2f73c4;--good:#2a8a66;--bad:#c24a45}
@media(prefers-color-scheme:dark){:root{--bg:#16181c;--card:#1e2126;--ink:#e6e8eb;--soft:#9aa2ad;--line:#30353c;--blue:#6ea8ea;--good:#5cbf97;--bad:#e5827d}}
body{margin:0 auto;max-width:1040px;padding:40px 24px 80px;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:30px;margin:0 0 4px}h2{font-size:20px;margin:44px 0 6px}p{margin:6px 0 14px;max-width:72ch}.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:14px;margin:24px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}.card b{display:block;font-size:25px;line-height:1.3;white-space:nowrap}
.card span{color:var(--soft);font-size:13px}.figure{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:8px;margin:12px 0}
.pair{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;margin:12px 0}
.pair h3{font-size:16px;margin:0 0 8px}.two{display:grid;grid-template-columns:1fr 1fr;gap:16px}.two div{white-space:pre-wrap;overflow-wrap:anywhere}
.two small{display:block;color:var(--soft);margin-bottom:2px}.tag{font-size:12px;color:var(--soft);border:1px solid var(--line);border-radius:20px;padding:1px 9px;margin-left:8px;font-weight:400}
.win{border-left:4px solid var(--good)}.loss{border-left:4px solid var(--bad)}table{border-collapse:collapse;font-size:14px}td{padding:2px 18px 2px 0}
td:last-child{font-variant-numeric:tabular-nums}details{margin:12px 0}summary{cursor:pointer;color:var(--blue)}@media(max-width:640px){.two{grid-template-columns:1fr}}
"""
CAPTIONS = (
    "The rubric's parts and the rates, before (grey) and after (blue). Refusals of harmful prompts should stay high or rise, of benign ones fall.",
    "Training: reward and KL must be read together. Reward that rises while KL runs away is reward hacking.",
    "All held-out answers. The blue heap should move right in reward without running far in KL.",
    "Every held-out prompt. Points below the line are answers that PPO made worse; hover to read the prompt.",
)


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None or value != value else format(value, form)


def percent(value: float | None) -> str:
    return number(value, ".0%")


def headline(results: dict) -> str:
    """The numbers to see first."""
    low, high = results["eval.win_rate_ci"]
    cards = [
        (percent(results["eval.win_rate_vs_sft"]), f"win rate against π_SFT by the gold rubric (95%: {low:.0%} to {high:.0%})"),
        (f"{number(results['eval.gold_sft'])} → {number(results['eval.gold_ppo'])}", "gold score of 5, before and after"),
        (f"{percent(results['eval.refusal_harmful_sft'])} → {percent(results['eval.refusal_harmful_ppo'])}", "harmful prompts declined"),
        (f"{percent(results['eval.refusal_benign_sft'])} → {percent(results['eval.refusal_benign_ppo'])}", "harmless look-alikes declined (lower is better)"),
        (f"{number(results['eval.kl'])} nats", "KL to π_SFT a response"),
        (f"{number(results['eval.distinct2_sft'])} → {number(results['eval.distinct2_ppo'])}", "distinct word pairs (falls if answers become alike)"),
    ]
    if "reward_model.accuracy" in results:
        cards.append((percent(results["reward_model.accuracy"]), f"reward-model accuracy; label noise allows {percent(results['reward_model.ceiling'])}"))
    minutes = sum(value for name, value in results.items() if name.startswith("time.")) / 60
    cards.append((f"{minutes:.0f} min", "all stages together"))
    return "<div class=cards>" + "".join(f"<div class=card><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for value, label in cards) + "</div>"


def side_by_side(pair: dict) -> str:
    """One prompt with both answers, scores, and a coloured edge; every text escaped."""
    kind = "loss" if pair["gain"] < 0 else "win" if pair["gain"] > 0 else ""
    columns = "".join(f"<div><small>{label} · gold {row['gold']:.2f} · reward {row['reward']:+.2f}</small>{html.escape(row['response'])}</div>"
                      for label, row in (("π_SFT", pair["sft"]), ("π_RLHF", pair["ppo"])))
    note = " · made worse" if pair["gain"] < 0 else ""
    return (f"<div class='pair {kind}'><h3>{html.escape(pair['prompt'])}<span class=tag>{html.escape(pair['category'])}{note}</span></h3>"
            f"<div class=two>{columns}</div></div>")


def build(run: str, results: dict, pairs: list[dict], figures: list, parameters: dict) -> str:
    """The page as text. `pairs` come from evaluate.examples, `figures` in the order of CAPTIONS."""
    drawn = "".join(f"<div class=figure>{pio.to_html(fig, full_html=False, include_plotlyjs='inline' if i == 0 else False, config={'displaylogo': False})}</div>"
                    f"<p class=soft>{html.escape(caption)}</p>" for i, (fig, caption) in enumerate(zip(figures, CAPTIONS)))
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{html.escape(value_text(value))}" for name, value in sorted(results.items()))
    settings = "".join(f"<tr><td>{html.escape(name)}<td>{html.escape(str(value))}" for name, value in parameters.items())
    return f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">
<title>RLHF run {html.escape(run)}</title><style>{CSS}</style><h1>What RLHF changed</h1>
<p class=soft>Run {html.escape(run)}, {time.strftime("%Y-%m-%d")}. Every number is measured on {results["eval.prompts"]} held-out prompts that no stage was trained on.</p>
{headline(results)}
<h2>Answers side by side</h2><p class=soft>Each category in turn, drawn at random, then the worst losses. Green edge: the rubric prefers the new answer; red: the old one.</p>
{"".join(side_by_side(pair) for pair in pairs)}
<h2>Figures</h2>{drawn}
<h2>How to read this</h2><p>The gold rubric scores helpfulness (key points mentioned), harmlessness, honesty, brevity and form. Annotators ranked by it
with noise and biases of their own; the reward model saw only their rankings. The rubric reads surface signs, so trust your own reading of the answers above over any score.</p>
<details><summary>All results</summary><table>{rows}</table></details><details><summary>Parameters of the evaluation</summary><table>{settings}</table></details></html>"""
