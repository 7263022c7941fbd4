"""The reward model against slow, independent computations: how it reads, caches, keeps and reloads. Training: test_reward_training.py."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2Model,
    OPTConfig,
    OPTModel,
)

from rlhf_utils.errors import SettingError
from rlhf_utils.models import adapters
from rlhf_utils.models.load import chat_prompt, load_model, load_tokenizer
from rlhf_utils.reward.model import (
    COMBINATIONS,
    SETTINGS,
    AndLength,
    Heads,
    RewardModel,
    load_reward_model,
    make_head,
    mean_over,
)
from rlhf_utils.reward.report_card import margins
from rlhf_utils.reward.training import Group, fit_heads, group_loss, read_states

GROUPS = [
    Group(
        "Hi?",
        ["Hello.", "No.", "Good day to you, and what can I do?"],
        [(0, 1), (0, 2), (2, 1), (0, 1)],
    ),
    Group(
        "How do plants drink, and why do they need to do so at all?",
        ["By their roots.", "They do not."],
        [(0, 1)],
    ),
]
PROMPTS = [g.prompt for g in GROUPS for _ in g.responses]
ANSWERS = [r for g in GROUPS for r in g.responses]


KINDS = {
    "last token": {},
    "and the prompt's": {"read_prompt": True},
    "and the middle": {"read_prompt": True, "read_middle": True},
    "middle only": {"read_middle": True, "ensemble": 3, "combine": "min"},
    "and the length": {"read_prompt": True, "read_length": True, "ensemble": 2},
}


def trained(**options) -> RewardModel:
    """The tiny model in float32 with adapters on its upper block, as after some training: none of them is zero."""
    backbone = adapters.add_lora(
        load_model("tiny", auto_class=AutoModel), 4, num_trainable_layers=1
    )
    model = RewardModel(backbone, load_tokenizer("tiny"), num_trainable_layers=1, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "heads" in name:
                parameter.normal_(0, 0.1)
    return model.eval()


@pytest.fixture(params=list(KINDS))
def model(request) -> RewardModel:
    return trained(**KINDS[request.param])


def raw_of(
    model: RewardModel, answers: list[str], input_ids, attention_mask, after
) -> torch.Tensor:
    """(B,) raw rewards of token ids."""
    lower = model.trunk.lower(input_ids, attention_mask)
    return model.combined(
        model.heads(
            model.states(
                [row[mask] for row, mask in zip(lower, attention_mask.bool())], after, answers
            )
        )
    )


def one_by_one(model: RewardModel, prompts: list[str], answers: list[str]) -> list[torch.Tensor]:
    """Each text alone, so that nothing is padded."""
    return [
        raw_of(model, [answer], **model.encode([prompt], [answer]))[0]
        for prompt, answer in zip(prompts, answers)
    ]


def pad(batch: dict, left: int, right: int, token: int) -> dict:
    ids = torch.nn.functional.pad(batch["input_ids"], (left, right), value=token)
    return batch | {
        "input_ids": ids,
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (left, right), value=0),
    }


# --- where and how a reward is read


def test_states_are_read_at_the_last_real_token_of_each_row(model):
    rows, after = (
        [
            torch.randn(length, 64, generator=torch.Generator().manual_seed(length))
            for length in (1, 3, 7, 7)
        ],
        [1, 2, 4, 9],
    )
    together = model.states(rows, after, ANSWERS[:4])
    for number, (row, count, answer) in enumerate(zip(rows, after, ANSWERS)):
        assert torch.allclose(
            together[number], model.states([row], [count], [answer])[0], atol=1e-5
        )
        assert torch.allclose(
            together[number, :64],
            model.trunk.upper(row[None], torch.ones(1, len(row), dtype=torch.bool))[0, -1],
            atol=1e-5,
        )


def test_mean_over_places():
    states = torch.tensor([[[1.0], [2.0], [6.0]], [[3.0], [5.0], [7.0]]], dtype=torch.bfloat16)
    found = mean_over(states, torch.tensor([[True, False, True], [False, False, False]]))
    assert found.tolist() == [[3.5], [0.0]] and found.dtype == torch.float32


def test_shape_and_padding(model):
    """(B,) rewards; how much a row is padded, on which side and with what token, changes nothing."""
    with torch.no_grad():
        alone = torch.stack(one_by_one(model, PROMPTS, ANSWERS))
        batch = model.encode(PROMPTS, ANSWERS)
        assert (
            batch["attention_mask"].min() == 0 and batch["attention_mask"][:, -1].all()
        )  # padded on the left
        together = raw_of(model, ANSWERS, **batch)
        assert together.shape == (5,) and together.dtype == torch.float32
        assert torch.allclose(together, alone, atol=1e-5) and together.std() > 0.01
        for left, right, token in ((7, 0, 5), (0, 7, 5), (3, 4, model.tokenizer.eos_token_id)):
            assert torch.allclose(
                raw_of(model, ANSWERS, **pad(batch, left, right, token)), alone, atol=1e-5
            )


def test_reward_is_read_at_the_end_of_sequence(model):
    ids = model.encode(["Hi?"], ["Hello."])["input_ids"][0].tolist()
    assert ids[-1] == model.tokenizer.eos_token_id and "Hello." in model.tokenizer.decode(ids)


def seen_by_hand(model: RewardModel, ids: list[int], places: list[int], words: int) -> torch.Tensor:
    """The mean of the heads on the states at these places of one unpadded row, by a plain pass of the whole model."""
    inner = model.backbone.get_base_model()
    layers = inner(torch.tensor([ids]), output_hidden_states=True)
    read = [layers.last_hidden_state[0]] + (
        [layers.hidden_states[1][0]] if model.read_middle else []
    )
    answer = places[1] + 1
    states = torch.cat(
        [
            state
            for layer in read
            for state in (
                [layer[p] for p in places] + [layer[answer:].mean(0), layer[:answer].mean(0)]
                if model.read_prompt
                else [layer[-1]]
            )
        ]
    )
    if model.read_length:
        steps = torch.tensor([float(words > 2 ** (1 + step / 6)) for step in range(46)])
        rewards = torch.stack(
            [head.head(states)[0] + 10 * head.curve.weight[0] @ steps for head in model.heads]
        )
    else:
        rewards = torch.stack([head(states) for head in model.heads])
    return rewards.min() if model.combine == "min" else rewards.mean()


def test_head_sees_the_token_before_the_answer(model):
    prompt, answer = PROMPTS[0], ANSWERS[0]
    text = chat_prompt(model.tokenizer, prompt) + answer + model.tokenizer.eos_token
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    before = (
        len(
            model.tokenizer(chat_prompt(model.tokenizer, prompt), add_special_tokens=False)[
                "input_ids"
            ]
        )
        - 1
    )
    assert before < len(ids) - 2
    assert model.raw([prompt], [answer]).item() == pytest.approx(
        seen_by_hand(model, ids, [-1, before, before + 3], 1).item(), abs=1e-5
    )


def test_too_long_text_loses_its_beginning(model):
    whole = model.encode(["Hi? " * 50], ["Hello."])["input_ids"][0]
    model.max_length = 16
    cut = model.encode(["Hi? " * 50, "Hi?"], ["Hello.", "Hello."])["input_ids"]
    assert cut.shape[1] <= 16 and cut[0].tolist() == whole[-16:].tolist()
    ids = model.encode(["Hi?"], ["Hello " * 50])["input_ids"][
        0
    ].tolist()  # the prompt is gone: its place is taken by the first token left
    assert model.raw(["Hi?"], ["Hello " * 50]).item() == pytest.approx(
        seen_by_hand(model, ids, [-1, 0, 3], 50).item(), abs=1e-5
    )


def test_dropout_of_the_backbone_stays_off_in_training():
    """Else the trunk's cached states would be one noisy draw, used for every epoch; GPT-2 has dropout 0.1."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1024, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model = RewardModel(
        adapters.add_lora(GPT2Model(config), 4, num_trainable_layers=1),
        load_tokenizer("tiny"),
        dropout=0.0,
    ).train()
    assert model.heads.training and torch.equal(
        model.cached(["Hi?"], ["Hello."]), model.cached(["Hi?"], ["Hello."])
    )
    assert torch.allclose(
        model.cached(["Hi?"], ["Hello."])[:, 0], model.raw(["Hi?"], ["Hello."]), atol=1e-6
    )


