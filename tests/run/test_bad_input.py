"""Whatever is wrong comes as one sentence before anything is begun, and loses nothing.

Tables of bad input: (id, what is given, words that the sentence must hold). Add a row, not a test.
"""

import hashlib
import re

import pytest
from helpers_run import begin, call, checkpoint, finish

from rlhf_utils.errors import ExplainedError
from rlhf_utils.files import write_json
from rlhf_utils.preferences.exchange import read_labels
from rlhf_utils.run import cli

LONG = "x" * 5000

# --- values: `-p TEXT` ----------------------------------------------------------------------------

BAD_VALUES = [
    # form
    ("no-sign", "seed", "'seed' is not of the form name=value"),
    ("no-name", "=3", "not of the form name=value"),
    ("nothing", "", "not of the form name=value"),
    ("a-space", "a b=3", "not of the form name=value"),
    ("no-stage", ".seed=3", "'.seed=3' is not of the form"),
    ("stage-misspelt", "sftt.seed=3", "one of the stages sft, preferences, "),
    ("stage-in-capitals", "PPO.seed=3", "one of the stages"),
    ("two-dots", "ppo.less.gamma=0.9", "not of the form"),
    ("more-itself", "more={gamma: 0.9}", "A setting in `more` is given by its own name"),
    ("in-more", "more.gamma=0.9", "'more.gamma=0.9' is not of the form"),
    ("more-of-a-stage", "ppo.more={gamma: 0.9}", "given by its own name"),
    ("name-is-a-number", "3=3", "not of the form"),
    ("name-with-a-dash", "kl-coef=0.1", "'kl-coef=0.1' is not of the form"),
    ("escape-in-the-name", "\x1b[31mseed=3", "not of the form"),
    # names
    ("one-letter-too-many", "kl_coeff=0.1", "'kl_coeff': did you mean kl_coef?"),
    ("one-letter-less", "kl_coe=0.1", "did you mean kl_coef?"),
    ("singular", "num_train_epoch=1", "did you mean num_train_epochs"),
    ("typo-in-more", "ppo.gama=0.9", "'ppo.gama': did you mean gamma"),
    ("in-capitals", "SEED=3", "No notebook has a parameter 'SEED'"),
    ("far-from-all", "zzz=3", "No notebook has a parameter 'zzz'; there are "),
    ("of-another-stage", "evaluation.gamma=0.9", "gamma belongs to ppo, not to evaluation"),
    ("the-run", "run=other", "use --run"),
    ("the-run-of-a-stage", "ppo.run=other", "use --run"),
    # types
    ("word-for-a-number", "kl_coef=abc", "kl_coef='abc' should be of type float"),
    ("word-for-an-int", "seed=many", "seed='many' should be of type int"),
    ("fraction-for-an-int", "seed=1.5", "seed='1.5' should be of type int"),
    ("empty-for-a-number", "seed=", "seed='' should be of type int"),
    ("date", "seed=2024-01-01", "seed='2024-01-01' should be of type int"),
    ("date-for-a-float", "kl_coef=2024-01-01", "kl_coef='2024-01-01' should be of type float"),
    ("clock", "num_prompts=12:30", "num_prompts='12:30' should be of type int"),
    ("octal", "seed=0o7", "seed='0o7' should be of type int"),
    ("hexadecimal", "seed=0x10", "seed='0x10' should be of type int"),
    ("yaml-nan", "kl_coef=.nan", "kl_coef='.nan' should be of type float"),
    ("nan", "kl_coef=nan", "a finite number"),
    ("infinite", "learning_rate=inf", "a finite number"),
    ("beyond-a-float", "kl_coef=1e400", "kl_coef='1e400' should be of type float"),
    ("beyond-memory", "seed=1e999999999", "seed='1e999999999' should be of type int"),
    ("null", "kl_coef=null", "kl_coef='null' should be of type float"),
    ("tilde", "seed=~", "seed='~' should be of type int"),
    ("list", "seed=[1, 2]", "seed='[1, 2]' should be of type int"),
    ("table", "kl_coef={a: 1}", "kl_coef='{a: 1}' should be of type float"),
    ("yes", "resume=yes", "resume='yes' should be of type bool"),
    ("on", "resume=on", "resume='on' should be of type bool"),
    ("one-for-true", "resume=1", "resume='1' should be of type bool"),
    ("true-for-a-number", "seed=true", "seed='true' should be of type int"),
    ("comma", "kl_coef=0,1", "kl_coef='0,1' should be of type float"),
    ("power", "learning_rate=10^-4", "learning_rate='10^-4' should be of type float"),
    ("unicode-minus", "kl_coef=−0.1", "kl_coef='−0.1' should be of type float"),
    ("unit", "response_length=48 tokens", "response_length='48 tokens' should be of type int"),
    ("thousands", "num_prompts=2k", "num_prompts='2k' should be of type int"),
    ("two-signs", "seed==3", "seed='=3' should be of type int"),
    ("percent", "heldout_fraction=10%", "heldout_fraction='10%' should be of type float"),
    ("type-in-more", "gamma=much", "gamma='much' should be of type float"),
    ("bool-in-more", "whiten_rewards=maybe", "whiten_rewards='maybe' should be of type bool"),
    # ranges
    ("seed-below", "seed=-1", "seed=-1 must be from 0 to 4294967295"),
    ("seed-beyond", "seed=4294967296", "seed=4294967296 must be from 0 to 4294967295"),
    ("one-answer", "answers_per_prompt=1", "answers_per_prompt=1 must be from 2 to 6"),
    ("seven-answers", "answers_per_prompt=7", "answers_per_prompt=7 must be from 2 to 6"),
    ("overlap", "overlap=1.5", "overlap=1.5 must be a share from 0 to 1"),
    ("repeat", "repeat=2", "repeat=2.0 must be a share from 0 to 1"),
    ("all-held-out", "sft.heldout_fraction=1", "heldout_fraction=1.0 must be a share above 0"),
    ("none-held-out", "heldout_fraction=0", "heldout_fraction=0.0 must be a share above 0"),
    ("no-validation", "validation_fraction=0", "validation_fraction=0.0 must be a share"),
    ("dropout-of-all", "dropout=1.0", "dropout=1.0 must be at least 0 and below 1"),
    ("dropout-below", "dropout=-0.1", "dropout=-0.1 must be at least 0"),
    ("no-head", "ensemble=0", "ensemble=0 must be above 0"),
    ("no-temperature", "temperature=0", "temperature=0.0 must be above 0"),
    ("temperature-below", "temperature=-1", "temperature=-1.0 must be above 0"),
    ("no-epoch", "num_train_epochs=0", "num_train_epochs=0 must be above 0"),
    ("no-rate", "learning_rate=0", "learning_rate=0.0 must be above 0"),
    ("no-answer", "response_length=0", "response_length=0 must be above 0"),
    ("prompts-below", "num_prompts=-5", "num_prompts=-5 must be from 0 to 2147483647"),
    ("rankings-below", "num_rankings=-1", "num_rankings=-1 must be from 0"),
    ("rank-below", "lora_r=-1", "lora_r=-1 must be from 0"),
    ("layers-below", "num_trainable_layers=-2", "must be from 0"),
    ("penalty-below", "kl_coef=-0.1", "kl_coef=-0.1 must be from 0"),
    ("too-many", "num_prompts=10000000000", "num_prompts=10000000000 must be from 0 to 2147483647"),
    ("step-below", "temperature_step=-0.1", "temperature_step=-0.1 must be from 0"),
    ("discount", "gamma=1.5", "gamma=1.5 must be from 0 to 1"),
    ("lambda", "lam=1.01", "lam=1.01 must be from 0 to 1"),
    ("never-saved", "save_every=0", "save_every=0 must be above 0"),
    # choices
    ("dtype", "dtype=float16", "dtype='float16' must be 'auto' or 'float32' or 'bfloat16'"),
    ("combine", "combine=median", "combine='median' must be 'mean' or 'min' or 'uncertainty'"),
    ("estimator", "kl_estimator=k2", "kl_estimator='k2' must be 'k1' or 'k3'"),
    ("estimator-no", "kl_estimator=no", "kl_estimator='no' must be"),
    # sizes that do not divide
    ("episodes", "total_episodes=1000", "total_episodes=1000 is not a multiple of batch_size=128"),
    ("batch", "ppo.batch_size=100", "is not a multiple of batch_size=100"),
    ("minibatches", "num_mini_batches=3", "batch_size=128 is not a multiple of num_mini_batches=3"),
    ("passes", "ppo.per_device_train_batch_size=48", "per_device_train_batch_size=48"),
    # texts
    ("no-model", "model=", "model='' must not be empty"),
    ("blank-model", "model=  ", "model='' must not be empty"),
    ("no-reward", "reward=", "reward='' must not be empty"),
    ("no-prompts", "preferences.prompts=", "prompts='' must not be empty"),
    ("nul", "model=a\0b", "hold only characters that print"),
    ("escape", "model=\x1b]0;x\x07", "hold only characters that print"),
    ("line-break", "demonstrations=a\nb", "hold only characters that print"),
    ("right-to-left", "annotator_name=\u202eabc", "hold only characters that print"),
    ("half-a-surrogate", "annotator_name=\ud800", "hold only characters that print"),
    ("too-long", f"model={LONG}", "must have at most 4000 characters"),
    # sources
    ("no-demonstrations", "demonstrations=nothing.jsonl", "demonstrations='nothing.jsonl'"),
    ("no-file", "preferences.prompts=sub/nothing.csv", "There is no file "),
    ("no-heldout", "heldout_prompts=nothing.json", "There is no file "),
    ("no-pairs", "reward_model.preferences=nothing.parquet", "There is no file "),
    ("no-ppo-prompts", "ppo.prompts=nothing.jsonl.gz", "There is no file "),
    ("no-labels", "annotator=nothing.jsonl", "there is no file "),
    ("annotator-misspelt", "annotator=simulatd", "did you mean 'simulated'?"),
    ("nobody-can-rank-here", "annotator=person", "annotator='person' ranks in JupyterLab"),
    ("annotator-plural", "annotator=persons", "did you mean 'person'?"),
    ("annotator-in-capitals", "annotator=Simulated", "did you mean 'simulated'?"),
    ("reward-misspelt", "reward=reward_modell", "did you mean reward_model?"),
    ("split-into-nothing", "num_demonstrations=3", "3 prompts cannot be split"),
]

