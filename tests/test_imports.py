"""What the device install imports, and what the desk toolchain says without its extra."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from export.cli import _parser, main

ROOT = Path(__file__).parents[1]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["edge_runtime.cli", "edge_runtime.links.mrd", "edge_runtime.demo.run"])
def test_the_device_imports_neither_torch_nor_the_desk(module: str) -> None:
    heavy = (
        "torch",
        "cyclonedx",
        "cryptography",
        "scipy",
        "h5py",
        "export",
        "onnx",
        "matplotlib",
        "nibabel",
        "twixtools",
        "ismrmrd",
        "pynetdicom",
        "highdicom",
        "jpeg_ls",
    )
    done = python(f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy!r})))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_edge_export_without_its_extra_says_what_to_install() -> None:
    hidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'nibabel')));"
    done = python(
        f"{hidden} from export.cli import main; sys.exit(main(['demo-scan', 'ch2.nii.gz', '--out', 'nowhere']))"
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "edge-export: torch, nibabel not installed: pip install -e '.[export]' in edge-runtime's checkout\n"
    )
    assert not (ROOT / "nowhere").exists()


def commands_of_edge_export() -> list[str]:
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert {"train", "refine", "restore"} < set(commands.choices)
    return sorted(commands.choices)


def test_edge_export_helps_without_its_extra() -> None:
    done = python("import sys; sys.modules['torch'] = None; from export.cli import main; main(['--help'])")
    assert done.returncode == 0
    assert "example:" in done.stdout


@pytest.mark.parametrize("command", commands_of_edge_export())
def test_every_command_of_edge_export_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"edge-export {command} " in capsys.readouterr().out.partition("example:")[2]
