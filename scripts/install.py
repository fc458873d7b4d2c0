"""Make `.venv` and install fourstroke into it, once for each change of pyproject.toml. Standard library only.

A machine without an NVIDIA GPU gets PyTorch's CPU build: pip is asked first what it would install, and where that
would bring CUDA packages along, uv is told to take the CPU build instead.

    python3 scripts/install.py            the package alone: enough to draw
    python3 scripts/install.py test       with the extras of the test suite
    python3 scripts/install.py all        with every extra
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TORCH = "torch>=2.11,<2.14"


def main(extra: str = "") -> None:
    """Bring `.venv` up to date with the package and one extra (or `all`)."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        sys.exit(f"fourstroke needs Python 3.11 or 3.12, this is {sys.version.split()[0]}; try make PYTHON=python3.12")
    import tomllib  # newer than the Pythons that are turned away above

    project = (ROOT / "pyproject.toml").read_bytes()
    extras = tomllib.loads(project.decode())["project"]["optional-dependencies"]
    if extra not in ("", "all", *extras):
        sys.exit(f"no extra named {extra!r}; there are: all, {', '.join(extras)}")
    mark = VENV / f".installed-{extra or 'base'}"
    stamp = hashlib.sha256(project).hexdigest()
    if mark.exists() and mark.read_text() == stamp:
        return
    if not has_pip():
        print("creating .venv", flush=True)
        try:
            venv.create(VENV, with_pip=True, clear=True)
        except subprocess.CalledProcessError:
            sys.exit("cannot make .venv; on Debian and Ubuntu: sudo apt-get install python3-venv")
    install_torch()
    names = ",".join(extras) if extra == "all" else extra
    print(f"installing fourstroke{f' [{names}]' if names else ''} (some minutes)", flush=True)
    pip("install", "--quiet", "--editable", f"{ROOT}[{names}]" if names else str(ROOT))
    mark.write_text(stamp)


def has_pip() -> bool:
    """Whether `.venv` is there and whole; one that was interrupted while it was made is not."""
    return PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0


def install_torch() -> None:
    """Install torch, without CUDA packages where there is no NVIDIA GPU."""
    if subprocess.run([PYTHON, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0:
        return
    print("installing PyTorch (about 200 MB on a machine without a GPU; some minutes)", flush=True)
    if shutil.which("nvidia-smi") is None and brings_cuda():
        pip("install", "--quiet", "uv")
        command = [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--torch-backend=cpu", TORCH]
        if subprocess.run(command).returncode:
            sys.exit("uv could not install PyTorch; the lines above say why")
    else:
        pip("install", "--quiet", TORCH)


def brings_cuda() -> bool:
    """Whether pip's choice of torch would come with CUDA packages."""
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", TORCH]
    found = subprocess.run(command, stdout=subprocess.PIPE)
    if found.returncode:
        sys.exit("pip finds no PyTorch; the lines above say why")
    names = [package["metadata"]["name"].lower() for package in json.loads(found.stdout)["install"]]
    return any(name.startswith(("nvidia", "cuda")) for name in names)


def pip(*arguments: str) -> None:
    """Run the environment's pip."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode:
        sys.exit(f"pip {' '.join(arguments)} failed; the lines above say why")


if __name__ == "__main__":
    main(*sys.argv[1:2])