# --- profiles: the text of a file that --profile names --------------------------------------------

BAD_PROFILES = [
    ("unknown-name", "seed: 1\nkl_coeff: 0.1\n", "mine.yaml, line 2: No notebook has a parameter"),
    ("near-name", "lerning_rate: 0.1\n", "did you mean learning_rate"),
    ("wrong-type", "# mine\n\nseed: many\n", "mine.yaml, line 3: Parameter seed='many'"),
    ("date", "seed: 2024-01-01\n", "line 1: Parameter seed='2024-01-01'"),
    ("out-of-range", "overlap: 1.5\n", "line 1: Parameter overlap=1.5 must be a share"),
    ("choice", "dtype: int8\n", "line 1: Parameter dtype='int8' must be"),
    ("list-for-a-value", "seed: [1, 2]\n", "line 1: seed must have one value"),
    ("table-for-a-value", "ppo:\n  seed: 1\n", "line 1: ppo must have one value"),
    ("no-value", "seed:\n", "line 1: seed has no value"),
    ("null", "seed: 1\nmodel: null\n", "line 2: model has no value"),
    ("tilde", "model: ~\n", "line 1: model has no value"),
    ("toml", "[ppo]\nseed = 3\n", "mine.yaml, line 2 is not YAML"),
    ("merge-key", "<<: {seed: 1}\n", "'<<' is not of the form"),
    ("undefined-anchor", "seed: *mine\n", "line 1 is not YAML: found undefined alias"),
    ("nested-too-deeply", "[" * 5000, "is not YAML"),
    ("utf16", "seed: 3\n".encode("utf-16"), "it is not UTF-8 text"),
    ("list", "- seed\n- model\n", "must hold lines of the form `name: value`"),
    ("one-word", "seed\n", "must hold lines of the form `name: value`"),
    ("no-yaml", "seed: 1\nmodel: {tiny\n", "is not YAML"),
    ("tab", "seed: 1\n\tmodel: tiny\n", "mine.yaml, line 2 is not YAML"),
    ("twice", "seed: 1\nseed: 2\n", "line 2: 'seed' stands there twice"),
    ("run", "run: other\n", "use --run"),
    ("more", "more: x\n", "'more' is not of the form"),
    ("key-is-a-list", "[a, b]: 1\n", "line 1"),
    ("stage-misspelt", "pppo.seed: 1\n", "'pppo.seed' is not of the form"),
    ("nothing-divides", "total_episodes: 100\n", "total_episodes=100 is not a multiple"),
    ("python-object", "seed: !!python/object/apply:os.getcwd []\n", "one value"),
    ("control-character", "model: \x01\n", "is not YAML"),
    ("not-utf8", b"model: \xff\xfe\n", "it is not UTF-8 text"),
    ("no-mapping-but-two", "--- \na: 1\n---\nb: 2\n", "is not YAML"),
]

