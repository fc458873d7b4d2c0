"""The student trains on what inference gives it, and teachers mix as they are told."""

from __future__ import annotations

import pytest
import torch

from fourstroke.distill.rollout import clean_prediction, rollout, trajectory, trajectory_loss
from fourstroke.distill.teachers import SpecialistConfig, Teacher, load_specialists, prompt_category, teacher_mix
from fourstroke.dit import condition
from fourstroke.flow.sampler import euler, guided, seeded_noise
from fourstroke.flow.schedule import UNSHIFTED, fixed_sigmas

from .conftest import small_pipeline

SIGMAS = fixed_sigmas([1.0, 0.8, 0.6, 0.3])
PROMPTS = ["a cat", "a green square to the left of a red circle"]


@pytest.mark.parametrize("causal", [True, False])
def test_rollout_gives_the_inputs_and_the_result_of_inference(causal):
    pipe = small_pipeline(causal)
    velocity = condition(pipe.transformer, pipe.text_encoder.encode(PROMPTS), (2, 2), repeats=2)
    noise, inputs = seeded_noise(range(4), 4, 64), []

    def recording(x, t):
        inputs.append(x)
        return velocity(x, t)

    with torch.no_grad():
        end = euler(recording, noise, SIGMAS)
        found = [rollout(velocity, noise, SIGMAS, k) for k in range(4)]
        last = clean_prediction(velocity, found[3], SIGMAS[3])
    assert all(torch.equal(a, b) for a, b in zip(found, inputs, strict=True))
    torch.testing.assert_close(last, end)
    with pytest.raises(ValueError, match="step 4 is not one of the 4"):
        rollout(velocity, noise, SIGMAS, 4)


def test_a_trajectory_is_euler_on_a_finer_grid():
    pipe = small_pipeline()
    velocity = condition(pipe.transformer, pipe.text_encoder.encode(PROMPTS), (2, 2), repeats=2)
    noise = seeded_noise(range(4), 4, 64)
    states = trajectory([velocity] * 4, noise, SIGMAS, substeps=2)
    fine = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3, 0.15, 0.0])
    assert states.shape == (4, 5, 4, 64)
    assert torch.equal(states[:, 0], noise)
    with torch.no_grad():
        torch.testing.assert_close(states[:, -1], euler(velocity, noise, fine))
        torch.testing.assert_close(states[:, 2], euler(velocity, noise, fine[:5], None))


def test_steps_that_follow_the_trajectory_have_no_loss():
    states = torch.randn(3, 5, 4, 8)
    target = (states[:, :-1] - states[:, 1:]) / (SIGMAS[:-1] - SIGMAS[1:]).view(4, 1, 1)

    def right(x, t):
        assert torch.equal(t, SIGMAS[:-1].repeat(3))
        assert torch.equal(x, states[:, :-1].flatten(0, 1))
        return target.flatten(0, 1)

    assert trajectory_loss(right, states, SIGMAS).item() == 0
    off = trajectory_loss(lambda x, t: right(x, t) + 0.5, states, SIGMAS)
    assert off.item() == pytest.approx(0.25, rel=1e-5)


def test_rollout_is_what_the_pipeline_does():
    pipe, seen = small_pipeline(), []
    pipe.schedule = UNSHIFTED
    pipe.info = pipe.info.__class__(name="s", width=32, height=32, sample_sigmas=(1.0, 0.8, 0.6, 0.3))
    pipe(PROMPTS[0], seed=5, on_step=lambda step, steps, x: seen.append(x))
    velocity = condition(pipe.transformer, pipe.text_encoder.encode(PROMPTS[:1]), (2, 2), repeats=1)
    with torch.no_grad():
        for k in range(4):
            x_k = rollout(velocity, seeded_noise([5], 4, 64), SIGMAS, k)
            torch.testing.assert_close(clean_prediction(velocity, x_k, SIGMAS[k]), seen[k])


def test_only_the_trained_step_has_a_gradient():
    pipe = small_pipeline()
    pipe.transformer.requires_grad_(True)
    velocity = condition(pipe.transformer, pipe.text_encoder.encode(PROMPTS), (2, 2), repeats=1)
    x_k = rollout(velocity, seeded_noise(range(2), 4, 64), SIGMAS, 2)
    assert not x_k.requires_grad
    clean_prediction(velocity, x_k, SIGMAS[2]).sum().backward()
    assert all(p.grad is not None for p in pipe.transformer.parameters())


def test_a_teacher_is_guided_and_frozen():
    pipe = small_pipeline()
    text, nothing = pipe.text_encoder.encode(PROMPTS), pipe.text_encoder.encode(["", ""])
    x, t = seeded_noise(range(4), 4, 64).requires_grad_(True), torch.full((4,), 0.7)
    velocity = Teacher(pipe, 3.0).velocity(PROMPTS, (2, 2), 2)
    pair = [condition(pipe.transformer, one, (2, 2), repeats=2) for one in (text, nothing)]
    torch.testing.assert_close(velocity(x, t), guided(*pair, 3.0)(x, t))
    velocity(x, t).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in pipe.transformer.parameters())


def test_teachers_mix_by_step_and_category(tmp_path):
    specialists = [
        SpecialistConfig(model=tmp_path, shares=(0.0, 0.0, 0.5, 1.0), categories=("Text",)),
        SpecialistConfig(model=tmp_path, shares=(0.0, 0.25, 0.25, 0.25), categories=("General",)),
    ]
    categories = [prompt_category('a sign that says "HELLO"'), prompt_category("a cat")]
    assert categories == ["Text", "General"]
    assert teacher_mix(specialists, 0, categories).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert teacher_mix(specialists, 2, categories).tolist() == [[0.5, 0.5, 0], [0.75, 0, 0.25]]
    assert teacher_mix(specialists, 3, categories).tolist() == [[0, 1, 0], [0.75, 0, 0.25]]
    assert teacher_mix([], 3, categories).tolist() == [[1], [1]]
    everyone = SpecialistConfig(model=tmp_path, shares=(0.0, 0.0, 0.6, 0.5))
    with pytest.raises(ValueError, match="'Text' at step 2 add up to"):
        teacher_mix([*specialists, everyone], 2, categories)
    with pytest.raises(ValueError, match="between 0 and 1"):
        SpecialistConfig(model=tmp_path, shares=(0.0, 1.5))


def test_specialists_that_do_not_fit_are_refused(teacher_folder, tmp_path):
    pipe = small_pipeline()
    with pytest.raises(ValueError, match="3 shares; the student has 4 steps"):
        load_specialists([SpecialistConfig(model=teacher_folder, shares=(0.0, 0.5, 1.0))], pipe, 4)
    pipe.autoencoder.set_statistics([0.5] * 64, [1.0] * 64)
    with pytest.raises(ValueError, match="another autoencoder"):
        load_specialists([SpecialistConfig(model=teacher_folder, shares=(0.0,) * 4)], pipe, 4)
