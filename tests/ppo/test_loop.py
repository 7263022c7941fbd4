"""PPO as a whole, on the built-in `tiny` model.

It learns, it can be repeated bit for bit, and it stops when numbers break.
"""

import copy
import dataclasses
import json
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers_models import lower_states
from helpers_ppo import (
    CONFIG,
    PROMPTS,
    changed,
    collect,
    fresh_run,
    letter_e,
    train,
    update,
    weights,
    whole_blocks,
)

from rlhf_utils import files
from rlhf_utils.data import rows
from rlhf_utils.data.rows import Endless, Prompt
from rlhf_utils.errors import PPOError, RunError
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import sampling
from rlhf_utils.models.load import load_model
from rlhf_utils.models.scoring import answer_logprobs, score_tokens
from rlhf_utils.ppo import loop, record
from rlhf_utils.ppo.checkpoint import Checkpoints
from rlhf_utils.ppo.policy import Policy, make_policy
from rlhf_utils.run.stage import Stage
from rlhf_utils.show import notebook as show

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "04_ppo.ipynb"


def mean(log, name):
    return sum(row[name] for row in log) / len(log)


def constant(score):
    return lambda completions, **columns: [score] * len(completions)


# --- Learning ---

LEARNING = changed(
    batch_size=64,
    total_episodes=64 * 20,
    per_device_train_batch_size=32,
    num_ppo_epochs=4,
    response_length=12,
    temperature=1.0,
    learning_rate=1e-2,
    kl_target=0.0,
    missing_eos_penalty=0.0,
)


def test_ppo_learns_a_simple_reward():
    log = train(fresh_run(config=LEARNING), LEARNING)
    gain = mean(log[-3:], "objective/scores") - mean(log[:3], "objective/scores")
    assert gain > 1.0, "in standard deviations of the reward before training"
    assert max(row["objective/kl_full"] for row in log) < 20.0, "nats per answer"
    assert log[0]["objective/kl_full"] == 0.0 and log[-1]["objective/kl_full"] > 1.0


def test_the_kl_penalty_alone_brings_a_policy_back_to_the_reference():
    config = changed(**{**vars(LEARNING), "total_episodes": 64 * 8})
    run = fresh_run(config=config)
    run.controller.value = 0.0
    away = train(run, config, stop=4)[-1]["objective/kl_full"]
    run.controller.value = 1.0
    back = train(run, config, start=4, reward=constant(0.0))
    assert away > 1.0
    first, last = (back[i]["objective/kl_full"] for i in (0, -1))
    assert last < 0.6 * first, "with the wrong sign it would run further off"


# --- One update ---


def test_the_ratio_is_1_before_the_first_step():
    run = fresh_run()
    log = train(run)  # so that the adapters, which start as nothing, do something
    assert log[-1]["objective/kl_full"] > 0.1
    assert [row["val/ratio_first"] for row in log] == pytest.approx([1.0] * len(log), abs=1e-6)
    assert [row["val/value_first"] for row in log] == pytest.approx([0.0] * len(log), abs=1e-6)
    rollout = collect(run)
    with torch.no_grad():
        logprobs, entropy, hidden = answer_logprobs(
            run.policy.model, rollout.samples, torch.arange(16), CONFIG.temperature
        )
        values = run.policy.value_head(hidden)[:, 0]
    for name, now, error in (
        ("logprobs", logprobs, 2e-6),
        ("values", values, 2e-6),
        ("entropy", entropy, 1e-5),
    ):
        stored = getattr(rollout, name)[rollout.mask]
        torch.testing.assert_close(now, stored, atol=error, rtol=0)
    ratio = (logprobs - rollout.logprobs[rollout.mask]).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-6, rtol=0)


def test_a_rollout_is_0_on_padding_and_ends_with_the_score():
    rollout = collect(fresh_run(), changed(response_length=40), reward=constant(3.0))
    lengths = rollout.mask.sum(1)
    assert lengths.unique().numel() > 2 and 0 < rollout.samples.ended.sum() < 16
    names = [field.name for field in dataclasses.fields(rollout)]
    for name in set(names) - {"samples", "scores"}:
        field = getattr(rollout, name)
        assert field.shape == rollout.mask.shape and field.dtype == torch.float32, name
        assert not field[~rollout.mask].any(), name
    assert not rollout.values.any(), "the value head starts at 0"
    # Fresh adapters: no KL yet, so the score is the only reward. The penalty is 1.
    for row in range(16):
        expected = [0.0] * (lengths[row] - 1) + [3.0 if rollout.samples.ended[row] else 2.0]
        assert rollout.rewards[row, : lengths[row]].tolist() == expected


