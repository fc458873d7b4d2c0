"""Files and folders are written whole or not at all, and nobody's own are replaced."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fourstroke import files
from fourstroke.checkpoint import save_weights
from fourstroke.pictures import write_pictures
from fourstroke.pipeline import Output
from fourstroke.vae import Autoencoder

from .conftest import build_tiny_pipeline

LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from PIL import Image
import torch
from fourstroke import files, pictures, pipeline, checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
out = Path(sys.argv[1])
noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
plain = Image.new("RGB", (8, 8))
output = pipeline.Output([plain, noise], ["a", "b"], [1, 2])
for write in (
    lambda: list(pictures.write_pictures(output, out / "pictures", "tiny")),
    lambda: files.write_json(out / "large.json", ["x" * 9000]),
    lambda: checkpoint.save_weights(torch.nn.Linear(90, 90), out / "layer", {}),
    lambda: files.save_image(noise, out / "sheet.png"),
):
    try:
        write()
        print("written")
    except OSError as error:
        print(error)
"""
"""A limit of the size of files stands in for a full disk."""


def test_on_a_full_disk_files_are_whole_or_absent_and_named(tmp_path):
    (tmp_path / "sheet.png").write_bytes(b"earlier")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    names = ["pictures/b-2.png", "large.json", "layer", "sheet.png"]
    assert done.stdout.splitlines() == [f"cannot write {tmp_path / name}: File too large" for name in names]
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["pictures/a-1.png", "sheet.png"]
    assert (tmp_path / "sheet.png").read_bytes() == b"earlier"
    Image.open(tmp_path / "pictures" / "a-1.png").load()


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "a.json").write_text("1")

    def interrupted():
        with files.atomic_file(tmp_path / "a.json") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "1"


KILLED = """
import os, sys
from pathlib import Path
from fourstroke import files
rename = Path.rename
def once(self, target):
    Path.rename = lambda *_: os._exit(9)
    return rename(self, target)
Path.rename = once
with files.atomic_folder(sys.argv[1]) as partial:
    (partial / "a").write_text("new")
"""
"""The process dies between the two renames of a replacement."""


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path):
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / "state" / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run" / "state")], check=False)
    assert done.returncode == 9
    assert not (tmp_path / "run" / "state").exists()
    files.clear_partials(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["state"]
    assert (tmp_path / "run" / "state" / "a").read_text() == "old"


def test_links_and_devices_are_written_through(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "own" / "target.txt")
    files.write_text(tmp_path / "link.txt", "x")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "own" / "target.txt").read_text() == "x"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"), files.atomic_file(tmp_path / "a.txt"):
        (tmp_path / "missing.txt").read_text()


def test_a_folder_over_a_link_or_a_file(tmp_path):
    save_weights(nn.Linear(2, 2), tmp_path / "real", {"a": 1})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_weights(nn.Linear(2, 2), tmp_path / "link", {"a": 2})
    assert '"a": 2' in (tmp_path / "real" / "config.json").read_text()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(files.FolderError, match="is a file"):
        save_weights(nn.Linear(2, 2), tmp_path / "file", {})
    assert (tmp_path / "file").read_text() == "mine"


def _savers():
    pipe = build_tiny_pipeline()
    return {
        "pipeline": pipe.save_pretrained,
        "autoencoder": pipe.autoencoder.save_pretrained,
        "transformer": pipe.transformer.save_pretrained,
        "text_encoder": lambda folder: pipe.text_encoder.save_pretrained(folder, f"{folder}-processor"),
        "processor": lambda folder: pipe.text_encoder.save_pretrained(f"{folder}-encoder", folder),
    }


@pytest.mark.parametrize("name", ["pipeline", "autoencoder", "transformer", "text_encoder", "processor"])
def test_a_save_replaces_an_earlier_save_and_nothing_else(tmp_path, name):
    save, folder = _savers()[name], tmp_path / "model"
    folder.mkdir()
    save(folder)
    save(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "own.txt").write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(files.FolderError, match=r"notes/own\.txt"):
        save(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before
    other = tmp_path / "other"
    other.mkdir()
    for own in ("config.json", "model_index.json", "processor_config.json"):
        (other / own).write_text('{"mine": 1}')
    with pytest.raises(files.FolderError, match="no earlier save"):
        save(other)
    assert all(p.read_text() == '{"mine": 1}' for p in other.iterdir())


def test_home_is_expanded_where_things_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    list(write_pictures(Output([Image.new("RGB", (8, 8))], ["a"], [1]), Path("~/pictures"), "tiny"))
    model = Autoencoder(build_tiny_pipeline().autoencoder.config)
    model.save_pretrained("~/vae")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", "vae"]
    with pytest.raises(ValueError, match="is empty"):
        files.user_path(" ")
    with pytest.raises(ValueError, match="not here"):
        files.user_path("~nobody-of-this-name/x")


def test_torch_saves_name_the_path(tmp_path):
    """Torch's own error says nothing of the disk."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(files.WriteError, match=r"model: No space left"),
        files.atomic_folder(tmp_path / "model") as partial,
        (partial / "x").open("wb") as file,
    ):
        torch.save({"a": torch.zeros(3)}, type("Full", (), {"write": full, "flush": file.flush})())
