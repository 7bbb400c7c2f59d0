"""A model's configuration: what is wrong is named by file, key and value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.config import ConfigError, load_config

SHIPPED = Path(__file__).parents[2] / "export" / "configs" / "brain2d.toml"


def test_the_shipped_configuration_is_read() -> None:
    config = load_config(SHIPPED)
    assert (config.name, config.network.widths, config.train.learning_rate) == ("brain2d", (32, 64, 96, 128), 1e-3)


@pytest.mark.parametrize(
    ("line", "replacement", "complaint"),
    [
        ("count = 4000", "count = -1", "[simulate] count = -1: a whole number from 1 to 1000000 is expected"),
        ("count = 4000", 'count = "many"', "[simulate] count = 'many': a whole number"),
        ("count = 4000", "count = 4000.5", "[simulate] count = 4000.5: a whole number"),
        ("count = 4000", "count = true", "[simulate] count = True: a whole number"),
        ("phantom_share = 0.1", "phantom_share = 1.5", "[simulate] phantom_share = 1.5: a number from 0 to 1"),
        ("phantom_share = 0.1", "phantom_share = nan", "[simulate] phantom_share = nan: a number"),
        ("widths = [32, 64, 96, 128]", "widths = 32", "[network] widths = 32: 1 to 8 whole numbers from 1 to 1024"),
        ("widths = [32, 64, 96, 128]", "widths = []", "[network] widths = []: 1 to 8 whole numbers"),
        ("widths = [32, 64, 96, 128]", 'widths = [32, "64"]', "[network] widths = [32, '64']: 1 to 8 whole numbers"),
        ("learning_rate = 1e-3", "learning_rate = 0", "[train] learning_rate = 0: a number from 1e-08 to 1"),
        (
            "warmup_steps = 100",
            "warmup_steps = 999999",
            "[train] warmup_steps = 999999: at most ",
        ),
        ("steps = ", "step = ", "[train] differs in ['step', 'steps']"),
        ("warmup_steps = 20", "warmup_steps = 701", "[refine] warmup_steps = 701: at most 700, all steps, is expected"),
        ("learning_rate = 1.5e-4", "learning_rate = 2", "[refine] learning_rate = 2: a number from 1e-08 to 1 is"),
        ("[quantize]", "[quantise]", "differs in ['quantise', 'quantize']"),
        (
            "[quantize]",
            "[quantize]\nsymmetric_activations = 1",
            "[quantize] symmetric_activations = 1: true or false is expected",
        ),
        ('name = "brain2d"', "name = 7", "name = 7: a text is expected"),
        ('version = "0.5.0"', 'version = "new"', "version = 'new': whole numbers with dots are expected"),
        ('licence = "Apache-2.0"', "licence = 2", "licence = 2: a text is expected"),
        ('licence = "Apache-2.0"', 'license = "Apache-2.0"', "differs in ['license']"),
        (
            "int8_loss_db = { at_most",
            "int8_loss_db = { most",
            "limits: int8_loss_db = {'most': 0.1}: at_least, at_most or both",
        ),
        ('name = "brain2d"', 'nmae = "brain2d"', "differs in ['name', 'nmae']"),
        ('name = "brain2d"', 'name = "brain2d', "Illegal character '\\n' (at line "),
    ],
    ids=lambda value: value,
)
def test_a_wrong_value_is_named(tmp_path: Path, line: str, replacement: str, complaint: str) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    changed = re.sub(rf"^{re.escape(line)}", replacement, text, count=1, flags=re.MULTILINE)
    assert changed != text
    path = tmp_path / "made.toml"
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)


def test_licence_and_limits_may_be_left_out(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8").partition("[limits]")[0].replace('licence = "Apache-2.0"\n', "")
    path = tmp_path / "made.toml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert (config.licence, config.limits) == ("NOASSERTION", {})


def test_activations_are_unsigned_unless_they_shall_be_symmetric(tmp_path: Path) -> None:
    assert not load_config(SHIPPED).quantize.symmetric_activations
    path = tmp_path / "made.toml"
    path.write_text(SHIPPED.read_text().replace("[quantize]", "[quantize]\nsymmetric_activations = true"))
    assert load_config(path).quantize.symmetric_activations


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")
