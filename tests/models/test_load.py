"""Loading: the dtype of the hardware, and models that are refused."""

import pytest
import torch
from helpers_models import SIZES, small
from transformers import AutoModel, GemmaConfig

from rlhf_utils.errors import ModelError
from rlhf_utils.models import load
from rlhf_utils.models.load import load_model, pick_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "rates, taken",
    [((100e9, 350e9), "bfloat16"), ((100e9, 120e9), "float32"), ((100e9, 5e9), "float32")],
)
def test_the_dtype_is_measured_and_told(monkeypatch, capsys, rates, taken):
    monkeypatch.setattr(load, "product_rate", lambda dtype: rates[dtype == torch.bfloat16])
    assert pick_dtype("auto", CPU) == getattr(torch, taken)
    told = capsys.readouterr().out
    float32, bfloat16 = (f"{rate / 1e9:.0f}" for rate in rates)
    rates_told = f"{float32} GFLOP/s in float32 and {bfloat16} in bfloat16"
    assert f"{rates_told}: {taken} is taken" in told
    assert pick_dtype("float32", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
    assert not capsys.readouterr().out, "a dtype that is given needs no measuring"


@pytest.mark.parametrize("changed", [{}, {"logit_scale": 1.0}, {"final_logit_softcapping": 30.0}])
def test_a_model_that_changes_its_logits_after_the_head_is_refused(tmp_path, changed):
    small(GemmaConfig(**SIZES, head_dim=8, **changed)).save_pretrained(tmp_path)
    if changed.get("final_logit_softcapping"):
        with pytest.raises(ModelError, match="final_logit_softcapping=30.0"):
            load_model(str(tmp_path))
        assert load_model(str(tmp_path), auto_class=AutoModel)  # a reward model has no such head
    else:
        assert load_model(str(tmp_path))
