import json

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lgrpo_callbacks import ExportHuggingFace
from lgrpo_callbacks.folder_swap import finish_swap, replacing_folder
from tests.callbacks.boring import make_trainer

TOKENIZER = "assets/tiny-addition"
IDS = torch.tensor([[3, 4, 5, 6]])


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16, resid_pdrop=0.25
    )
    return GPT2LMHeadModel(config)


class TextPolicy(LightningModule):
    """A tiny language model that learns to repeat a text; each validation gets the next score."""

    def __init__(self, policy, scores=()):
        super().__init__()
        self.policy = policy
        self.tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
        self.scores = list(scores)

    def training_step(self, batch, batch_idx):
        for module in self.policy.modules():  # as is usual for training against a reference
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return self.policy(input_ids=IDS, labels=IDS).loss

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.log("score", self.scores.pop(0))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)

    def train_dataloader(self):
        return DataLoader(torch.arange(4))

    def val_dataloader(self):
        return DataLoader(torch.arange(1))


class Logits(ModelCheckpoint):
    """Keeps the logits after every optimizer step, and checkpoints."""

    def __init__(self, folder):
        super().__init__(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        self.seen = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        super().on_train_batch_end(trainer, pl_module, *args)
        self.seen[trainer.global_step] = logits(pl_module.policy)


@torch.no_grad()
def logits(policy):
    training = policy.training
    policy.eval()
    out = policy(input_ids=IDS).logits
    policy.train(training)
    return out


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def run(folder, module, export, **options):
    recorder = Logits(folder / "saved")
    options = {"enable_checkpointing": True, "limit_val_batches": 1.0, **options}
    trainer = make_trainer(folder, export, recorder, **options)
    trainer.fit(module, weights_only=options.pop("weights_only", None))
    return recorder


def test_best_and_last_have_the_logits_of_their_steps(tmp_path):
    module = TextPolicy(gpt2(), scores=[0.5, 0.8, 0.8, 0.1])
    export = ExportHuggingFace(monitor="score")
    seen = run(tmp_path, module, export, val_check_interval=1).seen
    assert (export.best_score, export.best_step) == (pytest.approx(0.8), 2)
    torch.testing.assert_close(logits(loaded(tmp_path / "export" / "best")), seen[2])
    torch.testing.assert_close(logits(loaded(tmp_path / "export" / "last")), seen[4])
    assert not torch.equal(seen[2], seen[4])
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["best", "last"]


def test_a_smaller_value_can_be_the_better_one(tmp_path):
    export = ExportHuggingFace(monitor="score", mode="min")
    module = TextPolicy(gpt2(), scores=[0.5, 0.8, float("nan"), 0.1])
    run(tmp_path, module, export, val_check_interval=1)
    assert export.best_step == 4


def test_the_folder_holds_the_tokenizer_and_dropout_as_the_model_came_with(tmp_path):
    module = TextPolicy(gpt2())
    run(tmp_path, module, ExportHuggingFace(), limit_val_batches=0)
    folder = tmp_path / "export" / "last"
    text = "Q:12+30="
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert ids == module.tokenizer(text)["input_ids"]
    assert json.loads((folder / "config.json").read_text())["resid_pdrop"] == 0.25
    assert loaded(folder).transformer.h[0].mlp.dropout.p == 0.25
    assert not (tmp_path / "export" / "best").exists()


def with_adapter(folder):
    gpt2().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    return get_peft_model(
        base, LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", lora_dropout=0.1)
    )


def test_an_adapter_is_saved_by_itself(tmp_path):
    module = TextPolicy(with_adapter(tmp_path))
    seen = run(tmp_path, module, ExportHuggingFace(), limit_val_batches=0).seen
    folder = tmp_path / "export" / "last"
    assert (folder / "adapter_config.json").is_file()
    assert not (folder / "model.safetensors").exists()
    torch.testing.assert_close(logits(loaded(folder)), seen[4])


def test_a_merged_adapter_needs_no_base_and_leaves_the_training_alone(tmp_path):
    module = TextPolicy(with_adapter(tmp_path), scores=[0.1, 0.2, 0.3, 0.4])
    export = ExportHuggingFace(monitor="score", merge=True)
    seen = run(tmp_path / "a", module, export, val_check_interval=1).seen
    folder = tmp_path / "a" / "export" / "last"
    assert not (folder / "adapter_config.json").exists()
    assert type(loaded(folder)) is GPT2LMHeadModel
    torch.testing.assert_close(logits(loaded(folder)), seen[4])
    module = TextPolicy(with_adapter(tmp_path))
    alone = run(tmp_path / "b", module, ExportHuggingFace(), limit_val_batches=0).seen
    assert all(torch.equal(seen[step], alone[step]) for step in seen)


def test_a_resumed_run_goes_on_with_its_best(tmp_path):
    def fit(version, scores, ckpt_path=None):
        export = ExportHuggingFace(monitor="score")
        saver = ModelCheckpoint(
            tmp_path / "saved", filename="{step}", every_n_train_steps=1, save_top_k=-1
        )
        trainer = make_trainer(
            tmp_path,
            export,
            saver,
            enable_checkpointing=True,
            limit_val_batches=1.0,
            max_epochs=2,
            logger=CSVLogger(tmp_path, name="", version=version),
        )
        module = TextPolicy(gpt2(), scores)
        trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)
        return export, logits(loaded(export.folder / "best"))

    first, best = fit("one", [0.5, 0.1])
    assert first.best_step == 4
    second, taken_along = fit("two", [0.4], tmp_path / "saved" / "step=5.ckpt")
    assert second.folder == tmp_path / "two" / "export"
    assert (second.best_score, second.best_step) == (0.5, 4)
    assert torch.equal(best, taken_along)
    third, beaten = fit("two", [0.6], tmp_path / "saved" / "step=5.ckpt")
    assert third.folder == tmp_path / "two" / "export-2"  # the history it resumes is that of "one"
    assert third.best_step == 8
    assert not torch.equal(best, beaten)


