"""The critic: it reads the same states before and during PPO, learns what rewards follow from, and leaves the policy to the policy's loss."""

import pytest
import torch
from test_ppo_learning import CONFIG, ROWS, collect, fresh_run, letter_e, one_thread, train, weights, whole_blocks  # noqa: F401
from transformers import OPTConfig, OPTForCausalLM

from rlhf_utils import models, ppo
from rlhf_utils.checkpoint import Checkpoints
from rlhf_utils.critic import _pick, critic_states, fit_critic
from rlhf_utils.errors import SettingError
from rlhf_utils.reward import RewardModel
from rlhf_utils.sampling import score_tokens

ANSWERED = [row | {"responses": [f"{first} {rest}" for first in ("Yes,", "No,") for rest in ("it is so.", "I think that may be.")]} for row in ROWS[:40]]


def says_yes(prompts, completions, **columns):
    return [float(text.startswith("Yes")) for text in completions]


def with_critic(run, learning_rate=1e-3):
    run.policy.start_values("critic", reward_model=None)
    run.optimizer = torch.optim.Adam(run.policy.parameter_groups(), lr=learning_rate, eps=1e-5, fused=True)
    return run


def opt_run():
    """A family that runs whole."""
    run = fresh_run()
    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(vocab_size=1024, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256,
                                     word_embed_proj_dim=32, init_std=0.2)).eval().requires_grad_(False)
    run.policy = ppo.make_policy(model, 4, 1)
    return run


@pytest.mark.filterwarnings("ignore:This opt model")
@pytest.mark.parametrize("make", [fresh_run, lambda: whole_blocks(1), opt_run], ids=["adapters", "whole blocks", "a family that runs whole"])
def test_the_critic_reads_what_it_was_fitted_on_and_the_policys_learning_changes_nothing_of_it(make):
    run = with_critic(make())
    samples = collect(run).samples
    texts = [(prompt, str(row)) for row, prompt in enumerate(samples.prompts)]
    reader, lengths = RewardModel(run.policy.model, run.tokenizer), samples.response_mask.sum(1).tolist()
    # What a random model says is not split into the tokens that it was: the reader is given these.
    reader.tokens = lambda *_: ([ids[real].tolist() for ids, real in zip(samples.input_ids, samples.attention_mask)], lengths)
    before = reader.read_texts(texts, batch_size=5, pick=_pick)
    train(run, stop=2)
    reference = score_tokens(run.policy.model, samples, 1.0, run.policy.reference)["ref_hidden"]
    states = critic_states(samples, reference)
    for row, text in enumerate(texts):
        torch.testing.assert_close(states[row][samples.response_mask[row]], before[text], atol=1e-4, rtol=1e-4)


def test_a_fitted_critic_knows_the_reward_once_the_first_word_is_said_and_not_before():
    run = with_critic(fresh_run())
    seen = []
    explained = fit_critic(run.policy, run.tokenizer, ANSWERED, says_yes, 0, epochs=30, batch_size=64, track=lambda parts: seen.append(len(parts)) or parts)
    read = RewardModel(run.policy.model, run.tokenizer).read_texts([(ANSWERED[0]["prompt"], answer) for answer in ANSWERED[0]["responses"]], pick=_pick)
    with torch.no_grad():
        values = {answer: run.policy.value_head(states)[:, 0] for (_, answer), states in read.items()}
    assert 0.3 < explained < 0.95 and seen  # before the first word nothing can be known
    known = {first: torch.cat([found[1:4] for answer, found in values.items() if answer.startswith(first)]).mean() for first in ("Yes", "No")}
    assert all(found[0] == pytest.approx(0.5, abs=0.3) for found in values.values()) and known["Yes"] > 0.7 and known["No"] < 0.3


def test_fitting_needs_two_prompts_and_gives_the_reward_the_rows_columns():
    run, columns = with_critic(fresh_run()), {}

    def reward(prompts, completions, **others):
        columns.update(others)
        return says_yes(prompts, completions)

    with pytest.raises(SettingError, match="1 prompts with answers are too few"):
        fit_critic(run.policy, run.tokenizer, ANSWERED[:1], reward, 0)
    fit_critic(run.policy, run.tokenizer, ANSWERED[:2], reward, 0, epochs=1)
    assert columns["category"] == [row["category"] for row in ANSWERED[:2] for _ in range(4)]


def test_what_the_critic_learns_does_not_move_the_policy():
    run = with_critic(fresh_run())
    rollout = collect(run)
    rollout.advantages.zero_()
    before = weights(run)
    assert ppo.update(run.policy, run.optimizer, rollout, CONFIG, run.generator)["loss/value_avg"] > 0
    changed = {name for name, now in weights(run).items() if not torch.equal(now, before[name])}
    assert changed and all(name.startswith("value_head") for name in changed)


def test_a_critic_takes_a_quarter_of_the_learning_rate_a_linear_head_all_of_it():
    for run, share in ((with_critic(fresh_run()), 0.25), (fresh_run(), 1.0)):
        groups = run.policy.parameter_groups()
        assert sum(len(group["params"]) for group in groups) == len(run.policy.trainable()) and not any(len(group["params"]) == 0 for group in groups)
        optimizer = torch.optim.Adam(groups, lr=1.0)
        assert ppo.set_learning_rate(optimizer, CONFIG, 3) == pytest.approx(CONFIG.learning_rate / 2)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([CONFIG.learning_rate / 2, share * CONFIG.learning_rate / 2])


def test_a_resumed_run_with_a_critic_is_the_run_that_never_stopped(tmp_path):
    def start(fit):
        run = with_critic(fresh_run())
        if fit:
            fit_critic(run.policy, run.tokenizer, ANSWERED, letter_e, 0, epochs=2)
        return run

    expected = train(start(True), stop=4)
    run, resumed = start(True), start(False)  # a run that goes on is not fitted again
    first = train(run, stop=2)
    for each, act in ((run, lambda state: state.save(2)), (resumed, lambda state: state.load_last())):
        act(Checkpoints(tmp_path, each.policy, each.optimizer, each.generator, each.controller, {}))
    assert first + train(resumed, start=2, stop=4) == expected
    assert all(row["loss/value_avg"] > 0 for row in expected)