def test_cached_equals_forward(model):
    """Also at the second visit, for texts of other lengths in the batch, for repeated ones, and after the adapters have changed."""

    def check(rows):
        prompts, answers = [PROMPTS[i] for i in rows], [ANSWERS[i] for i in rows]
        assert torch.allclose(
            model.combined(model.cached(prompts, answers)),
            torch.stack(one_by_one(model, prompts, answers)),
            atol=1e-5,
        )

    for rows in ([0, 1], [1, 2, 1], [4, 0, 3, 2]):
        check(rows)
    assert len(model.cache) == 5
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    check([0, 1, 2, 3, 4])


def test_raw_is_in_the_order_asked_and_without_dropout(model):
    expected = torch.stack(one_by_one(model, PROMPTS, ANSWERS)).detach()
    model.train()
    for visit in range(2):
        got = model.raw(PROMPTS, ANSWERS, batch_size=2)
        assert torch.allclose(got, expected, atol=1e-5) and not got.requires_grad and model.training
        model.cached(PROMPTS[:3], ANSWERS[:3])  # from now on some texts come from the cache
    repeated = model.raw(PROMPTS + PROMPTS[::-1], ANSWERS + ANSWERS[::-1], batch_size=2)
    assert torch.allclose(repeated, torch.cat([expected, expected.flip(0)]), atol=1e-5)


