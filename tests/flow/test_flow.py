"""The path is invertible, the schedule is the reference's, the sampler is exact where the flow is straight."""

import json

import pytest
import torch

from fourstroke.checkpoint import CheckpointError
from fourstroke.flow import path, sampler, schedule


def test_path_and_velocity_recover_the_picture():
    x_0, noise = torch.randn(2, 5, 3, 8).double()
    t = torch.rand(5).double()
    x_t, v = path.interpolate(x_0, noise, t), path.velocity(x_0, noise)
    torch.testing.assert_close(path.predict_x0(x_t, v, t), x_0)


def test_velocity_is_the_derivative_of_the_path():
    x_0, noise = torch.randn(2, 4, 3, 8).double()
    t, h = torch.full((4,), 0.3).double(), 1e-6
    slope = (path.interpolate(x_0, noise, t + h) - path.interpolate(x_0, noise, t - h)) / (2 * h)
    torch.testing.assert_close(slope, path.velocity(x_0, noise), rtol=1e-6, atol=1e-6)


def test_times_are_stratified():
    t = path.sample_times(4096, generator=torch.Generator().manual_seed(0))
    assert t.min() > 0
    assert t.max() < 1
    assert abs(t.median() - 0.5) < 1e-3
    quartile = torch.sigmoid(torch.tensor(-0.6745))
    assert abs((t < quartile).float().mean() - 0.25) < 1e-3


@pytest.mark.parametrize(("steps", "tokens"), [(1, 36), (4, 256), (40, 4096), (8, 16384)])
def test_schedule_equals_the_reference(steps, tokens):
    diffusers = pytest.importorskip("diffusers")
    config = schedule.ScheduleConfig()
    reference = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        base_shift=0.5,
        max_shift=0.9,
        shift_terminal=0.02 if steps > 1 else None,
    )
    reference.set_timesteps(
        sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=schedule.shift_strength(tokens, config)
    )
    torch.testing.assert_close(schedule.sigmas(steps, tokens, config), reference.sigmas, atol=1e-6, rtol=0)


@pytest.mark.parametrize("tokens", [36, 4096])
@pytest.mark.parametrize("levels", [[1.0], [1.0, 0.83, 0.62, 0.35], [0.9, 0.1]])
@pytest.mark.parametrize(
    "config",
    [
        schedule.UNSHIFTED,
        schedule.ScheduleConfig(),
        schedule.ScheduleConfig(shift_terminal=None),
        schedule.ScheduleConfig(use_dynamic_shifting=False, shift=3.0),
    ],
)
def test_own_levels_pass_the_schedule_as_in_the_reference(config, levels, tokens, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    if levels == [1.0] and config.shift_terminal:
        return  # the reference divides by zero
    config.save_pretrained(tmp_path)
    reference = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    reference.set_timesteps(sigmas=levels, mu=schedule.shift_strength(tokens, config))
    found = schedule.fixed_sigmas(levels, tokens, config)
    torch.testing.assert_close(found, reference.sigmas, atol=0 if config == schedule.UNSHIFTED else 1e-6, rtol=0)


@pytest.mark.parametrize("tokens", [256, 4096])
@pytest.mark.parametrize(
    "keys",
    [
        {},  # what a file leaves out has diffusers' defaults
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "max_image_seq_len": 8192, "shift_terminal": 0.02},
        {"use_dynamic_shifting": True, "time_shift_type": "exponential", "base_shift": 0.3, "max_shift": 1.0},
        {"shift": 3.0, "shift_terminal": 0.1, "invert_sigmas": False, "use_karras_sigmas": False},
        {"shift": 3, "_diffusers_version": "0.42.1", "num_train_timesteps": 1000},
    ],
)
def test_files_mean_what_they_mean_to_diffusers(tmp_path, keys, tokens):
    diffusers = pytest.importorskip("diffusers")
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", **keys}))
    reference = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    own, theirs = schedule.ScheduleConfig.from_pretrained(tmp_path), reference.config
    slope = (theirs.max_shift - theirs.base_shift) / (theirs.max_image_seq_len - theirs.base_image_seq_len)
    mu = theirs.base_shift + slope * (tokens - theirs.base_image_seq_len)
    reference.set_timesteps(sigmas=torch.linspace(1, 1 / 8, 8).tolist(), mu=mu)
    torch.testing.assert_close(schedule.sigmas(8, tokens, own), reference.sigmas, atol=1e-6, rtol=0)
    own.save_pretrained(tmp_path)
    assert schedule.ScheduleConfig.from_pretrained(tmp_path) == own


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("invert_sigmas", True),
        ("stochastic_sampling", True),
        ("time_shift_type", "cubic"),
        ("num_train_timesteps", 500),
        ("_class_name", "FlowMatchHeunDiscreteScheduler"),
        ("use_flow_sigmas", True),
        ("shift", "1.0"),
        ("shift", 0),
        ("shift_terminal", 1.0),
        ("base_shift", None),
        ("max_image_seq_len", 256),
        ("use_dynamic_shifting", "true"),
    ],
)
def test_other_grids_are_refused_by_name(tmp_path, key, value):
    schedule.ScheduleConfig().save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=rf"scheduler_config\.json: .*{key}"):
        schedule.ScheduleConfig.from_pretrained(tmp_path)


