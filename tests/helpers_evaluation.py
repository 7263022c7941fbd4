"""Compared answers for the tests of evaluation/ and show/."""

from rlhf_utils.data.rows import Prompt
from rlhf_utils.evaluation import compare


def comparisons_of(text: str = "plain") -> list[compare.Comparison]:
    """Four prompts, one of them harmful, with `text` in all that a model or a file wrote."""
    categories = ["harmful", f"c {text} 1", f"c {text} 0", f"c {text} 1"]
    prompts = [Prompt(f"p {text} {n}", categories[n], ["four"]) for n in range(4)]
    before = [f"a {text} {n}" for n in range(4)]
    after = [f"b {text} four {n}." for n in range(4)]
    sft = compare.score_answers(prompts, before, [0.0] * 4)
    ppo = compare.score_answers(prompts, after, [1.0] * 4, [1.25] * 4)
    return [compare.Comparison(*pair) for pair in zip(sft, ppo)]
