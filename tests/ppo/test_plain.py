"""RLHF_PLAIN=1 switches fast/ off: PPO must give the same numbers without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_ppo import fresh_run, train, whole_blocks

PLAIN = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
import helpers_ppo as h
from rlhf_utils.fast import Trunk
assert Trunk.__module__.endswith("plain")
torch.set_num_threads(1)
for run in (h.fresh_run(), h.whole_blocks(1)):
    print(json.dumps(h.train(run, stop=3)))
"""


def test_ppo_gives_the_same_numbers_without_what_makes_it_fast():
    code = PLAIN.format(tests=str(Path(__file__).parents[1]))
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RLHF_PLAIN": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    plain = [json.loads(line) for line in ended.stdout.splitlines()]
    fast = [train(run, stop=3) for run in (fresh_run(), whole_blocks(1))]
    for plain_log, fast_log in zip(plain, fast):
        for plain_row, fast_row in zip(plain_log, fast_log):
            assert plain_row == pytest.approx(fast_row, rel=1e-3, abs=1e-4)
    assert fast[0][-1]["objective/kl_full"] > 0.01, "something was learned"
