"""One measurement of this suite's engine, as a process of its own, so that its peak of memory is its own; prints one JSON line.

Embeddings and head stay frozen whatever learns (`models.unfreeze_top`), where TRL's full run trains them. The reward is another top of
the same trunk, a frozen copy of the top blocks with a linear head, which reads the last token as TRL's does; with
k = N it is a whole second model.

No response ends early: `Endless` gives the sampler an end-of-sequence id that no token has, so that EOS is a token like any other
and every response has LENGTH tokens. That is what TRL's `stop_token=None` does.
"""

import time

import torch

from common import BATCH, EPOCHS, KL_COEF, LEARNING_RATE, LENGTH, LORA_R, PART, SAMPLING_CALLS, TEMPERATURE
from common import arguments, peak_gb, prompt_rows, say, top_layers
from rlhf_utils import models, ppo
from rlhf_utils.heads import make_head
from rlhf_utils.products import product_rate, products_in
from rlhf_utils.sampling import Samples, sample
from rlhf_utils.trunk import Trunk


class Endless:
    """A tokenizer of whose tokens none ends a response."""

    eos_token_id = -1

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **options):
        return self.tokenizer(*args, **options)


class Phases:
    """Seconds spent in each phase of the loop."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def timed(self, phase: str, function):
        """The function, its time added to the phase."""

        def wrapped(*args, **options):
            start = time.perf_counter()
            result = function(*args, **options)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
            return result

        return wrapped


def make_policy(args) -> ppo.Policy:
    """The policy of notebook 04: adapters, or whole top blocks."""
    model = models.load_model(args.model, getattr(torch, args.dtype))
    k = 0 if args.trains == "blocks" else top_layers(model)  # 0: all
    return ppo.make_policy(model, LORA_R if args.trains == "lora" else 0, k)


class TopReward:
    """A frozen copy of the policy's top blocks, and a random linear head that reads the state of the last token."""

    def __init__(self, policy: ppo.Policy):
        torch.manual_seed(1)
        self.trunk = Trunk(policy.model)  # now: within `swapped` nothing learns that would tell the cut
        self.swapped = self.trunk.frozen_copy()
        self.head = make_head(policy.model.config.hidden_size, "linear").requires_grad_(False)

    @torch.no_grad()
    def score_samples(self, samples: Samples, **columns) -> list[float]:
        states = torch.cat([samples.trunk, samples.ends[:, :1]], dim=1)
        with self.swapped():
            hidden = self.trunk.upper(states, samples.attention_mask)[:, -1]
        return self.head(hidden.float())[:, 0].tolist()


def measure_ppo(args) -> dict:
    """Episodes/s over the timed updates, peak memory, and seconds and FLOP/s of each phase."""
    torch.manual_seed(0)
    tokenizer, rows = Endless(models.load_tokenizer(args.model)), prompt_rows()
    policy, phases = make_policy(args), Phases()
    judge = TopReward(policy)
    config = ppo.PPOConfig(
        total_episodes=BATCH * (args.updates + 1), batch_size=BATCH, num_mini_batches=1, per_device_train_batch_size=PART,
        num_ppo_epochs=EPOCHS, response_length=LENGTH, temperature=TEMPERATURE, learning_rate=LEARNING_RATE, kl_coef=KL_COEF,
        missing_eos_penalty=0, target_kl=0, max_kl=0)
    optimizer = torch.optim.Adam(policy.trainable().values(), lr=LEARNING_RATE, eps=1e-5, fused=True)
    generator = torch.Generator().manual_seed(0)
    ppo.sample, ppo.score_tokens = phases.timed("sampling", ppo.sample), phases.timed("scoring", ppo.score_tokens)
    judge.score_samples, update = phases.timed("reward", judge.score_samples), phases.timed("training", ppo.update)
    for index in range(args.updates + 1):
        if index == 1:  # the first update warms up
            phases.seconds.clear()
            start = time.perf_counter()
        optimizer.param_groups[0]["lr"] = ppo.learning_rate_at(config, index)
        rollout = ppo.collect(policy, tokenizer, rows, judge, config, KL_COEF, generator)
        metrics = ppo.rollout_metrics(rollout, config, KL_COEF) | update(policy, optimizer, rollout, config, generator)
    seconds, peak = time.perf_counter() - start, peak_gb()
    assert rollout.mask.shape == (BATCH, LENGTH) and bool(rollout.mask.all()) and not metrics["val/early_stop"]
    phases.seconds["rest"] = seconds - sum(phases.seconds.values())
    counted = count_flops(policy, rollout)
    return {"episodes_per_s": args.updates * BATCH / seconds, "peak_memory_gb": peak,
            "share": {name: value / seconds for name, value in phases.seconds.items()},
            "gflops": {name: args.updates * counted[name] / phases.seconds[name] / 1e9 for name in counted},
            "matmul_gflops": {dtype: matmul_gflops(getattr(torch, dtype)) for dtype in {"float32", args.dtype}}}


