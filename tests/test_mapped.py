"""Mapped weights: the values of the file, and pages that come and go."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fourstroke import mapped
from fourstroke.checkpoint import CheckpointError, map_tensors

TENSORS = {
    "a": torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)),
    "b": torch.arange(5, dtype=torch.int64),
    "c": torch.tensor(3.5, dtype=torch.bfloat16),
    "d": torch.randn(64, 3, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn),
    "e": torch.zeros(0, 4),
}


def _resident(file: Path) -> int:
    """KiB of a file's pages that this process has mapped."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("this system does not tell")
    found = re.findall(rf"{re.escape(str(file))}\n(?:\w+:.*\n)*?Rss:\s+(\d+) kB", maps.read_text())
    return sum(map(int, found))


def _cached(file: Path, place: int) -> bool:
    """Whether a byte of a file can be had without the disk; asking reads nothing, as a read that may not wait would."""
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapping:
        pages = (ctypes.c_ubyte * (len(mapping) // mmap.PAGESIZE + 1))()
        view = ctypes.c_char.from_buffer(mapping)
        failed = ctypes.CDLL(None).mincore(
            ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(mapping)), pages
        )
        del view  # or the mapping cannot be closed
    assert not failed
    return bool(pages[place // mmap.PAGESIZE] & 1)


def test_mapped_tensors_are_those_of_the_file(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = mapped.map_file(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key].float(), tensor.float()), key


def test_numbers_that_lie_askew_are_read_too(tmp_path):
    header = json.dumps(
        {
            "x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "y": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        }
    ).encode()
    values = torch.tensor([1.5, -2.0])
    data = len(header).to_bytes(8, "little") + header + b"\1\2\3" + values.numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(data)
    assert torch.equal(mapped.map_file(tmp_path / "x.safetensors")["y"], values)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops pages of its file cache when asked")
def test_what_is_evicted_is_read_again(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file)
    os.sync()  # what is not yet on the disk is not dropped
    weight = mapped.map_file(file)["a"]
    assert torch.equal(weight, TENSORS["a"])
    assert _cached(file, 2**21)
    mapped.evict(weight)
    assert _resident(file) < 1024
    kind = subprocess.run(["stat", "-f", "-c", "%T", file], capture_output=True, text=True, check=True).stdout.strip()
    assert not _cached(file, 2**21) or kind in ("tmpfs", "overlayfs")  # which keep files nowhere else, or hide where
    assert torch.equal(weight, TENSORS["a"])


def test_pages_are_read_when_used_and_given_back(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file)
    weight = mapped.map_file(file)["a"]
    assert _resident(file) < 1024
    assert torch.equal(weight, TENSORS["a"])
    assert _resident(file) > 3800
    mapped.release(weight)
    assert _resident(file) < 1024
    mapped.prefetch(weight)
    assert torch.equal(weight, TENSORS["a"])


def test_other_memory_is_never_given_back():
    tensor = torch.ones(1024, 1024)
    mapped.release(tensor)
    assert tensor.min() == 1


def test_what_is_written_stays_out_of_the_file(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file)
    mapped.map_file(file)["a"].zero_()
    assert torch.equal(mapped.map_file(file)["a"], TENSORS["a"])


def test_a_type_that_is_not_known_is_named(tmp_path):
    header = json.dumps({"x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(CheckpointError, match=str(file)):
        map_tensors(tmp_path, "model.safetensors")
