"""A run's folder is its own: nobody's files are replaced, one run at a time writes, and a resume fits."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fourstroke.parallel.checkpoint import load_values
from fourstroke.recipe import RecipeError, resolved
from fourstroke.train.loop import Trainer
from fourstroke.train.session import check_folder
from fourstroke.train.vae import VaeStage, train_vae

SECONDS = 120


def _command(recipe, folder: Path, *options: str) -> list[str]:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(resolved(recipe)["recipe"]))
    return [sys.executable, "-m", "fourstroke.cli", "train", "vae", "--recipe", str(file), *options]


def _wait(condition, process) -> None:
    end = time.monotonic() + SECONDS
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def _endless(recipe):
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, steps=10**8, save_minutes=0.0))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "files", [["recipe.json", "log.jsonl", "model/weights.bin"], ["notes.txt"], ["state/state.json"]]
)
@pytest.mark.parametrize("resume", [False, True])
def test_somebodys_folder_is_refused_and_stays(vae_recipe, files, resume):
    out = vae_recipe.run.out
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text('{"mine": 1}')
    before = _contents(out)
    with pytest.raises(RecipeError, match="holds no run"):
        train_vae(vae_recipe, resume)
    assert _contents(out) == before


def test_a_state_whose_replacement_was_killed_is_resumed(vae_recipe):
    out = vae_recipe.run.out
    train_vae(dataclasses.replace(vae_recipe, run=dataclasses.replace(vae_recipe.run, steps=3)))
    (out / "state").rename(out / ".state.partial-abcd.old")  # and dies before the new one has its name
    with pytest.raises(RecipeError, match="already holds a run"):
        train_vae(vae_recipe)
    check_folder(out, resume=True)
    train_vae(vae_recipe, resume=True)
    assert load_values(out / "state")["step"] == 6
    assert not list(out.glob(".*partial*"))


def test_a_file_is_no_folder(vae_recipe):
    vae_recipe.run.out.write_text("mine")
    with pytest.raises(RecipeError, match="is a file"):
        train_vae(vae_recipe)
    assert vae_recipe.run.out.read_text() == "mine"


def test_an_empty_folder_and_a_run_that_never_saved_are_taken(vae_recipe):
    vae_recipe.run.out.mkdir()
    stage = VaeStage(vae_recipe)
    stage.loss = lambda step: (_ for _ in ()).throw(ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        Trainer(stage, vae_recipe.run, vae_recipe.optimizer, {}).run()
    assert train_vae(vae_recipe).is_dir()


def test_a_finished_model_whose_state_was_removed_is_not_replaced(vae_recipe):
    folder = train_vae(vae_recipe)
    (vae_recipe.run.out / "state" / "state.json").unlink()
    before = _contents(folder)
    with pytest.raises(RecipeError, match="finished model"):
        train_vae(vae_recipe)
    assert _contents(folder) == before


@pytest.mark.slow
def test_a_second_run_is_refused_until_the_first_is_killed(vae_recipe, tmp_path):
    out = vae_recipe.run.out
    recipe = _endless(vae_recipe)
    with subprocess.Popen(_command(recipe, tmp_path), stdout=subprocess.DEVNULL) as first:
        try:
            _wait((out / "state" / "state.json").exists, first)
            assert first.poll() is None
            second = subprocess.run(
                _command(recipe, tmp_path, "--resume"), capture_output=True, text=True, timeout=SECONDS
            )
        finally:
            first.kill()
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"process {first.pid}" in second.stderr
    assert train_vae(vae_recipe, resume=True).is_dir()  # the dead one is no hindrance


def test_two_runs_of_one_process_do_not_share_a_folder(vae_recipe):
    stage = VaeStage(vae_recipe)
    loss = stage.loss

    def meanwhile(step):
        with pytest.raises(RecipeError, match="another run"):
            train_vae(vae_recipe)
        return loss(step)

    stage.loss = meanwhile
    assert Trainer(stage, vae_recipe.run, vae_recipe.optimizer, resolved(vae_recipe)).run().is_dir()


@pytest.mark.parametrize("existing", [False, True])
def test_a_resume_of_nothing_is_refused(vae_recipe, existing):
    if existing:
        vae_recipe.run.out.mkdir()
    with pytest.raises(RecipeError, match="nothing to resume"):
        train_vae(vae_recipe, resume=True)
    assert not (vae_recipe.run.out / "recipe.json").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"base_dim": 6, "z_dim": 32}}, ["model.base_dim 4 -> 6", "model.z_dim 64 -> 32"]),
        ({"optimizer": {"kind": "adamw"}}, ["optimizer.kind 'muon' -> 'adamw'"]),
    ],
)
def test_a_resume_with_other_sizes_or_optimisers_names_the_keys(vae_recipe, change, named):
    train_vae(vae_recipe)
    before = _contents(vae_recipe.run.out)
    other = dataclasses.replace(
        vae_recipe, **{key: dataclasses.replace(getattr(vae_recipe, key), **value) for key, value in change.items()}
    )
    with pytest.raises(RecipeError) as error:
        train_vae(other, resume=True)
    assert all(name in str(error.value) for name in named)
    assert len(str(error.value)) < 400
    assert _contents(vae_recipe.run.out).keys() == before.keys()
    assert (vae_recipe.run.out / "recipe.json").read_bytes() == before["recipe.json"]


def test_a_resume_takes_the_recipes_own_numbers_and_tells_them(vae_recipe, capsys):
    optimizer = dataclasses.replace(vae_recipe.optimizer, kind="adamw")
    recipe = dataclasses.replace(vae_recipe, optimizer=optimizer)
    train_vae(recipe)
    changed = dataclasses.replace(recipe, optimizer=dataclasses.replace(optimizer, betas=(0.5, 0.6), weight_decay=0.5))
    run = dataclasses.replace(recipe.run, steps=7)
    trainer = Trainer(VaeStage(changed), run, changed.optimizer, resolved(changed))
    trainer.run(resume=True)
    groups = [group for each in trainer.optimizer_groups[""].optimizers.values() for group in each.param_groups]
    assert {(group["betas"], group["weight_decay"]) for group in groups} == {((0.5, 0.6), 0.5)}
    assert "changed: optimizer.betas [0.9, 0.99] -> [0.5, 0.6]" in capsys.readouterr().out


def test_a_closed_pipe_does_not_end_training(vae_recipe, tmp_path):
    command = " ".join(_command(vae_recipe, tmp_path))
    shell = f"set -o pipefail; {command} 2>&1 | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done
    assert len(done.stdout.splitlines()) == 1
    assert load_values(vae_recipe.run.out / "state")["step"] == vae_recipe.run.steps
    assert (vae_recipe.run.out / "model" / "config.json").exists()


@pytest.mark.slow
def test_streams_that_were_never_open_do_not_end_training(vae_recipe, tmp_path):
    shell = " ".join(_command(vae_recipe, tmp_path)) + " >&- 2>&-"
    assert subprocess.run(["bash", "-c", shell], timeout=SECONDS).returncode == 0
    assert (vae_recipe.run.out / "model" / "config.json").exists()


@pytest.mark.slow
def test_a_terminal_that_closes_does_not_end_training(vae_recipe, tmp_path):
    out = vae_recipe.run.out
    with subprocess.Popen(_command(_endless(vae_recipe), tmp_path), stdout=subprocess.DEVNULL) as process:
        _wait((out / "state" / "state.json").exists, process)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130


def test_a_run_that_is_told_to_end_saves_first(vae_recipe, tmp_path):
    """SIGTERM, by which schedulers and containers end a process, is as good as Ctrl-C."""
    recipe = dataclasses.replace(
        _endless(vae_recipe), run=dataclasses.replace(_endless(vae_recipe).run, save_minutes=60)
    )
    log, state = recipe.run.out / "log.jsonl", recipe.run.out / "state" / "state.json"
    with subprocess.Popen(_command(recipe, tmp_path), stdout=subprocess.PIPE, text=True) as process:
        _wait(lambda: log.exists() and log.stat().st_size > 0, process)
        assert not state.exists()
        with pytest.raises(RecipeError, match=f"another run .process {process.pid}. writes"):
            check_folder(recipe.run.out, resume=True)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "continue with --resume" in said
    assert state.exists()


def test_a_full_disk_ends_a_run_in_one_line_and_the_last_state_stays(vae_recipe, tmp_path):
    """A limit of the size of files stands in for the disk."""
    train_vae(vae_recipe)
    state = (vae_recipe.run.out / "state" / "state.json").read_bytes()
    more = dataclasses.replace(vae_recipe, run=dataclasses.replace(vae_recipe.run, steps=8))
    command = _command(more, tmp_path, "--resume")[1:]
    program = tmp_path / "program.py"
    program.write_text(
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n"
        "from fourstroke.cli import main\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), *command[2:]], capture_output=True, text=True, timeout=SECONDS, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "state: File too large" in done.stderr
    assert (vae_recipe.run.out / "state" / "state.json").read_bytes() == state
    assert not list(vae_recipe.run.out.rglob("*.partial-*"))


def test_what_a_killed_run_left_unfinished_is_cleared(vae_recipe):
    train_vae(vae_recipe)
    left = vae_recipe.run.out / ".state.partial-abc"
    left.mkdir()
    (left / "state.json").write_bytes(b"x")
    train_vae(vae_recipe, resume=True)
    assert not left.exists()


def test_a_log_row_is_whole_or_absent(tmp_path):
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from fourstroke.train.log import Log\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "path = Path(sys.argv[1])\n"
        "log = Log(path.parent, 0.0)\n"
        "log.scores(1, 1.0, {'a': 1.0})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 9, resource.RLIM_INFINITY))\n"
        "try:\n    log.scores(2, 2.0, {'a': 1.0})\nexcept OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "log.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=SECONDS)
    assert f"cannot write {path}: File too large" in done.stdout
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1]
