"""Items and judgements for the tests of this folder."""

from rlhf_utils.data.rows import Prompt
from rlhf_utils.preferences.pairs import Item, Judgement


def make_item(prompt="p", answers=("a", "b"), **about) -> Item:
    """An item; `about` are fields of its Prompt."""
    return Item(Prompt(prompt, **about), list(answers))


def said(item: Item, ranks: list[int], annotator: str = "ada", **about) -> Judgement:
    """A judgement of an item, shown in the order of its answers unless `about` says otherwise."""
    fields = {"shown_order": list(range(len(item.answers)))} | about
    return Judgement(item.id, annotator, item.prompt.text, item.answers, ranks=ranks, **fields)