# --- calls: all arguments -------------------------------------------------------------------------

BAD_CALLS = [
    ("no-command", [], "required: COMMAND"),
    ("unknown-command", ["walk"], "There is no 'walk'; there are run, resume, list"),
    ("command-misspelt", ["resum", "done"], "did you mean resume?"),
    ("unknown-option", ["run", "--form", "ppo"], "did you mean --from?"),
    ("option-for-a-parameter", ["run", "--kl-coef=0.1"], "did you mean -p kl_coef=VALUE?"),
    ("parameter-without-p", ["run", "new", "seed=1"], "did you mean -p seed=VALUE?"),
    ("given-twice", ["run", "-p", "seed=1", "-p", "seed=2"], "gives seed twice, 1 and 2"),
    ("option-cut-short", ["run", "--prof", "smoke"], "did you mean --profile?"),
    ("stage-misspelt", ["run", "--only", "sfft"], "did you mean sft?"),
    ("unknown-stage", ["run", "--from", "x"], "there are sft, preferences, "),
    ("notebook-as-stage", ["run", "--only", "04_ppo"], "did you mean ppo?"),
    ("from-and-only", ["run", "--from", "ppo", "--only", "sft"], "not allowed with"),
    ("no-value", ["run", "-p"], "expected one argument"),
    ("two-names", ["run", "a", "--run", "b"], "Two names for one run, 'a' and 'b'"),
    ("too-many-names", ["run", "a", "b"], "unrecognized arguments: b"),
    ("unknown-profile", ["run", "--profile", "huge"], "there are demo, gpu, quick, smoke"),
    ("profile-misspelt", ["run", "--profile", "smok"], "did you mean smoke?"),
    ("profile-elsewhere", ["run", "--profile", "../smoke"], "There is no profile '../smoke'"),
    ("profile-without-a-name", ["run", "--profile="], "There is no profile ''"),
    ("no-profile-file", ["run", "--profile", "nothing.yaml"], "There is no profile file "),
    ("profile-is-a-folder", ["run", "--profile", "folder.yaml"], "cannot be read"),
    ("run-outside", ["run", "../x"], "run='../x' is no run name"),
    ("run-below", ["run", "a/b"], "run='a/b' is no run name"),
    ("run-with-a-space", ["run", "a b"], "run='a b' is no run name"),
    ("run-hidden", ["run", ".x"], "run='.x' is no run name"),
    ("run-without-a-name", ["run", ""], "run='' is no run name"),
    ("run-too-long", ["run", "x" * 65], "is no run name"),
    ("run-with-an-escape", ["run", "\x1b[2J"], "is no run name"),
    ("run-is-a-file", ["run", "afile"], "afile is no folder"),
    ("finished", ["run", "done"], "holds a finished run of 2020-01-02 09:53"),
    ("finished-by-another-way", ["run", "--run", "done", "-p", "seed=3"], "--overwrite"),
    ("unfinished", ["run", "half"], "`rlhf resume half` goes on with it"),
    ("checkpoints", ["run", "half", "--from", "ppo"], "`rlhf resume half` goes on with it"),
    ("checkpoints-again", ["run", "half", "--only", "ppo"], "would be deleted"),
    ("nothing-to-go-on-from", ["run", "new", "--from", "ppo"], "04_ppo needs sft/policy"),
    ("a-stage-is-missing", ["run", "half", "--only", "evaluation"], "ppo/policy, which is missing"),
    ("of-another-stage", ["run", "new", "--only", "sft", "-p", "kl_coef=1"], "belongs to ppo"),
    ("stage-is-a-file", ["run", "odd"], "odd/sft is no folder"),
    ("damaged-state", ["run", "broken", "--from", "ppo"], "parameters.json is damaged"),
    ("state-is-a-list", ["resume", "listed"], "parameters.json is damaged"),
    ("resume-what", ["resume"], "required: RUN"),
    ("resume-nothing", ["resume", "nothing"], "There is no run 'nothing'"),
    ("resume-misspelt", ["resume", "hal"], "did you mean half?"),
    ("resume-by-hand", ["resume", "byhand"], "has no parameters.json"),
    ("resume-without-its-profile", ["resume", "lost"], "There is no profile file "),
    ("resume-outside", ["resume", "../x"], "is no run name"),
    ("resume-with-parameters", ["resume", "half", "-p", "seed=1"], "unrecognized arguments: -p"),
    ("compare-one", ["compare", "done"], "the following arguments are required: B"),
    ("compare-nothing", ["compare", "done", "nothing"], "There is no run 'nothing'"),
    ("open-nothing", ["open", "nothing"], "There is no run 'nothing'"),
    ("open-unfinished", ["open", "half"], "has no report yet"),
    ("keep-nothing", ["keep", "nothing"], "There is no run 'nothing'"),
    ("keep-unfinished", ["keep", "half"], "is not finished (ppo, evaluation)"),
    ("keep-without-notebooks", ["keep", "done"], "01_sft.ipynb is missing or damaged"),
    ("keep-outside", ["keep", "../x"], "is no run name"),
]