def test_texts_are_read_in_the_same_order_in_every_process(model):
    """The order of a set of strings changes from process to process, and with it the padding and the last bits of a reward."""
    asked = [f"No. {n}" for n in range(100, 160)][::-1]
    length = {answer: len(ids) for answer, ids in zip(asked, model.tokens(["Hi?"] * 60, asked)[0])}
    assert [
        answer for _, answer in model.read_texts([("Hi?", answer) for answer in asked], 8)
    ] == sorted(asked, key=lambda answer: -length[answer])


# --- the head


def test_head_layers_and_start():
    """Stiennon 2020 start the last layer with std 1/√(d + 1); an untrained reward then has a spread of about 1."""
    torch.manual_seed(0)
    linear, mlp = make_head(1024, "linear"), make_head(1024, "mlp", dropout=0.3)
    assert [type(layer).__name__ for layer in mlp] == [
        "Standardise",
        "Dropout",
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
    ] and mlp[4].p == 0.3
    assert mlp[2].weight.shape == (1024, 1024)
    assert linear.bias is None and mlp[-1].bias.tolist() == [0.0]
    for last in (linear, mlp[-1]):
        assert last.weight.shape == (1, 1024)
        assert last.weight.std().item() == pytest.approx(1025**-0.5, rel=0.1)


def test_unknown_head():
    with pytest.raises(ValueError, match="head='deep'.*'mlp' or 'linear'"):
        make_head(8, "deep")
    with pytest.raises(ValueError, match="give read_prompt=False"):
        make_head(8, "linear", states=2)


# --- normalising, keeping, loading


def test_the_curve_over_length_is_flat_at_first_and_learns_what_states_do_not_tell():
    lengths = [3, 8, 13, 20, 40]
    answers = [" ".join(["word"] * words) for words in lengths]
    states = {
        ("Hi?", answer): torch.tensor([*[0.5] * 8, float(words)])
        for answer, words in zip(answers, lengths)
    }
    torch.manual_seed(0)
    heads = Heads([AndLength(make_head(8, "mlp", 0.0))])
    assert heads[0].of_length(torch.tensor([1.0, 10.0, 1000.0])).tolist() == [[0.0]] * 3
    best_first = [2, 1, 3, 0, 4]  # neither the shortest nor the longest
    pairs = [
        (better, worse)
        for place, better in enumerate(best_first)
        for worse in best_first[place + 1 :]
    ]
    fit_heads(heads, states, [Group("Hi?", answers, pairs)], 300, seed=0)
    rewards = heads(torch.stack(list(states.values())))[:, 0]
    assert (
        rewards.argsort(descending=True).tolist() == best_first
        and (rewards[2] - rewards[4]).item() > 2
    )
    curve = heads[0].of_length(torch.tensor([0.0, 2.0, 40.0, 5000.0]))[:, 0]
    assert (
        curve[0] == curve[1] == 0 and curve[2] == curve[3]
    )  # beyond what was learned from, it stays as it is
    assert torch.allclose(
        rewards[4] - rewards[2],
        (heads[0].of_length(torch.tensor([40.0])) - heads[0].of_length(torch.tensor([13.0])))[0, 0],
        atol=1e-5,
    )


def test_a_linear_head_has_no_curve():
    with pytest.raises(SettingError, match="give read_length=False"):
        trained(head="linear", read_length=True)


def test_a_model_saved_before_there_was_a_curve_still_loads(tmp_path):
    model = trained(read_prompt=True)
    model.save(tmp_path)
    settings = json.loads((tmp_path / "reward_config.json").read_text())
    assert settings.pop("read_length") is False
    (tmp_path / "reward_config.json").write_text(json.dumps(settings))
    assert load_reward_model(tmp_path).score(PROMPTS, ANSWERS) == pytest.approx(
        model.score(PROMPTS, ANSWERS), abs=1e-6
    )


