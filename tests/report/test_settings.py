from lgrpo_lightning.report.settings import read_settings


def settings(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    notes = []
    return read_settings(path, notes), notes


def test_settings_have_dotted_names_and_yaml_values(tmp_path):
    text = "# version\nmodel:\n  loss: {kl_coef: 0.04, scaling: true}\n  lora:\nk: [1, 4]\nx: {}\n"
    found, notes = settings(tmp_path, text)
    assert found["values"] == {
        "model.loss.kl_coef": "0.04",
        "model.loss.scaling": "true",
        "model.lora": "null",
        "k.0": "1",
        "k.1": "4",
        "x": "{}",
    }
    assert found["text"] == text
    assert notes == []


def test_a_broken_file_is_said_and_still_shown(tmp_path):
    found, notes = settings(tmp_path, "a: [1, 2\nb: {")
    assert found["values"] == {}
    assert found["text"].startswith("a: [1")
    assert notes[0].startswith("config.yaml is not valid YAML (")


def test_a_file_that_is_no_mapping_has_no_settings(tmp_path):
    assert settings(tmp_path, "only text")[0]["values"] == {}


def test_a_missing_file_is_said(tmp_path):
    notes = []
    assert read_settings(tmp_path / "config.yaml", notes)["text"] == ""
    assert "config.yaml is missing" in notes[0]