def test_the_reward_function_gets_the_columns_of_its_prompts():
    seen = {}

    def reward(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return [0.0] * len(prompts)

    rollout = collect(fresh_run(), reward=reward)
    asked = Endless(PROMPTS, 0).batch(0, 16)
    assert seen["prompts"] == [prompt.text for prompt in asked]
    assert seen["completions"] == rollout.samples.answers
    assert seen["category"] == [prompt.category for prompt in asked]
    assert seen["key_points"] == [prompt.key_points for prompt in asked]


def test_a_column_of_the_users_reaches_the_reward_function():
    run, seen = fresh_run(), {}
    own = [Prompt("Hi.", columns={"level": 3}), Prompt("And you?")]

    def reward(completions, level, **columns):
        seen["level"] = level
        return [0.0] * len(completions)

    loop.collect(run.policy, run.tokenizer, own, reward, CONFIG, 0.1, run.generator)
    assert seen["level"] == [3, None]


def run_cells(names, *ids):
    """Executes these cells of 04 in the namespace `names`."""
    cells = {cell["id"]: cell for cell in json.loads(NOTEBOOK.read_text())["cells"]}
    for cell in ids:
        exec("".join(cells[cell]["source"]), names)


def test_a_column_that_one_prompt_has_is_in_every_batch_and_in_the_watched_one(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "Hi."}\n{"prompt": "And you?", "level": 3}\n')
    stage = SimpleNamespace(note_data=lambda kind, prompts: prompts)
    names = vars(rows) | {"prompts": str(path), "stage": stage, "seed": 0, "strict": False}
    names |= {"learning": [], "record": record}
    run_cells(names, "04-13b")
    assert len(names["watched"]) == 2
    for prompt in [*names["asked"], *names["watched"]]:
        level = 3 if prompt.text == "And you?" else None
        assert rows.columns_of([prompt])["level"] == [level]


def test_gradient_accumulation_changes_nothing():
    results = []
    for size in (4, 16):
        config = changed(num_mini_batches=1, per_device_train_batch_size=size, response_length=40)
        run = fresh_run(config=config)
        # Adam would blow rounding up to whole steps where gradients are near 0
        run.optimizer = torch.optim.SGD(run.policy.trainable().values(), lr=0.1)
        before = weights(run)
        rollout = collect(run, config)
        assert rollout.mask.sum(1).unique().numel() > 2, "parts with different numbers of tokens"
        metrics = update(run, rollout, config)
        results.append((weights(run), metrics))
        changes = [(new - before[name]).abs().max() for name, new in weights(run).items()]
        assert max(changes) > 1e-3, "something was learned"
    (few, few_metrics), (many, many_metrics) = results
    for name in few:
        torch.testing.assert_close(few[name], many[name], atol=1e-6, rtol=0, msg=name)
    assert few_metrics == pytest.approx(many_metrics, rel=1e-5, abs=1e-5)


def test_what_only_likely_tokens_lack_of_the_entropy(monkeypatch):
    """The mean of −log π is the entropy if tokens are drawn from π, and less if by greed."""
    fair = collect(fresh_run())
    draw = sampling.draw_tokens
    monkeypatch.setattr(sampling, "draw_tokens", lambda logits, g: draw(1e4 * logits, g))
    greedy = collect(fresh_run())
    deviations = []
    for rollout in (fair, greedy):
        surprise = -(rollout.logprobs + rollout.entropy)[rollout.mask]
        gap = loop.rollout_metrics(rollout, CONFIG, 0.05)["val/surprise_gap"]
        assert gap == pytest.approx(float(surprise.mean()), abs=1e-5)
        deviations.append(gap / float(surprise.std()) * len(surprise) ** 0.5)
    assert abs(deviations[0]) < 3 and deviations[1] < -6


def test_an_update_changes_adapters_and_value_head_only():
    run = fresh_run(dropout=0.5)
    training = any(module.training for module in run.policy.modules())
    assert not training, "dropout is off in every role"
    before, rollout = weights(run), collect(run)
    first = update(run, rollout)["val/ratio_first"]
    assert first == pytest.approx(1.0, abs=1e-6), "with dropout it would not be 1"
    assert not any(module.training for module in run.policy.modules())
    for name, new in weights(run).items():
        learns = "lora_" in name and ".layers.1." in name or name.startswith("value_head")
        assert (name in run.policy.trainable()) == learns, name
        assert torch.equal(new, before[name]) != learns, name
    samples, mask = rollout.samples, rollout.samples.predicting
    torch.testing.assert_close(
        lower_states(run.policy.model, samples)[mask],
        samples.trunk[mask],
        atol=1e-5,
        rtol=0,
        msg="what the frozen blocks make of a text stays",
    )
    again = score_tokens(run.policy.model, samples, CONFIG.temperature, run.policy.reference)
    assert torch.equal(again["ref_logprobs"], rollout.ref_logprobs)
    assert not torch.equal(again["logprobs"], rollout.logprobs)


@pytest.mark.parametrize(
    "target_kl, ratio_threshold, steps, stopped",
    [(0.0, 1e9, 8, 0.0), (1e-9, 1e9, 2, 1.0), (0.0, 0.5, 1, 1.0), (0.0, 0.0, 8, 0.0)],
)
def test_an_update_stops_early(target_kl, ratio_threshold, steps, stopped):
    """Two minibatches, four epochs.

    A high KL leaves out the remaining passes, a high ratio all remaining steps.
    """
    config = changed(num_ppo_epochs=4, target_kl=target_kl, ratio_threshold=ratio_threshold)
    run, taken = fresh_run(config=config), []
    run.optimizer.register_step_post_hook(lambda *_: taken.append(1))
    metrics = update(run, collect(run, config), config)
    assert (len(taken), metrics["val/early_stop"]) == (steps, stopped)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (3 * [0.0] + [float("nan")] + 12 * [0.0], "nan for answer 4"),
        (torch.full((16,), float("inf")), "inf for answer 1"),
        (15 * [0.0] + [None], "None for answer 16"),
        (15 * [0.0], "15 of them"),
        (16 * [[0.0]], r"\[0.0\] for answer 1"),
    ],
)
def test_a_reward_that_is_no_finite_number_for_each_answer_stops_the_run(scores, told):
    sentence = f"one finite number for each of 16 answers, but gave {told}"
    with pytest.raises(PPOError, match=sentence):
        collect(fresh_run(), reward=lambda completions, **columns: scores)


