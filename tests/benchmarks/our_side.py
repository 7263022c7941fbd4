"""One measurement of this suite's engine, as a process of its own, so that its peak of memory is its own; prints one JSON line.

Embeddings and head stay frozen whatever learns (`adapters.unfreeze_top`), where TRL's full run trains them. The reward is another top of
the same trunk, a frozen copy of the top blocks with a linear head, which reads the last token as TRL's does; with
k = N it is a whole second model.

No response ends early: `Endless` gives the sampler an end-of-sequence id that no token has, so that EOS is a token like any other
and every response has LENGTH tokens. That is what TRL's `stop_token=None` does.
"""

import torch
from common import (
    EPOCHS,
    KL_COEF,
    LEARNING_RATE,
    LENGTH,
    LORA_R,
    TEMPERATURE,
    arguments,
    now,
    peak_gb,
    prompt_rows,
    sampling_rate,
    say,
    top_layers,
)

from rlhf_utils.fast.matmul import product_rate, products_in
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters
from rlhf_utils.models.load import chat_prompt, load_model, load_tokenizer
from rlhf_utils.models.sampling import Samples, sample
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.ppo.policy import Policy, make_policy
from rlhf_utils.reward.model import make_head


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

    def __init__(self, args):
        self.args, self.seconds = args, {}

    def timed(self, phase: str, function):
        """The function, its time added to the phase."""

        def wrapped(*args, **options):
            start = now(self.args)
            result = function(*args, **options)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now(self.args) - start
            return result

        return wrapped


def make_policy(args) -> Policy:
    """The policy of notebook 04: adapters, or whole top blocks."""
    model = load_model(args.model, getattr(torch, args.dtype), args.device)
    k = 0 if args.trains == "blocks" else top_layers(model)  # 0: all
    return make_policy(model, LORA_R if args.trains == "lora" else 0, k)


class TopReward:
    """A frozen copy of the policy's top blocks, and a random linear head that reads the state of the last token."""

    def __init__(self, policy: Policy):
        torch.manual_seed(1)
        self.trunk = Trunk(
            policy.model
        )  # now: within `swapped` nothing learns that would tell the cut
        self.swapped = self.trunk.frozen_copy()
        self.head = (
            make_head(policy.model.config.hidden_size, "linear")
            .requires_grad_(False)
            .to(policy.model.device)
        )

    @torch.no_grad()
    def score_samples(self, samples: Samples, **columns) -> list[float]:
        states = torch.cat([samples.trunk, samples.ends[:, :1]], dim=1)
        with self.swapped():
            hidden = self.trunk.upper(states, samples.attention_mask)[:, -1]
        return self.head(hidden.float())[:, 0].tolist()


def measure_ppo(args) -> dict:
    """Episodes/s over the timed updates, peak memory, and seconds and FLOP/s of each phase."""
    torch.manual_seed(0)
    tokenizer, rows = Endless(load_tokenizer(args.model)), prompt_rows(args.batch)
    policy, phases = make_policy(args), Phases(args)
    judge = TopReward(policy)
    config = PPOConfig(
        total_episodes=args.batch * (args.updates + 1),
        batch_size=args.batch,
        num_mini_batches=1,
        per_device_train_batch_size=args.batch,
        num_ppo_epochs=EPOCHS,
        response_length=LENGTH,
        temperature=TEMPERATURE,
        learning_rate=LEARNING_RATE,
        kl_coef=KL_COEF,
        missing_eos_penalty=0,
        target_kl=0,
        max_kl=0,
    )
    optimizer = torch.optim.Adam(
        policy.trainable().values(), lr=LEARNING_RATE, eps=1e-5, fused=True
    )
    generator = torch.Generator(args.device).manual_seed(0)
    ppo.sample, ppo.score_tokens = (
        phases.timed("sampling", ppo.sample),
        phases.timed("scoring", ppo.score_tokens),
    )
    judge.score_samples, update = (
        phases.timed("reward", judge.score_samples),
        phases.timed("training", loop.update),
    )
    for index in range(args.updates + 1):
        if index == 1:  # the first update warms up
            phases.seconds.clear()
            start = now(args)
        optimizer.param_groups[0]["lr"] = loop.learning_rate_at(config, index)
        rollout = loop.collect(policy, tokenizer, rows, judge, config, KL_COEF, generator)
        metrics = loop.rollout_metrics(rollout, config, KL_COEF) | update(
            policy, optimizer, rollout, config, generator
        )
    seconds, peak = now(args) - start, peak_gb(args.device)
    assert (
        rollout.mask.shape == (args.batch, LENGTH)
        and bool(rollout.mask.all())
        and not metrics["val/early_stop"]
    )
    phases.seconds["rest"] = seconds - sum(phases.seconds.values())
    counted = count_flops(policy, rollout)
    return {
        "episodes_per_s": args.updates * args.batch / seconds,
        "peak_memory_gb": peak,
        "share": {name: value / seconds for name, value in phases.seconds.items()},
        "gflops": {
            name: args.updates * counted[name] / phases.seconds[name] / 1e9 for name in counted
        },
        "matmul_gflops": {
            dtype: matmul_gflops(getattr(torch, dtype), args) for dtype in {"float32", args.dtype}
        },
    }


