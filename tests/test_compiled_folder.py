"""Engine files, without any engine; what an engine makes of them is in tests/trt."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from edge_runtime.engines import compiled
from edge_runtime.engines.compiled import CompiledFolder, Identity
from edge_runtime.errors import EngineError, EngineFileRefused

OURS = Identity("a" * 64, "fp16", "b" * 64, "tensorrt 10.3.0", "Orin", "8.7", "12.6", "16 x 16 to 512 x 512")


@pytest.fixture
def folder(tmp_path: Path) -> CompiledFolder:
    return CompiledFolder(tmp_path / "engines")


def test_what_is_kept_comes_back(folder):
    assert folder.engine(OURS) is None
    folder.keep_engine(OURS, b"an engine")
    assert folder.engine(OURS) == b"an engine"
    folder.keep_engine(OURS, b"another")
    assert folder.engine(OURS) == b"another"
    assert [path.name for path in folder.path.iterdir()] == ["aaaaaaaaaaaaaaaa-fp16.engine"]


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_every_line_of_the_identity_counts(folder, name):
    other = replace(OURS, **{name: f"{getattr(OURS, name)}, another"})
    folder.keep_engine(OURS, b"an engine")
    if other.name == OURS.name:
        with pytest.raises(EngineFileRefused, match=rf"{name} '.*' instead of '.*, another'"):
            folder.engine(other)
    else:
        assert folder.engine(other) is None


def test_a_copied_file_is_refused_under_another_name(folder):
    path = folder.keep_engine(OURS, b"an engine")
    other = replace(OURS, precision="int8")
    path.rename(folder.engine_file(other))
    with pytest.raises(EngineFileRefused, match="precision 'fp16' instead of 'int8'"):
        folder.engine(other)


def test_what_is_larger_than_any_engine_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(compiled, "MAX_COMPILED_BYTES", 100)
    monkeypatch.setattr(compiled, "MAX_HEADER_BYTES", 1000)
    folder.keep_engine(OURS, bytes(2000))
    with pytest.raises(EngineFileRefused, match="larger than 1112 bytes"):
        folder.engine(OURS)


def test_measurements_are_of_one_device_and_version(folder):
    folder.keep_timing(OURS, b"measured")
    assert folder.timing(OURS) == folder.timing(replace(OURS, bundle="c" * 64, precision="int8")) == b"measured"
    for change in ({"compiler": "tensorrt 10.13.0"}, {"gpu": "Thor"}, {"capability": "11.0"}, {"driver": "13.0"}):
        assert folder.timing(replace(OURS, **change)) == b""


def test_what_is_discarded_is_compiled_anew(folder):
    folder.discard(OURS)
    folder.keep_engine(OURS, b"an engine")
    folder.discard(OURS)
    assert folder.engine(OURS) is None
    assert not list(folder.path.iterdir())


def test_a_folder_that_can_not_be_used_is_named(folder):
    folder.path.write_text("a file")
    for use in (
        lambda: folder.engine(OURS),
        lambda: folder.keep_engine(OURS, b""),
    ):
        with pytest.raises(EngineError, match=r"engines/.*can't be (read|written)"):
            use()


def test_a_path_may_begin_at_home_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CompiledFolder.at(Path("~/engines")).path == tmp_path / "engines"
    with pytest.raises(EngineError, match=r"~nobody-here/engines: .*compile\.cache of the hardware profile"):
        CompiledFolder.at(Path("~nobody-here/engines"))


def test_nothing_half_written_stays(folder, monkeypatch):
    folder.keep_engine(OURS, b"an engine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EngineError, match=r"No space left on device; compile.cache of the hardware profile"):
        folder.keep_engine(OURS, b"another")
    assert [path.suffix for path in folder.path.iterdir()] == [".engine"]
    assert folder.engine(OURS) == b"an engine"