# --- rows: (parameter, name of the file, its content) ---------------------------------------------

ROW = '{"prompt": "How do plants drink?", "completion": "By their roots."}\n'
BAD_ROWS = [
    ("empty-file", "demonstrations", "mine.jsonl", "", "mine.jsonl"),
    ("no-json", "demonstrations", "mine.jsonl", ROW + "{oops\n", "line 2"),
    ("not-utf8", "demonstrations", "mine.jsonl", b'{"prompt": "\xff"}', "UTF-8"),
    ("no-parquet", "demonstrations", "mine.parquet", "PAR1", "mine.parquet"),
    ("no-gzip", "demonstrations", "mine.jsonl.gz", "plain", "gzip"),
    ("list-cut", "demonstrations", "mine.json", '[{"prompt": "a"', "mine.json"),
    ("no-column", "demonstrations", "mine.jsonl", '{"question": "a"}\n', "prompt"),
    ("no-answer", "demonstrations", "mine.jsonl", '{"prompt": "a"}\n', "completion"),
    ("prompts", "preferences.prompts", "mine.csv", "text\nhello\n", "prompt"),
    ("heldout", "heldout_prompts", "mine.json", '{"prompt": ""}\n', "mine.json"),
    ("pairs", "reward_model.preferences", "mine.jsonl", ROW, "chosen"),
    ("labels", "annotator", "mine.jsonl", '{"prompt": "a", "ranks": [1]}\n', "line 1"),
    ("labels-of-nothing", "annotator", "mine.jsonl", "", "mine.jsonl"),
]

