"""A plain ranking form for people, on ipywidgets. Text from a model is shown as text: it is escaped, never rendered.

Left out, for now: keyboard, drag and drop, choosing what to ask next.
"""

import html
import random
import time

import ipywidgets as widgets

from .preferences import LabelStore


def ranking_form(items: list[dict], store: LabelStore, annotator: str, seed: int = 0) -> widgets.VBox:
    """A form that asks `annotator` to rank the responses of every item that they have not judged yet; each submission is stored at once."""
    judged = {row["item_id"] for row in store.rows(items) if row["annotator"] == annotator}
    waiting = [item for item in items if item["id"] not in judged]
    box, total = widgets.VBox(), len(items)

    def ask() -> None:
        done = total - len(waiting)
        if not waiting:
            box.children = [widgets.HTML(f"<b>All {total} are ranked. Thank you!</b> Run the next cell.")]
            return
        item, shown_at = waiting[0], time.time()
        shown = random.Random(f"{seed}/{item['id']}/{annotator}").sample(range(len(item["responses"])), len(item["responses"]))
        style = "border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:8px 12px;margin:2px 0;white-space:pre-wrap;line-height:1.45"
        choices = [widgets.BoundedIntText(value=1, min=1, max=len(shown), layout={"width": "60px"}) for _ in shown]
        cards = [widgets.HBox([choice, widgets.HTML(f"<div style='{style}'>{html.escape(item['responses'][index])}</div>")])
                 for choice, index in zip(choices, shown)]
        button, message = widgets.Button(description="Save ranking", button_style="primary"), widgets.HTML()

        def save(_) -> None:
            if waiting[:1] != [item]:  # a second click on a form already answered
                return
            ranks = [0] * len(shown)
            for choice, index in zip(choices, shown):
                ranks[index] = choice.value
            try:
                store.add(item["id"], annotator, item["prompt"], item["responses"], shown, ranks, session="form", shown_at=shown_at)
            except Exception as error:  # shown here, because an exception in a callback shows nowhere
                message.value = f"<b>Not saved:</b> {html.escape(str(error))}"
                return
            waiting.pop(0)
            ask()

        button.on_click(save)
        head = widgets.HTML(f"<div style='opacity:.7'>{done} of {total} · 1 is best, equal numbers are ties</div>"
                            f"<div style='font-weight:600;margin:6px 0'>{html.escape(item['prompt'])}</div>")
        box.children = [head, *cards, widgets.HBox([button, message])]

    ask()
    return box
