"""Votes of LMArena (Chatbot Arena): two models answer, a visitor says which one is better."""

from ..data.rows import conversation
from .label_rows import annotator_in, messages, object_in

WINNERS = {
    "model_a": [1, 2],
    "model_b": [2, 1],
    "tie": [1, 1],
    "tie (bothbad)": [1, 1],
    "both_bad": [1, 1],
}
SINGLE = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}


def fits(record: dict) -> bool:
    return {"conversation_a", "conversation_b"} <= set(record) or "winner_model_a" in record


def read(record: dict) -> list[dict]:
    """A row with the two answers. All turns that both sides share are the prompt.

    Where later turns differ, each answer is the rest of its conversation.
    """
    if "winner_model_a" in record:
        record = record | _of_turns(record)
    winner = record.get("winner")
    if winner not in WINNERS:
        raise ValueError(f"winner={winner!r:.60} must be one of {', '.join(WINNERS)}")
    first, second = messages(record["conversation_a"]), messages(record["conversation_b"])
    shared = 0
    for one, other in zip(first[:-1], second[:-1]):
        if one != other:
            break
        shared += 1
    if not shared:
        raise ValueError("conversation_a and conversation_b do not begin with the same prompt")
    row = {
        "prompt": conversation(first[:shared]),
        "responses": [_answer(first[shared:]), _answer(second[shared:])],
        "ranks": WINNERS[winner],
        "annotator": record.get("judge") or record.get("judge_hash") or annotator_in(record),
        "flags": ["both_bad"] if "bad" in winner else [],
    }
    return [row]


def _answer(turns: list[dict]) -> str:
    if turns[-1]["role"] != "assistant":
        raise ValueError("a conversation does not end with an answer")
    return turns[0]["content"] if len(turns) == 1 else conversation(turns)


def _of_turns(record: dict) -> dict:
    """The form with `prompt`, `response_a` and `response_b`, each a list of turns as JSON."""
    lists = {}
    for name in ("prompt", "response_a", "response_b"):
        turns = record.get(name)
        held = object_in(turns) if isinstance(turns, str) else turns
        lists[name] = held if isinstance(held, list) else [turns]
    if len({len(turns) for turns in lists.values()}) > 1:
        raise ValueError("prompt, response_a and response_b are not of one length")
    found = {}
    for side in "ab":
        turns = []
        for question, answer in zip(lists["prompt"], lists[f"response_{side}"]):
            turns.append({"role": "user", "content": question})
            turns.append({"role": "assistant", "content": answer})
        found[f"conversation_{side}"] = turns
    winners = [SINGLE[name] for name in SINGLE if record.get(name) in (1, True)]
    return found | {"winner": " and ".join(winners)}