# --- labels: the text of a file; the words are in the reason of its bad row, or in the error ------

BAD_LABELS = [
    ("no-object", "3\n", "no object"),
    ("no-answers", '{"prompt": "a", "ranks": [1, 2]}\n', "responses"),
    ("one-answer", '{"prompt": "a", "responses": ["b"], "ranks": [1]}\n', "at least 2"),
    ("no-json", "{oops\n", "not JSON"),
]


# --- rewards: the name ----------------------------------------------------------------------------

BAD_REWARDS = [
    ("blank", " ", "is no reward"),
    ("sum", "my:one + my:two", "is a sum"),
    ("weighted", "2*my:one", "is a sum"),
    ("no-module", "no_such_module:polite", "'no_such_module:polite' cannot be imported"),
    ("no-function", "statistics:polite", "cannot be imported"),
    ("no-name", "statistics:", "cannot be imported"),
    ("number", "math:pi", "is no function but float"),
    ("module", "os:path", "is no function but module"),
]

# --- models: (name or content of config.json in a folder) -----------------------------------------

BAD_MODELS = [
    ("nowhere", "nobody/no-such-model", "Could not load 'nobody/no-such-model'"),
    ("one-word", "no-such-model", "Could not load 'no-such-model'"),
    ("empty-folder", {}, "has no config.json"),
    ("no-json", {"config.json": "{"}, "config.json is damaged"),
    ("unknown-kind", {"config.json": '{"model_type": "abacus"}'}, "Could not load"),
]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A shell's folder beside outputs/ with runs of all kinds. No notebook may start."""
    outputs, shell = tmp_path / "outputs", tmp_path / "shell"
    shell.mkdir()
    (shell / "folder.yaml").mkdir()
    for name in ("done", "half", "byhand", "lost"):
        stages = () if name == "done" else ("sft", "preferences", "reward_model")
        finish(outputs / name, *stages)
        if name != "byhand":
            begin(outputs / name, profile="nothing.yaml" if name == "lost" else "demo")
    checkpoint(outputs / "half")
    finish(outputs / "broken", "sft")
    (outputs / "broken/parameters.json").write_text("{")
    write_json(outputs / "listed/parameters.json", [1])
    (outputs / "afile").write_text("")
    (outputs / "odd").mkdir()
    (outputs / "odd/sft").write_text("")
    monkeypatch.setenv("RLHF_OUTPUTS", str(outputs))
    monkeypatch.setenv("RLHF_CWD", str(shell))
    monkeypatch.chdir(shell)

    def never(*rest):
        raise AssertionError("a notebook would start")

    monkeypatch.setattr(cli, "execute_stages", never)
    return shell


