"""One measurement of this suite's engine, as a process of its own; prints one JSON line.

A process of its own, so that its peak of memory is its own. Embeddings and head stay frozen
whatever learns (`adapters.unfreeze_top`), where TRL's full run trains them. The reward is a whole
second model of plain transformers, as on TRL's side.

No answer ends early: `Endless` gives the sampler an end-of-sequence id that no token has, so that
EOS is a token like any other and every answer has LENGTH tokens. TRL's `stop_token=None` does that.
"""

import torch
from common import (
    EPOCHS,
    KL_COEF,
    LEARNING_RATE,
    LENGTH,
    LORA_R,
    TEMPERATURE,
    chat_texts,
    measure,
    now,
    peak_gb,
    prompt_texts,
    sampling_rate,
    top_layers,
)
from transformers import AutoModel

from rlhf_utils.data.rows import Prompt
from rlhf_utils.fast.matmul import product_rate, products_in
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.models.sampling import sample
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.ppo.policy import Policy, make_policy


class Endless:
    """A tokenizer that has no token to end an answer with."""

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


class SecondModel:
    """A reward like TRL's: the base model once more, and a random head that reads the last token.

    Plain transformers, frozen. It reads the ids that were sampled, which `remember` keeps, because
    TRL's reads them too and a text may give others.
    """

    def __init__(self, args):
        dtype = getattr(torch, args.dtype)
        model = AutoModel.from_pretrained(args.model, dtype=dtype).eval()
        self.model = model.requires_grad_(False).to(args.device)
        torch.manual_seed(1)
        self.head = torch.nn.Linear(model.config.hidden_size, 1, bias=False).to(args.device)

    def remember(self, sampler):
        """The sampler; what it samples is what this scores next."""

        def remembering(*args, **options):
            self.samples = sampler(*args, **options)
            return self.samples

        return remembering

    @torch.no_grad()
    def __call__(self, prompts, completions, **columns) -> list[float]:
        samples = self.samples
        ids = torch.cat([samples.prompt_ids, samples.answer_ids], 1)
        mask = torch.cat([samples.prompt_mask, samples.answer_mask], 1).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = self.model(ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return self.head(output.last_hidden_state[:, -1].float())[:, 0].tolist()


def load_policy(args) -> Policy:
    """The policy of notebook 04: adapters, or whole top blocks."""
    model = load_model(args.model, getattr(torch, args.dtype), args.device)
    k = 0 if args.trains == "blocks" else top_layers(model)  # 0: all
    return make_policy(model, LORA_R if args.trains == "lora" else 0, k)


def settings(batch: int, updates: int, **others) -> PPOConfig:
    """Each update is one minibatch, and none stops early."""
    return PPOConfig(
        total_episodes=batch * updates,
        batch_size=batch,
        num_mini_batches=1,
        per_device_train_batch_size=batch,
        response_length=LENGTH,
        temperature=TEMPERATURE,
        kl_coef=KL_COEF,
        target_kl=0,
        max_kl=0,
        **others,
    )


def measure_ppo(args) -> dict:
    """Episodes/s over the timed updates, peak memory, and seconds and FLOP/s of each phase."""
    torch.manual_seed(0)
    tokenizer = Endless(load_tokenizer(args.model))
    prompts = [Prompt(text) for text in prompt_texts(args.batch)]
    policy, second = load_policy(args), SecondModel(args)
    config = settings(
        args.batch,
        args.updates + 1,
        num_ppo_epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        missing_eos_penalty=0,
    )
    optimizer = torch.optim.Adam(
        policy.trainable().values(), lr=LEARNING_RATE, eps=1e-5, fused=True
    )
    generator = torch.Generator(args.device).manual_seed(0)

    phases = Phases(args)
    loop.sample = phases.timed("sampling", second.remember(loop.sample))
    loop.score_tokens = phases.timed("scoring", loop.score_tokens)
    reward = phases.timed("reward", second)
    update = phases.timed("training", loop.update)
    for index in range(args.updates + 1):
        if index == 1:  # the first update warms up
            phases.seconds.clear()
            start = now(args)
        optimizer.param_groups[0]["lr"] = loop.learning_rate_at(config, index)
        rollout = loop.collect(policy, tokenizer, prompts, reward, config, KL_COEF, generator)
        loop.rollout_metrics(rollout, config, KL_COEF)
        metrics = update(policy, optimizer, rollout, config, generator)
    seconds, peak = now(args) - start, peak_gb(args.device)
    assert rollout.mask.shape == (args.batch, LENGTH) and bool(rollout.mask.all())
    assert not metrics["val/early_stop"]
    phases.seconds["rest"] = seconds - sum(phases.seconds.values())
    counted = count_flops(policy, rollout)
    return {
        "episodes_per_s": args.updates * args.batch / seconds,
        "peak_memory_gb": peak,
        "seconds": {name: value / args.updates for name, value in phases.seconds.items()},
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

    A multiplication and an addition a weight and token forward. With `trained` given, a backward
    pass too: as many again for the gradient of the inputs, and as many for each of the `trained`
    weights. Attention scores, norms and padding are not counted.
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
    """FLOP of each phase of one update: the passes that are made, over real tokens only."""
    trunk, head = Trunk(policy.model), policy.model.get_output_embeddings().weight.numel()
    top = trunk.blocks[trunk.cut :]
    read, answered = int(rollout.samples.predicting.sum()), int(rollout.mask.sum())
    logits = flops(head, answered)
    learning = flops(size(top), read, size(top, learning=True)) + flops(head, answered, 0)
    return {
        "sampling": flops(size(trunk.blocks), read) + logits,
        "scoring": 2 * (flops(size(top), read) + logits),  # policy and reference
        "reward": flops(size(trunk.blocks), int(rollout.samples.prompt_mask.sum()) + answered),
        "training": EPOCHS * learning,
    }


def matmul_gflops(dtype: torch.dtype, args) -> float:
    """The machine's rate: the best of square matrix products of 1024 to 4096, in GFLOP/s.

    On a GPU of 8192.
    """
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
    """Seconds that one token a row takes if weights, keys and values need only be read.

    At the rate at which a copy reads and writes.
    """
    source = torch.zeros(2**27, device=args.device)  # 512 MB
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), args)

    trunk, config = Trunk(model), model.config
    bytes_each = getattr(torch, args.dtype).itemsize
    head = model.get_output_embeddings().weight.numel()
    weights = size(trunk.blocks) * bytes_each + 4 * head  # the head in float32

    tokenizer = load_tokenizer(args.model)
    prompt_ids = tokenizer(chat_texts(tokenizer, args.batch))["input_ids"]
    length = LENGTH / 2 + sum(map(len, prompt_ids)) / args.batch
    head_size = config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_key_value_heads * head_size * bytes_each
    return (weights + len(trunk.blocks) * args.batch * length * a_token) / rate


def measure_sampling(args) -> dict:
    """Tokens/s of `sample`, which also gives log-probabilities and the states that PPO reads.

    And the share of the time that reading takes.
    """
    model = load_model(args.model, getattr(torch, args.dtype), args.device)
    adapters.unfreeze_top(model, top_layers(model))
    tokenizer = Endless(load_tokenizer(args.model))
    generator = torch.Generator(args.device).manual_seed(0)
    prompts = prompt_texts(args.batch)

    def call():
        return sample(model, tokenizer, prompts, LENGTH, TEMPERATURE, generator)

    mask = call().answer_mask
    assert mask.shape == (args.batch, LENGTH) and bool(mask.all())
    rate = sampling_rate(call, args)
    return {
        "tokens_per_s": rate,
        "bandwidth_fraction": decoding_floor(model, args) * rate / args.batch,
    }


if __name__ == "__main__":
    measure(measure_ppo, measure_sampling)