def test_validating_alone_and_sanity_checks_export_nothing(tmp_path):
    export = ExportHuggingFace(monitor="score")
    module = TextPolicy(gpt2(), scores=[0.5])
    options = {"limit_val_batches": 1.0}
    make_trainer(tmp_path, export, **options).validate(module, verbose=False)
    assert not (tmp_path / "export").exists()
    make_trainer(tmp_path, export, max_steps=0, num_sanity_val_steps=-1, **options).fit(module)
    assert export.best_step is None


def test_another_run_in_the_same_folder_leaves_the_first_alone(tmp_path):
    export = ExportHuggingFace()
    for _ in range(2):
        run(tmp_path, TextPolicy(gpt2()), export, limit_val_batches=0)
    assert (tmp_path / "export" / "last" / "config.json").is_file()
    assert (tmp_path / "export-2" / "last" / "config.json").is_file()


def test_a_metric_that_is_not_logged_is_named(tmp_path):
    export = ExportHuggingFace(monitor="eval/pass@1")
    with pytest.raises(ValueError, match=r"monitor='eval/pass@1'.*logged are .*score"):
        run(tmp_path, TextPolicy(gpt2(), [0.5]), export)


def test_what_cannot_be_saved_is_refused_before_training(tmp_path):
    module = TextPolicy(gpt2())
    module.policy = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"policy='policy'.*Linear has no save_pretrained"):
        make_trainer(tmp_path, ExportHuggingFace()).fit(module)
    module = TextPolicy(gpt2())
    del module.tokenizer
    with pytest.raises(ValueError, match=r"tokenizer='tokenizer'.*no attribute 'tokenizer'"):
        make_trainer(tmp_path, ExportHuggingFace()).fit(module)
    run(tmp_path, module, ExportHuggingFace(tokenizer=None), limit_val_batches=0)
    assert (tmp_path / "export" / "last" / "config.json").is_file()


@pytest.mark.parametrize("options", [{"dirname": ""}, {"mode": "best"}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        ExportHuggingFace(**options)


def fill(place, text):
    with replacing_folder(place) as folder:
        (folder / "a").write_text(text)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    place = tmp_path / "best"
    fill(place, "one")
    with pytest.raises(TypeError):
        fill(place, None)  # which write_text refuses
    assert (place / "a").read_text() == "one"
    fill(place, "three")
    assert (place / "a").read_text() == "three"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_during_the_swap_loses_nothing(tmp_path, moment):
    place, previous = tmp_path / "best", tmp_path / ".best.previous"
    fill(place, "one")
    fill(tmp_path / ".best.unfinished", "two")
    if moment in ("between", "after"):
        place.rename(previous)
    if moment == "after":
        (tmp_path / ".best.unfinished").rename(place)
    finish_swap(place)
    assert (place / "a").read_text() == ("two" if moment == "after" else "one")
    fill(place, "three")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
