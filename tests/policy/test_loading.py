import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from lgrpo_lightning.policy import LoRASettings, PolicySettings, load_policy, load_tokenizer
from lgrpo_lightning.policy.loading import end_token_ids
from lgrpo_lightning.policy.settings import check_model_path

ADDITION = Path(__file__).parents[2] / "assets" / "tiny-addition"
SMALL = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
# Every family calls its dropouts in its own way, as modules and as plain numbers.
DROPOUT = {
    "bloom": {"hidden_size": 8, "n_layer": 1, "n_head": 2}
    | {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "falcon": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2}
    | {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "llama": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"num_key_value_heads": 2, "intermediate_size": 8, "attention_dropout": 0.5},
    "opt": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8}
    | {"word_embed_proj_dim": 8, "dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    "phi": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"intermediate_size": 8, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attention_dropout": 0.5},
}
IDS = torch.arange(3, 15).view(2, 6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a small random model of a family; give its folder."""
    made = {}

    def save(family, **options):
        key = f"{family}-{options}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp(family)
            config = AutoConfig.for_model(family, **SMALL, **options)
            AutoModelForCausalLM.from_config(config).save_pretrained(made[key])
        return str(made[key])

    return save


def logits(model):
    return model(input_ids=IDS).logits.detach()


def test_a_policy_comes_in_train_mode_and_single_precision():
    policy = load_policy(PolicySettings(str(ADDITION)))
    assert all(module.training for module in policy.modules())
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in policy.parameters())


def test_the_type_of_the_weights_is_as_asked_for_or_as_saved(tmp_path):
    def dtype(path, name):
        policy = load_policy(PolicySettings(str(path), dtype=name))
        (found,) = {parameter.dtype for parameter in policy.parameters()}
        return found

    assert dtype(ADDITION, "bfloat16") == torch.bfloat16
    load_policy(PolicySettings(str(ADDITION), dtype="float16")).save_pretrained(tmp_path)
    assert dtype(tmp_path, "auto") == torch.float16
    assert dtype(tmp_path, "float32") == torch.float32


def test_attention_is_as_asked_for():
    policy = load_policy(PolicySettings(str(ADDITION), attn_implementation="eager"))
    assert policy.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", DROPOUT)
def test_all_dropout_is_off_unless_asked_for(saved, family):
    path = saved(family, **DROPOUT[family])
    without = load_policy(PolicySettings(path))
    assert torch.equal(logits(without), logits(without))
    torch.testing.assert_close(logits(without), logits(without.eval()))
    with_dropout = load_policy(PolicySettings(path, disable_dropout=False))
    found = {tuple(logits(with_dropout).flatten().tolist()) for _ in range(8)}
    assert len(found) > 1


@pytest.mark.parametrize("lora", [LoRASettings(r=2), LoRASettings(r=2, use_dora=True)])
def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained(lora):
    plain = load_policy(PolicySettings(str(ADDITION))).eval()
    policy = load_policy(PolicySettings(str(ADDITION), lora=lora)).eval()
    torch.testing.assert_close(logits(policy), logits(plain))
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert adapted == {f"{k}_proj" for k in ("q", "k", "v", "o", "gate", "up", "down")}


def test_an_adapter_on_named_layers_and_its_dropout():
    lora = LoRASettings(r=2, dropout=0.3, target_modules=["q_proj"])
    policy = load_policy(PolicySettings(str(ADDITION), lora=lora))
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert all(".q_proj.lora_" in name for name in trained)
    rates = {module.p for module in policy.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}


def test_layers_that_are_not_there_cannot_be_adapted():
    lora = LoRASettings(target_modules=["c_attn"])
    with pytest.raises(ValueError, match=r"policy.lora does not fit the model: .*c_attn"):
        load_policy(PolicySettings(str(ADDITION), lora=lora))


def test_settings_of_an_adapter_may_be_a_mapping_as_in_a_checkpoint():
    assert PolicySettings("a", lora={"r": 3, "alpha": 4}).lora == LoRASettings(r=3, alpha=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"r": 0}, "lora.r must be at least 1, got 0"), ({"dropout": 1}, "lora.dropout must be in")],
)
def test_settings_of_an_adapter_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        LoRASettings(**options)


def test_an_adapter_without_its_package_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"policy.lora needs the package peft: pip install"):
        PolicySettings("a", lora=LoRASettings())


@pytest.mark.parametrize("path", ["./no", "/no/such", "~/no", "a/b/c", str(ADDITION.parent)])
def test_a_path_that_can_only_be_local_is_not_looked_up_on_the_hub(path):
    with pytest.raises(ValueError, match=f"policy.path '{path}' (does not exist|has no config)"):
        check_model_path(path)


@pytest.mark.parametrize("path", ["gpt2", "Qwen/Qwen2.5-0.5B-Instruct", str(ADDITION)])
def test_names_on_the_hub_and_model_folders_pass(path):
    check_model_path(path)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(tmp_path, missing):
    folder = tmp_path / "model"
    shutil.copytree(ADDITION, folder, ignore=shutil.ignore_patterns(missing, "tokenizer_config*"))
    settings = PolicySettings(str(folder))
    load = load_policy if missing == "model.safetensors" else load_tokenizer
    with pytest.raises(ValueError, match=str(folder)):
        load(settings)


def test_a_model_of_another_kind_is_refused(tmp_path):
    config = AutoConfig.for_model(
        "t5", vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}.* holds a t5 model, .* no causal language"):
        PolicySettings(str(tmp_path)).load_config()  # before any weights are


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ADDITION, folder)
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_policy(PolicySettings(str(folder)))
    assert not (tmp_path / "was-run").exists()


def tokenizer_without(folder, token):
    shutil.copytree(ADDITION, folder, dirs_exist_ok=True)
    for name, key in (("tokenizer_config.json", f"{token}_token"), ("tokenizer.json", "padding")):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: None}))
    return load_tokenizer(PolicySettings(str(folder)))


def test_the_end_token_pads_where_there_is_no_pad_token(tmp_path):
    tokenizer = tokenizer_without(tmp_path, "pad")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert load_tokenizer(PolicySettings(str(ADDITION))).pad_token_id == 0


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no end-of-sequence token.*set eos_token"):
        tokenizer_without(tmp_path, "eos")


@pytest.mark.parametrize(
    ("released", "expected"), [(None, [1]), (1, [1]), (5, [1, 5]), ([7, 5, 1], [1, 5, 7])]
)
def test_every_token_that_ends_a_turn_ends_a_completion(released, expected):
    policy = load_policy(PolicySettings(str(ADDITION), lora=LoRASettings(r=2)))
    policy.get_base_model().generation_config.eos_token_id = released
    tokenizer = load_tokenizer(PolicySettings(str(ADDITION)))
    assert end_token_ids(policy, tokenizer) == expected