def flops(weights: int, tokens: int, trained: int | None = None) -> float:
    """FLOP of `tokens` tokens through matrices of `weights` numbers in all.

    A multiplication and an addition a weight and token forward. With `trained` given, a backward pass too: as many again for the
    gradient of the inputs, and as many for each of the `trained` weights. Attention scores, norms and padding are not counted.
    """
    forward = 2.0 * weights * tokens
    return forward if trained is None else 2 * forward + 2.0 * trained * tokens


def size(modules, learning: bool = False) -> int:
    """How many numbers the weights of some modules have, or those of them that learn."""
    return sum(
        p.numel()
        for module in modules
        for p in module.parameters()
        if p.requires_grad or not learning
    )


def count_flops(policy: Policy, rollout: loop.Rollout) -> dict[str, float]:
    """FLOP of each phase of one update: the passes that the engine makes, over real tokens only."""
    trunk, head = Trunk(policy.model), policy.model.get_output_embeddings().weight.numel()
    top = trunk.blocks[trunk.cut :]
    read, answered = int(rollout.samples.predicting.sum()), int(rollout.mask.sum())
    logits = flops(head, answered)
    return {
        "sampling": flops(size(trunk.blocks), read) + logits,
        "scoring": 2 * (flops(size(top), read) + logits),  # policy and reference
        "reward": flops(size(top), int(rollout.samples.attention_mask.sum())),
        "training": EPOCHS
        * (flops(size(top), read, size(top, learning=True)) + flops(head, answered, 0)),
    }


def matmul_gflops(dtype: torch.dtype, args) -> float:
    """The machine's rate: the best of square matrix products of 1024 to 4096 (8192 on a GPU), in GFLOP/s."""
    with products_in(torch.float32):  # float32 products are float32, also in a bfloat16 run
        if args.device == "cpu":
            return max(product_rate(dtype, size) for size in (1024, 2048, 4096)) / 1e9
        a = torch.randn(8192, 8192, device=args.device).to(dtype)
        return 2 * 8192**3 / seconds_of(lambda: a @ a, args) / 1e9


def seconds_of(call, args) -> float:
    """The best of eight calls, after a first."""
    call()
    seconds = []
    for _ in range(8):
        start = now(args)
        call()
        seconds.append(now(args) - start)
    return min(seconds)


def decoding_floor(model, args) -> float:
    """Seconds that one token a row takes if weights, keys and values need only be read, at the rate at which a copy reads and writes."""
    source = torch.zeros(2**27, device=args.device)  # 512 MB
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), args)
    trunk, config = Trunk(model), model.config
    weights = (
        sum(p.numel() for block in trunk.blocks for p in block.parameters())
        * getattr(torch, args.dtype).itemsize
        + 4 * model.get_output_embeddings().weight.numel()
    )  # the head in float32
    tokenizer = load_tokenizer(args.model)
    length = (
        LENGTH / 2
        + sum(
            len(tokenizer(chat_prompt(tokenizer, row["prompt"]))["input_ids"])
            for row in prompt_rows(args.batch)
        )
        / args.batch
    )
    a_token = (
        2
        * config.num_key_value_heads
        * config.hidden_size
        // config.num_attention_heads
        * getattr(torch, args.dtype).itemsize
    )
    return (weights + len(trunk.blocks) * args.batch * length * a_token) / rate


def measure_sampling(args) -> dict:
    """Tokens/s of `sample`, which also gives log-probabilities and the states at the cut of k top blocks; the share of the time that reading takes."""
    model = load_model(args.model, getattr(torch, args.dtype), args.device)
    adapters.unfreeze_top(model, top_layers(model))
    tokenizer, generator = (
        Endless(load_tokenizer(args.model)),
        torch.Generator(args.device).manual_seed(0),
    )
    prompts = [row["prompt"] for row in prompt_rows(args.batch)]
    with Trunk(model).mixed():  # as PPO samples
        samples = sample(model, tokenizer, prompts, LENGTH, TEMPERATURE, generator)
        assert samples.response_ids.shape == (args.batch, LENGTH) and bool(
            samples.response_mask.all()
        )
        rate = sampling_rate(
            lambda: sample(model, tokenizer, prompts, LENGTH, TEMPERATURE, generator), args
        )
    return {
        "tokens_per_s": rate,
        "bandwidth_fraction": decoding_floor(model, args) * rate / args.batch,
    }


if __name__ == "__main__":
    given = arguments()
    say(measure_ppo(given) if given.task == "ppo" else measure_sampling(given))