def test_normalise(model):
    model.normalise(PROMPTS, ANSWERS)
    scores = torch.tensor(model.score(PROMPTS, ANSWERS))
    assert scores.mean().item() == pytest.approx(
        0, abs=1e-5
    ) and scores.std().item() == pytest.approx(1, abs=1e-5)
    assert scores.argsort().tolist() == model.raw(PROMPTS, ANSWERS).argsort().tolist()
    model.normalise(PROMPTS[:1] * 2, ANSWERS[:1] * 2)  # no spread at all: still finite
    assert np.isfinite(model.score(PROMPTS, ANSWERS)).all()


SAVED = [
    {"head": "mlp"},
    {"head": "mlp", "read_prompt": True},
    {"head": "linear"},
    {"head": "linear", "ensemble": 2, "combine": "uncertainty"},
    {
        "head": "mlp",
        "read_prompt": True,
        "read_middle": True,
        "read_length": True,
        "ensemble": 3,
        "combine": "min",
    },
]


@pytest.mark.parametrize("options", SAVED, ids=str)
def test_saved_model_scores_the_same(tmp_path, options):
    """To 1e-6 what the model itself gives once its adapters are folded in, and to 1e-5 what it gave before."""
    model = trained(max_length=20, **options)
    before_fit = [p.clone() for p in model.heads.parameters()]
    fit_heads(
        model.heads,
        {
            (g.prompt, r): 5 * torch.randn(model.cached_states(PROMPTS[:1], ANSWERS[:1]).shape[1])
            for g in GROUPS
            for r in g.responses
        },
        GROUPS,
        1,
        seed=0,
    )
    assert not all(torch.equal(a, b) for a, b in zip(before_fit, model.heads.parameters()))
    model.normalise(PROMPTS, ANSWERS)
    before = model.score(PROMPTS, ANSWERS)
    model.save(tmp_path)
    again = load_reward_model(tmp_path)
    assert model.score(PROMPTS, ANSWERS) == pytest.approx(before, abs=1e-5) and np.std(before) > 0.5
    assert again.score(PROMPTS, ANSWERS) == pytest.approx(model.score(PROMPTS, ANSWERS), abs=1e-6)
    assert again.score(PROMPTS[:1], ANSWERS[:1]) == pytest.approx(
        model.score(PROMPTS[:1], ANSWERS[:1]), abs=1e-6
    )
    assert (again.head, again.max_length, again.num_trainable_layers, again.training) == (
        options["head"],
        20,
        1,
        False,
    )
    assert all(getattr(again, name) == getattr(model, name) for name in SETTINGS)
    assert json.loads((tmp_path / "reward_config.json").read_text())["std"] == model.std
    assert (
        not list(tmp_path.glob("adapter*"))
        and AutoModel.from_pretrained(tmp_path).config.num_hidden_layers == 2
    )  # plain transformers