def everything(folder) -> str:
    """A digest of all names and contents below the folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path).encode() + (path.read_bytes() if path.is_file() else b"/"))
    return found.hexdigest()


def refused(capsys, world, words: str, *arguments) -> None:
    before = everything(world.parent)
    status, out, err = call(capsys, *arguments)
    assert status == 2 and words in err, err
    assert err.startswith("rlhf: ") and err.count("\n") == 1 and len(err) < 1500
    assert "Traceback" not in err and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", err)
    assert everything(world.parent) == before, "something was written"


def rows(table: list[tuple]) -> list:
    return [pytest.param(*row[1:], id=row[0]) for row in table]


@pytest.mark.parametrize(("text", "words"), rows(BAD_VALUES))
def test_bad_input_value(world, capsys, text, words):
    refused(capsys, world, words, "run", "new", "-p", text)


@pytest.mark.parametrize(("text", "words"), rows(BAD_PROFILES))
def test_bad_input_profile(world, capsys, text, words):
    path = world / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, world, words, "run", "new", "--profile", "mine.yaml")


@pytest.mark.parametrize(("arguments", "words"), rows(BAD_CALLS))
def test_bad_input_call(world, capsys, arguments, words):
    refused(capsys, world, words, *arguments)


@pytest.mark.parametrize(("parameter", "name", "content", "words"), rows(BAD_ROWS))
def test_bad_input_rows(world, capsys, parameter, name, content, words):
    (world / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(capsys, world, words, "run", "new", "-p", f"{parameter}={name}")


@pytest.mark.parametrize(("text", "words"), rows(BAD_LABELS))
def test_bad_input_labels(tmp_path, text, words):
    path = tmp_path / "labels.jsonl"
    path.write_text(text)
    try:
        judgements, bad = read_labels(path)
    except ExplainedError as error:
        assert words in str(error)
    else:
        assert judgements == [] and words in bad[0][1]


@pytest.mark.parametrize(("name", "words"), rows(BAD_REWARDS))
def test_bad_input_reward(name, words):
    from rlhf_utils.reward.functions import load_reward

    with pytest.raises(ExplainedError) as error:
        load_reward(name, lambda: None)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("model", "words"), rows(BAD_MODELS))
def test_bad_input_model(tmp_path, model, words):
    from rlhf_utils.models.load import load_tokenizer

    if isinstance(model, dict):
        for name, text in model.items():
            (tmp_path / name).write_text(text)
        model = str(tmp_path)
    with pytest.raises(ExplainedError) as error:
        load_tokenizer(model)
    assert words in str(error.value) and "\n" not in str(error.value)