def flops(weights: int, tokens: int, trained: int | None = None) -> float:
    """FLOP of `tokens` tokens through matrices of `weights` numbers in all.

    A multiplication and an addition a weight and token forward. With `trained` given, a backward pass too: as many again for the
    gradient of the inputs, and as many for each of the `trained` weights. Attention scores, norms and padding are not counted.
    """
    forward = 2.0 * weights * tokens
    return forward if trained is None else 2 * forward + 2.0 * trained * tokens


def size(modules, learning: bool = False) -> int:
    """How many numbers the weights of some modules have, or those of them that learn."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad or not learning)


def count_flops(policy: ppo.Policy, rollout: ppo.Rollout) -> dict[str, float]:
    """FLOP of each phase of one update: the passes that the engine makes, over real tokens only."""
    trunk, head = Trunk(policy.model), policy.model.get_output_embeddings().weight.numel()
    top = trunk.blocks[trunk.cut :]
    read, answered = int(rollout.samples.predicting.sum()), int(rollout.mask.sum())
    logits = flops(head, answered)
    return {"sampling": flops(size(trunk.blocks), read) + logits,
            "scoring": 2 * (flops(size(top), read) + logits),  # policy and reference
            "reward": flops(size(top), int(rollout.samples.attention_mask.sum())),
            "training": EPOCHS * (flops(size(top), read, size(top, learning=True)) + flops(head, answered, 0))}


def matmul_gflops(dtype: torch.dtype) -> float:
    """The machine's rate: the best of square matrix products of 1024 to 4096, in GFLOP/s."""
    with products_in(torch.float32):  # float32 products are float32, also in a bfloat16 run
        return max(product_rate(dtype, size) for size in (1024, 2048, 4096)) / 1e9


def measure_sampling(args) -> dict:
    """Tokens/s of `sample`, which also gives log-probabilities and the states at the cut of k top blocks."""
    model = models.load_model(args.model, getattr(torch, args.dtype))
    models.unfreeze_top(model, top_layers(model))
    tokenizer, generator = Endless(models.load_tokenizer(args.model)), torch.Generator().manual_seed(0)
    prompts, seconds = [row["prompt"] for row in prompt_rows()], []
    for _ in range(SAMPLING_CALLS + 1):
        start = time.perf_counter()
        samples = sample(model, tokenizer, prompts, LENGTH, TEMPERATURE, generator)
        seconds.append(time.perf_counter() - start)
    assert samples.response_ids.shape == (BATCH, LENGTH) and bool(samples.response_mask.all())
    return {"tokens_per_s": SAMPLING_CALLS * BATCH * LENGTH / sum(seconds[1:])}


if __name__ == "__main__":
    given = arguments()
    say(measure_ppo(given) if given.task == "ppo" else measure_sampling(given))
