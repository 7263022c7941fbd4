"""The token inspector: an answer token by token, first and now; and a search over all answers.

One safe HTML fragment: texts of models go into JSON and are shown as text only. It needs no
network, so it works in a notebook and in the report. Left out: tokens of answers that were not
watched.
"""

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.rows import Prompt
from ..evaluation.compare import has_gold, score_answers
from ..ppo.config import PPOConfig
from ..show.text import words

if TYPE_CHECKING:
    from ..ppo.loop import Rollout  # needs torch, and the inspector does not

MOST = 2000  # answers kept of a run
MOST_UPDATES = 40  # of a watched prompt that are shown
PER_TOKEN = ("logratio", "value", "advantage", "reward")


def batch_answers(
    rollout: "Rollout", prompts: list[Prompt], index: int, config: PPOConfig
) -> list[dict]:
    """The answers of update `index` (from 0) that answers.jsonl keeps: of a long run every n-th."""
    step = -(-config.total_episodes // MOST)
    places = range(-index * config.batch_size % step, config.batch_size, step)
    asked = [prompts[i] for i in places]
    texts = [rollout.samples.answers[i] for i in places]
    scores, kls = rollout.scores.tolist(), rollout.kl_full.sum(1).tolist()
    rows = []
    for i, one in zip(places, score_answers(asked, texts)):
        row = {"prompt": one.prompt.text, "answer": one.answer, "kind": one.prompt.category}
        row |= {"score": round(scores[i], 3), "kl": round(kls[i], 3), "words": one.words}
        row |= {"declined": one.refuses}
        rows.append(row | ({"gold": round(one.gold, 2)} if has_gold([one.prompt]) else {}))
    return rows


def inspector(samples_rows: list[dict], answers_rows: list[dict], rewards_note: str = "") -> str:
    """The fragment, from the rows of samples.jsonl and answers.jsonl.

    rewards_note: a few words on what paid the reward. Viewers that run no script show a table.
    """
    watched = _by_prompt(samples_rows)
    data = {"note": rewards_note, "watched": watched, "answers": _shared(answers_rows)}
    # "<" would end the script element early, or begin a comment in it
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    css, js = (
        Path(__file__).with_name(f"tokens.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    return (
        f'<div class="rlhf-tokens"><style>{css}</style>{_plain(watched)}'
        f'<script type="application/json">{text}</script><script>{js}</script></div>'
    )


def _by_prompt(rows: list[dict]) -> list[dict]:
    """Each watched prompt with its answers, the earliest first; of a long run every n-th."""
    found, step = {}, max(-(-len(rows) // MOST_UPDATES), 1)
    for row in rows[:-1:step] + rows[-1:]:
        for sample in row["samples"]:
            text, kind = sample["prompt"], words(sample.get("category") or "")
            one = found.setdefault(text, {"prompt": text, "kind": kind, "history": []})
            kept = {"update": row["update"], "tokens": sample.get("tokens") or [sample["answer"]]}
            kept |= {name: round(sample[name], 2) for name in ("score", "kl")}
            kept |= {name: sample.get(name) for name in ("decline", "decline_sft", *PER_TOKEN)}
            one["history"].append(kept)
    return list(found.values())


def _shared(rows: list[dict]) -> dict:
    """All answers as short lists, with the number of their prompt and kind."""
    prompts, kinds, found = {}, {}, []
    for row in rows:
        for one in row["answers"]:
            prompt = prompts.setdefault(one["prompt"], len(prompts))
            kind = kinds.setdefault(words(one["kind"] or ""), len(kinds))
            told = [row["update"], prompt, kind, one["answer"], one["words"], int(one["declined"])]
            found.append(told + [one["score"], one["kl"], one.get("gold")])
    return {"prompts": list(prompts), "kinds": list(kinds), "rows": found}


def _plain(watched: list[dict]) -> str:
    """What stands there where no script runs, as on GitHub."""
    head = "<tr><th>prompt</th><th>begins to decline: π_SFT</th><th>π_RLHF</th></tr>"
    lines = []
    for one in watched:
        last = one["history"][-1]
        shares = [last["decline_sft"], last["decline"]]
        told = ["–" if share is None else f"{share:.0%}" for share in shares]
        cells = [html.escape(one["prompt"]), *told]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    note = "The token inspector needs a viewer that runs scripts. Its first numbers:"
    return f'<div class="plain"><p>{note}</p><table>{head}{"".join(lines)}</table></div>'