def test_linear_head_is_saved_as_a_sequence_classifier(tmp_path):
    """Whoever reads such models (transformers, TRL, vLLM) gets our raw reward as the one logit, padded or not."""
    model = trained(head="linear")
    model.save(tmp_path)
    classifier, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert (
        not info["missing_keys"]
        and not info["unexpected_keys"]
        and classifier.config.num_labels == 1
    )
    assert classifier.config.architectures == ["LlamaForSequenceClassification"]
    batch = model.encode(PROMPTS, ANSWERS)
    with torch.no_grad():
        logits = classifier(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    assert torch.allclose(logits, model.raw(PROMPTS, ANSWERS), atol=1e-5) and logits.std() > 0.1


def test_margins_stay_right_after_saving(model, tmp_path):
    """Saving folds the adapters in; states cached below them must not be taken for states above them."""
    rows = [
        {"prompt": g.prompt, "chosen": g.responses[0], "rejected": g.responses[1]} for g in GROUPS
    ]
    group_loss(model, GROUPS)  # fills the cache
    before = margins(model, rows)
    model.save(tmp_path)
    assert torch.allclose(margins(model, rows), before, atol=1e-5)


# --- several heads, the middle, the bound of the cache


def test_combine_by_hand():
    members = torch.tensor([[1.0, 3.0], [-2.0, 0.0]])
    assert COMBINATIONS["mean"](members).tolist() == [2.0, -1.0] and COMBINATIONS["min"](
        members
    ).tolist() == [1.0, -2.0]
    assert COMBINATIONS["uncertainty"](members).tolist() == [
        1.0,
        -2.0,
    ]  # the mean less a standard deviation of 1


def test_heads_that_differ_by_a_constant_count_alike(tmp_path):
    """A pairwise loss leaves each head's level free, so the minimum must not simply be the lowest head."""
    model = trained(ensemble=2, combine="min")
    model.heads[1].load_state_dict(model.heads[0].state_dict())
    with torch.no_grad():
        model.heads[1][-1].bias += 50.0
    model.normalise(PROMPTS, ANSWERS)
    level = model.members(PROMPTS, ANSWERS)[:, 0]
    assert torch.allclose(model.raw(PROMPTS, ANSWERS), level + 25.0, atol=1e-4)
    model.save(tmp_path)
    assert torch.allclose(
        load_reward_model(tmp_path).raw(PROMPTS, ANSWERS), level + 25.0, atol=1e-4
    )


def test_what_does_not_fit_is_refused():
    backbone, tokenizer = (
        load_model("tiny", auto_class=AutoModel).requires_grad_(False),
        load_tokenizer("tiny"),
    )
    for options, told in (
        ({"read_middle": True}, "num_trainable_layers=0"),
        ({"read_middle": True, "num_trainable_layers": 2}, "read_middle=False"),
        ({"ensemble": 0}, "ensemble=0"),
        ({"combine": "median"}, "combine='median'"),
    ):
        with pytest.raises(SettingError, match=told):
            RewardModel(backbone, tokenizer, **options)
    with pytest.raises(SettingError, match="blocks below"):
        RewardModel(adapters.add_lora(backbone, 4), tokenizer, num_trainable_layers=1)


def test_cache_keeps_to_its_bound(model):
    whole = trained()
    whole.cached(PROMPTS, ANSWERS)
    sizes = [states.nbytes for states, _ in whole.cache.values()]
    model.cache_bytes = bound = sum(sizes[:3])
    for _ in range(2):
        assert torch.allclose(
            model.combined(model.cached(PROMPTS, ANSWERS)),
            torch.stack(one_by_one(model, PROMPTS, ANSWERS)),
            atol=1e-5,
        )
        assert (
            sum(states.nbytes for states, _ in model.cache.values()) <= bound
            and len(model.cache) == 3
        )
    model.forget()
    assert model.cache_bytes == bound and not model.cache


# --- what answers share is read once


def test_texts_read_together_equal_texts_read_alone(model):
    """Prompts of several answers and of one, longer and shorter ones in a batch, a batch of one, beginnings lost with and without the prompt."""
    texts = [
        *zip(PROMPTS, ANSWERS),
        ("Hi? " * 50, "Hello."),
        ("Hi? " * 50, "No. " * 6),
        ("Hi?", "Hello " * 50),
    ]
    for model.max_length in (512, 20):
        for size in (2, 32):
            found = model.read_texts(texts, size)
            assert list(found) != texts and set(found) == set(texts)
            alone = torch.stack(one_by_one(model, *zip(*texts)))
            assert torch.allclose(
                model.combined(model.heads(torch.stack([found[text] for text in texts]))),
                alone,
                atol=1e-5,
            )


@pytest.mark.parametrize("cache_gb", [0.0, 2.0])
def test_what_was_read_before_the_adapters_learned_is_not_used_after(cache_gb):
    backbone = adapters.add_lora(
        load_model("tiny", auto_class=AutoModel), 4, num_trainable_layers=1
    )
    model = RewardModel(
        backbone, load_tokenizer("tiny"), num_trainable_layers=1, cache_gb=cache_gb
    ).eval()
    read_states(model, GROUPS)
    assert len(model.first_states) == 5 and len(model.cache) == (5 if cache_gb else 0)
    untrained = model.raw(PROMPTS, ANSWERS)
    assert torch.allclose(untrained, torch.stack(one_by_one(model, PROMPTS, ANSWERS)), atol=1e-5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    learned = model.raw(PROMPTS, ANSWERS)
    assert torch.allclose(
        learned, torch.stack(one_by_one(model, PROMPTS, ANSWERS)), atol=1e-5
    ) and not torch.allclose(learned, untrained, atol=1e-3)


@pytest.mark.filterwarnings("ignore:This opt model")
def test_a_family_that_runs_whole_is_read_all_the_same():
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=1024,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
    )
    model = RewardModel(
        adapters.add_lora(OPTModel(config), 4, num_trainable_layers=1),
        load_tokenizer("tiny"),
        dropout=0.0,
        read_prompt=True,
    ).eval()
    assert torch.allclose(
        model.raw(PROMPTS, ANSWERS), torch.stack(one_by_one(model, PROMPTS, ANSWERS)), atol=1e-5
    )
    assert torch.allclose(
        model.cached(PROMPTS, ANSWERS)[:, 0], model.raw(PROMPTS, ANSWERS), atol=1e-5
    )