def test_scores_are_clipped_before_the_penalty():
    config = changed(score_clip=0.5, missing_eos_penalty=2.0)
    scores = [i - 8.0 for i in range(16)]
    rollout = collect(fresh_run(config=config), config, reward=lambda **columns: scores)
    clipped = torch.tensor([max(-0.5, min(0.5, score)) for score in scores])
    assert torch.equal(rollout.scores, clipped - 2.0 * ~rollout.samples.ended)


def test_a_policy_that_has_run_away_stops_the_run():
    run = fresh_run()
    train(run, stop=1)
    rollout = collect(run)
    told = r"objective/kl_full is [0-9.e-]+ nats per answer, above max_kl=1e-09"
    with pytest.raises(PPOError, match=told):
        update(run, rollout, changed(max_kl=1e-9))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_changes_nothing(broken):
    run = fresh_run()
    train(run, stop=1)
    before, optimizer = weights(run), copy.deepcopy(run.optimizer.state_dict())
    rollout = collect(run)
    rollout.advantages[0, 0] = broken
    with pytest.raises(PPOError, match="loss/policy_avg.*is not finite"):
        update(run, rollout)
    assert all(torch.equal(new, before[name]) for name, new in weights(run).items())
    for index, moments in run.optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, optimizer["state"][index][name])
    train(run, stop=1)  # no broken gradient is left behind


def test_gradients_that_an_interrupted_step_left_are_forgotten():
    learned = []
    for left in (None, 1.0):
        run = fresh_run()
        for p in run.policy.trainable().values():
            p.grad = None if left is None else torch.full_like(p, left)
        update(run, collect(run))
        learned.append(weights(run))
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


# --- Whole top blocks in place of adapters ---


