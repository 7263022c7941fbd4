"""Votes of LMArena (Chatbot Arena) and MT-bench: two models answer, somebody says who is better."""

from ..data.conversations import conversation
from .label_rows import Row, annotator_in, dialogue, object_in

WINNERS = {
    "model_a": [1, 2],
    "model_b": [2, 1],
    "tie": [1, 1],
    "tie (bothbad)": [1, 1],
    "tie (inconsistent)": [1, 1],
    "both_bad": [1, 1],
}
YES = ("1", "1.0", "true")
SINGLE = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}


def fits(record: dict) -> bool:
    return {"conversation_a", "conversation_b"} <= set(record) or "winner_model_a" in record


def read(record: dict) -> list[Row]:
    """A row with the two answers to the turns that both sides share.

    Where the sides part before, no answer is one to what the other was asked: left out.
    """
    if "winner_model_a" in record:
        record = record | _of_turns(record)
    winner = record.get("winner")
    if winner not in WINNERS:
        raise ValueError(f"winner={winner!r:.60} must be one of {', '.join(WINNERS)}")
    sides = [_judged_turns(record[f"conversation_{side}"], record.get("turn")) for side in "ab"]
    asked, answers = [side[:-1] for side in sides], [side[-1] for side in sides]
    if asked[0][:1] != asked[1][:1]:
        raise ValueError("conversation_a and conversation_b do not begin with the same prompt")
    if any(answer["role"] != "assistant" for answer in answers):
        raise ValueError("a conversation does not end with an answer")
    if asked[0] != asked[1]:
        return ["two sides that part before their last answers"]
    row = {
        "prompt": conversation(asked[0]),
        "responses": [answer["content"] for answer in answers],
        "ranks": WINNERS[winner],
        "annotator": annotator_in(record),
        "flags": ["both_bad"] if "bad" in winner else [],
    }
    return [row]


def _judged_turns(value, turn) -> list[dict]:
    """The messages up to the answer that was judged: MT-bench also votes on the first of two."""
    messages = dialogue(value)
    if str(turn).isdecimal() and int(turn) > 0:
        first = messages[0]["role"] == "system"
        messages = messages[: first + 2 * int(turn)]
    return messages


def _of_turns(record: dict) -> dict:
    """The form with `prompt`, `response_a` and `response_b`, each a list of turns as JSON."""
    lists = []
    for name in ("prompt", "response_a", "response_b"):
        turns = object_in(record.get(name))
        lists.append(turns if isinstance(turns, list) else [turns])
    if len(set(map(len, lists))) > 1:
        raise ValueError("prompt, response_a and response_b are not of one length")
    found = {}
    for side, answers in zip("ab", lists[1:]):
        turns = found[f"conversation_{side}"] = []
        for question, answer in zip(lists[0], answers):
            turns.append({"role": "user", "content": question})
            turns.append({"role": "assistant", "content": answer})
    winners = [SINGLE[name] for name in SINGLE if str(record.get(name)).lower() in YES]
    return found | {"winner": " and ".join(winners)}
