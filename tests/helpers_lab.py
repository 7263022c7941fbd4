"""04's loop on the built-in `tiny` model, with its steering, for the tests in lab/."""

from pathlib import Path
from types import SimpleNamespace

import torch
from helpers_ppo import changed, checkpoints, collect, fresh_run, update, weights

from rlhf_utils import files
from rlhf_utils.lab import commands
from rlhf_utils.lab.control import Steering
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.checkpoint import must_match

FIXED = {"kl_target": 0.0, "total_episodes": 16 * 5}


class Loop:
    """04's loop in a folder; `at` says what is asked before which update, counted from 0."""

    def __init__(self, folder, resume=False, seed=0, **values):
        self.config = changed(**FIXED | values)
        self.run = fresh_run(seed, self.config)
        self.run.controller = loop.KLController(self.config.kl_coef, self.config.kl_target, 100)
        self.run.order.seed = 0
        self.folder = folder
        self.stage = SimpleNamespace(
            dir=folder, run=Path("mine"), started=0.0, filled=dict(vars(self.config)), told=[]
        )
        self.stage.progress = lambda what, done, total: self.stage.told.append((what, done))
        self.saved = checkpoints(folder / "checkpoints", self.run, must_match(self.config))
        start = self.saved.load_last() if resume else self.saved.clear()
        self.log = self.saved.open_log("metrics.jsonl", start)
        self.watched = []
        self.steering = Steering(
            self.stage, self.saved, self.config, self.watched.append, self.sample
        )

    def sample(self, prompt):
        if prompt == "break":
            raise ValueError("no such answer")
        return {"answer": f"<b>{prompt}</b>", "score": 1.25, "kl": 0.5}

    def one_update(self, index):
        run, config = self.run, self.config
        run.optimizer.param_groups[0]["lr"] = lr = loop.learning_rate_at(config, index)
        rollout = collect(run, config, index)
        row = loop.rollout_metrics(rollout, config, run.controller.value)
        row |= update(run, rollout, config)
        run.controller.update(row["objective/kl"], config.batch_size)
        return files.strict({"update": index + 1, "lr": lr} | row)

    def go(self, at=None, every=100, before=lambda index: None):
        with self.steering:
            for index in range(len(self.log.rows), self.config.num_updates):
                for asked in (at or {}).get(index, ()):
                    commands.ask(self.folder, *asked)
                told = self.steering.obey(index)
                if self.steering.stopped:
                    break
                with self.saved.guard(index + 1):
                    before(index)
                    self.log.add(self.one_update(index) | told)
                    if (index + 1) % every == 0 or index + 1 == self.config.num_updates:
                        self.saved.save(index + 1)
        return self

    def replies(self):
        return [row["told"] for row in commands.replies(self.folder)]


def same(one, other, *less):
    """Rows and weights, bit for bit."""
    rows = [
        [{n: v for n, v in r.items() if n not in less} for r in l.log.rows] for l in (one, other)
    ]
    assert rows[0] == rows[1]
    mine = weights(one.run)
    assert all(torch.equal(w, mine[name]) for name, w in weights(other.run).items())