@pytest.mark.parametrize("layers", [1, 2])
def test_whole_blocks_learn_and_the_reference_is_the_model_before(layers):
    run, original = whole_blocks(layers), load_model("tiny")
    before = weights(run)
    first, _ = train(run, stop=2)
    assert first["objective/kl_full"] == 0.0
    assert first["val/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    learning = [f".layers.{layer}." for layer in range(2 - layers, 2)]
    learning += ["value_head", "model.norm."]
    for name, new in weights(run).items():
        learns = any(part in name for part in learning)
        assert (name in run.policy.trainable()) == learns, name
        assert torch.equal(new, before[name]) != learns, name
    samples = collect(run).samples
    found = score_tokens(run.policy.model, samples, CONFIG.temperature, run.policy.reference)
    plain = score_tokens(original, samples_of(original, samples), CONFIG.temperature, nullcontext)
    torch.testing.assert_close(found["ref_logprobs"], plain["logprobs"], atol=1e-5, rtol=0)
    assert found["kl"].max() > 0


def samples_of(model, samples):
    """The same samples with the trunk states that `model` makes of them."""
    return dataclasses.replace(samples, trunk=lower_states(model, samples), cut=Trunk(model).cut)


def test_a_head_that_would_learn_is_refused():
    with pytest.raises(ValueError, match="head must stay frozen"):
        Policy(load_model("tiny"))


def test_float32_tops_on_a_bfloat16_trunk():
    """The states come from bfloat16 blocks, and those above multiply in bfloat16.

    But the weights that learn, their sums and the last states are float32.
    """
    run = fresh_run()
    model = load_model("tiny", torch.bfloat16)
    run.policy = make_policy(model, lora_r=0, num_trainable_layers=1)
    assert {p.dtype for p in run.policy.trainable().values()} == {torch.float32}
    products, ends = set(), set()
    model.model.layers[1].mlp.up_proj.register_forward_hook(
        lambda module, given, out: products.add((module.weight.dtype, out.dtype))
    )
    model.model.norm.register_forward_hook(
        lambda module, given, out: ends.add((given[0].dtype, out.dtype))
    )
    rollout = collect(run)
    assert rollout.samples.trunk.dtype == torch.bfloat16
    assert products == {(torch.float32, torch.bfloat16)}
    assert ends == {(torch.float32, torch.float32)}
    torch.testing.assert_close(rollout.samples.logprobs, rollout.logprobs, atol=5e-3, rtol=0)
    run.optimizer = torch.optim.Adam(run.policy.trainable().values(), lr=1e-3)
    assert update(run, rollout)["val/ratio_first"] == pytest.approx(1.0, abs=1e-6)


# --- Repeating ---


def test_the_same_seed_gives_identical_metrics():
    first, again, other = (train(fresh_run(seed), stop=3) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("source", ["builtin", "mine"])
def test_the_watched_prompts_are_one_of_each_kind_and_two_others(source):
    prompts = PROMPTS if source == "builtin" else [Prompt(prompt.text) for prompt in PROMPTS]
    watched = record.pick_watched(prompts, seed=0)
    assert watched == record.pick_watched(prompts, seed=0) != record.pick_watched(prompts, seed=1)
    assert len({prompt.text for prompt in watched}) == 5
    if source == "builtin":
        special = ["harmful", "benign_lookalike", "unanswerable"]
        assert [prompt.category for prompt in watched[2:]] == special
        assert not {prompt.category for prompt in watched[:2]} & set(special)


def test_results_compare_the_last_eighth_with_the_first():
    names = ("objective/scores", "objective/kl_full", "objective/entropy")
    log = [dict.fromkeys(names, float(i)) | {"episode": 16 * (i + 1)} for i in range(16)]
    assert record.results(log, 0.2) == {
        "ppo.reward_gain": 14.0,
        "ppo.kl": 14.5,
        "ppo.entropy": 14.5,
        "ppo.episodes": 256,
        "ppo.kl_coef": 0.2,
    }
    assert record.results(log[:3], 0.2)["ppo.episodes"] == 48, "what was done"


# --- The notebook's cells ---


def test_the_notebooks_loss_is_the_modules():
    names = {"torch": torch}
    run_cells(names, "04-11b")
    random = torch.Generator().manual_seed(0)
    draw = [torch.randn(500, generator=random) for _ in range(6)]
    old = loop.Tokens(*draw[:4])
    grads = []
    for loss in (names["ppo_loss"], loop.ppo_loss):
        now = [part.clone().requires_grad_() for part in draw[4:]]
        policy_loss, value_loss = loss(*now, old, CONFIG)
        (policy_loss + 0.1 * value_loss).sum().backward()
        grads.append([policy_loss, value_loss, *(part.grad for part in now)])
    assert all(torch.equal(one, other) for one, other in zip(*grads))


def loop_names(folder, reward):
    """What the cells before the loop leave."""
    run, names = fresh_run(), {}
    run_cells(names, "04-03", "04-11b")
    stage = SimpleNamespace(dir=folder, inputs={}, data={}, parameters={}, progress=lambda *_: None)
    stage.pausable = partial(Stage.pausable, stage)
    stage.run, stage.started, stage.filled = folder, 0.0, vars(CONFIG)
    names |= vars(run) | {"config": CONFIG, "batch_size": 16, "response_length": 10, "seed": 0}
    names["every_column"] = {}
    names |= {"reward_function": reward, "reward": "helpers_ppo:letter_e", "resume": False}
    names |= {"stage": stage, "watched": PROMPTS[:5]}
    return names | {"weights": torch.float32, "device": torch.device("cpu")}


LOOP = ("04-17", "04-17b", "04-17c", "04-17-draw", "04-18-steer", "04-18")


def check_answers(folder, metrics):
    """answers.jsonl holds each update's answers once: their mean score is that of metrics.jsonl."""
    kept = files.read_file(folder / "answers.jsonl")
    assert [row["update"] for row in kept] == [row["update"] for row in metrics]
    for row, told in zip(kept, metrics):
        scores = [answer["score"] for answer in row["answers"]]
        assert len(scores) == 16 and sum(scores) / 16 == pytest.approx(
            told["objective/scores"], abs=1e-3
        )


def test_the_notebooks_loop_is_the_loop_of_these_tests(tmp_path):
    names = loop_names(tmp_path, letter_e)
    run_cells(names, *LOOP)
    found = files.read_file(tmp_path / "metrics.jsonl")
    assert found == names["log"].rows, "no NaN, which would be another number in the file"
    expected = train(fresh_run())
    assert [{name: row[name] for name in expected[0]} for row in found] == expected
    assert [(row["update"], row["episode"]) for row in found] == [(i, 16 * i) for i in range(1, 7)]
    for index, row in enumerate(found):
        asked = Endless(PROMPTS, 0).batch(16 * index, 16)
        harmful = any(prompt.category == "harmful" for prompt in asked)
        assert (row["answers/declined_harmful"] is not None) == harmful
        assert 0 <= row["answers/filler"] <= 1 and row["answers/words"] >= 0
    assert [row["update"] for row in names["sample_log"].rows] == [0, 4, 6]
    check_answers(tmp_path, found)
    with pytest.raises(PPOError, match="has learned already"):
        run_cells(names, "04-17")
    assert len(files.read_file(tmp_path / "metrics.jsonl")) == 6, "nothing is lost"


def test_an_interrupted_loop_goes_on_where_its_log_ends(tmp_path):
    calls = []

    def reward(completions, **columns):
        calls.append(1)
        if len(calls) == 4:  # π_SFT's answers are scored, too
            raise KeyboardInterrupt
        return letter_e(completions=completions, **columns)

    names = loop_names(tmp_path, reward)
    told = "^Stopped after update 2 of 6. Run this cell again to go on.$"
    with pytest.raises(RunError, match=told):
        run_cells(names, *LOOP)
    found = record.results(names["log"].rows, 0.05, CONFIG.total_episodes)
    assert found["ppo.episodes"] == 32 and found["ppo.stopped_early"] is True
    run_cells(names, "04-18")
    rows = files.read_file(tmp_path / "metrics.jsonl")
    assert [row["update"] for row in rows] == list(range(1, 7))
    assert "ppo.stopped_early" not in record.results(rows, 0.05, CONFIG.total_episodes)


@pytest.mark.parametrize("place", ["sampling", "learning", "watching", "saving", "drawing"])
def test_a_loop_that_was_interrupted_is_the_loop_that_never_was(tmp_path, place, monkeypatch):
    """Also where the optimizer has made some of an update's steps, and where the row was logged."""
    monkeypatch.setattr(show.PAINTER, "draw", lambda text: None)
    names = loop_names(tmp_path, letter_e)
    run_cells(names, *LOOP[:-1])
    module, name, when = {
        "sampling": (names, "sample", 4),
        "learning": (loop, "train_minibatch", 14),  # the second of the fourth update
        "watching": (names, "watch", 1),  # of the fourth update
        "saving": (Checkpoints, "save", 1),
        "drawing": (show, "LivePlot", 1),
    }[place]
    calls = []

    def interrupted(original):
        def call(*args, **options):
            calls.append(1)
            if len(calls) == when:
                raise KeyboardInterrupt
            return original(*args, **options)

        return call

    if isinstance(module, dict):
        module[name] = interrupted(module[name])
    elif place == "drawing":
        live = interrupted(lambda rows, done: None)
        monkeypatch.setattr(module, name, lambda *_: live)
    else:
        monkeypatch.setattr(module, name, interrupted(getattr(module, name)))
    with pytest.raises(RunError, match="^Stopped after update [0-9] of 6. Run this cell again"):
        run_cells(names, "04-18")
    run_cells(names, "04-18")
    found = files.read_file(tmp_path / "metrics.jsonl")
    expected = train(fresh_run())
    assert [{name: row[name] for name in expected[0]} for row in found] == expected
    assert [row["update"] for row in files.read_file(tmp_path / "samples.jsonl")] == [0, 4, 6]
    check_answers(tmp_path, found)


INTERRUPTED = """
import json, os, pathlib, random, signal, sys, threading, time
sys.path.insert(0, {tests!r})
import torch
import test_loop as t
torch.set_num_threads(1)
t.show.PAINTER.draw = lambda text: None
names = t.loop_names(pathlib.Path({folder!r}), t.letter_e)
t.run_cells(names, *t.LOOP[:-1])
pick, stopped = random.Random(0), 0

def press(number, pressed):
    time.sleep(pick.uniform(0.02, 0.2 + 0.1 * stopped))  # ever later, so that it gets on
    for _ in range(number):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
    pressed.set()

def settle(pressed):
    while True:
        try:
            while not pressed.is_set():
                time.sleep(0.01)
            return time.sleep(0.05)
        except KeyboardInterrupt:
            pass

while len(names["log"].rows) < 6:
    pressed = threading.Event()
    threading.Thread(target=press, args=(pick.choice([1, 1, 2]), pressed)).start()
    try:
        t.run_cells(names, "04-18")
    except (t.RunError, KeyboardInterrupt):
        stopped += 1
    settle(pressed)
t.run_cells(names, "04-18")
print(f"\\n{{stopped}}")
"""


def test_a_loop_interrupted_at_any_instant_is_the_loop_that_never_was(tmp_path):
    """Real interrupts, which also fall between two lines of a library, now and then in pairs."""
    code = INTERRUPTED.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    code = code.replace("import torch", f"sys.path.insert(0, {str(Path(__file__).parent)!r})", 1)
    ended = subprocess.run(
        [sys.executable, "-c", "import torch\n" + code],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert int(ended.stdout.splitlines()[-1]) >= 2
    expected = train(fresh_run())
    found = files.read_file(tmp_path / "metrics.jsonl")
    assert [{name: row[name] for name in expected[0]} for row in found] == expected
    assert [row["update"] for row in files.read_file(tmp_path / "samples.jsonl")] == [0, 4, 6]
    check_answers(tmp_path, found)


@pytest.mark.parametrize("settings", [{}, {"num_ppo_epochs": 1, "num_mini_batches": 1}])
def test_training_that_diverges_stops_and_leaves_the_weights_as_they_were(tmp_path, settings):
    """With one step an update, the weights are found broken before anything is saved."""
    names = loop_names(tmp_path, letter_e)
    names["config"] = changed(learning_rate=1e30, max_kl=0.0, **settings)
    before = weights_of(names)
    with pytest.raises(PPOError, match="^Update 1: .* Lower learning_rate. There is no checkpoint"):
        run_cells(names, *LOOP)
    assert not list((tmp_path / "checkpoints").glob("update-*")) and names["log"].rows == []
    assert all(torch.equal(new, before[name]) for name, new in weights_of(names).items())
    with pytest.raises(PPOError, match="No update is finished yet"):
        record.results(names["log"].rows, 0.05)


def weights_of(names) -> dict:
    return weights(SimpleNamespace(policy=names["policy"]))