def test_a_linear_shift_must_be_positive():
    config = schedule.ScheduleConfig(time_shift_type="linear", base_shift=-0.5)
    with pytest.raises(ValueError, match=r"256 tokens is -0\.5; it should be above 0"):
        schedule.sigmas(4, 256, config)


def test_schedule_round_trips_through_its_file(tmp_path):
    config = schedule.ScheduleConfig(base_shift=0.4, shift_terminal=None)
    config.save_pretrained(tmp_path)
    assert schedule.ScheduleConfig.from_pretrained(tmp_path) == config


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_is_refused(steps):
    with pytest.raises(ValueError, match="at least 1"):
        schedule.sigmas(steps, 36, schedule.ScheduleConfig())


@pytest.mark.parametrize("levels", [[], [1.2, 0.5], [0.5, 0.5], [1.0, 0.0]])
def test_fixed_sigmas_must_fall(levels):
    with pytest.raises(ValueError, match="fall strictly"):
        schedule.fixed_sigmas(levels)


def test_euler_is_exact_on_a_straight_flow():
    x_0, noise = torch.randn(2, 2, 4, 8)
    seen = []
    out = sampler.euler(
        lambda x, t: noise - x_0,
        noise,
        schedule.fixed_sigmas([1.0, 0.7, 0.2]),
        lambda step, steps, x: seen.append((step, steps, x)),
    )
    torch.testing.assert_close(out, x_0, atol=1e-5, rtol=0)
    assert [s[:2] for s in seen] == [(1, 3), (2, 3), (3, 3)]
    torch.testing.assert_close(seen[1][2], x_0, atol=1e-5, rtol=0)


def test_a_step_takes_every_row_along_its_own_stretch():
    x, v = torch.randn(2, 3, 4, 8)
    t, t_next = torch.tensor([1.0, 0.8, 0.4]), torch.tensor([0.7, 0.8, 0.0])
    together = sampler.step(x, v, t, t_next)
    for row in range(3):
        alone = sampler.step(x[row : row + 1], v[row : row + 1], t[row], t_next[row])
        torch.testing.assert_close(together[row : row + 1], alone)
    assert torch.equal(together[1], x[1])
    torch.testing.assert_close(together[2], path.predict_x0(x[2:], v[2:], t[2:])[0])  # the last step ends at x_0


def test_a_step_keeps_the_type_of_the_latents():
    assert sampler.step(torch.ones(1, 2, 2), torch.ones(1, 2, 2).bfloat16(), torch.ones(1), torch.zeros(1)).dtype == (
        torch.float32
    )


def test_non_finite_latents_name_the_stage():
    with pytest.raises(sampler.NonFiniteError, match="denoising"):
        sampler.euler(lambda x, t: x * float("nan"), torch.ones(1, 2, 2), torch.tensor([1.0, 0.0]))


def test_guidance():
    a, b = torch.randn(2, 1, 2, 4)
    v = sampler.guided(lambda x, t: a, lambda x, t: b, 3.0)(a, torch.ones(1))
    torch.testing.assert_close(v, b + 3 * (a - b))
    assert sampler.guided(f := (lambda x, t: a), lambda x, t: b, 1.0) is f


def test_guidance_of_half_precision_is_mixed_in_float32():
    a, b = torch.randn(2, 1, 64, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    v = sampler.guided(lambda x, t: a, lambda x, t: b, 4.0)(a, torch.ones(1))
    assert torch.equal(v, b.float() + 4 * (a.float() - b.float()))


def test_noise_belongs_to_its_seed_alone():
    together, alone = sampler.seeded_noise([3, 4, 5], 6, 8), sampler.seeded_noise([4], 6, 8)
    assert torch.equal(together[1:2], alone)
