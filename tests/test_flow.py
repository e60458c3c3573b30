"""Rectified flow against closed forms."""

import pytest
import torch

import flow


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 16, 4, 4, generator=generator), torch.randn(2, 16, 4, 4, generator=generator)


def test_interpolation_ends_at_data_and_noise(pair):
    data, noise = pair
    torch.testing.assert_close(flow.interpolate(data, noise, torch.zeros(2)), data)
    torch.testing.assert_close(flow.interpolate(data, noise, torch.ones(2)), noise)


def test_velocity_error_is_zero_for_the_derivative_of_the_interpolation(pair):
    data, noise = pair
    t, step = torch.tensor([0.3, 0.6]), 1e-3
    slope = (flow.interpolate(data, noise, t + step) - flow.interpolate(data, noise, t)) / step
    assert flow.velocity_error(slope, data, noise).max() < 1e-4


def test_euler_walks_a_straight_flow_exactly_to_the_data(pair):
    data, noise = pair
    for steps in (2, 7):
        arrived = flow.euler(lambda x, t: noise - data, noise, flow.timesteps(steps))
        torch.testing.assert_close(arrived, data, atol=1e-5, rtol=0)


def test_euler_is_of_first_order():
    """dx/dt = x from t = 1 to 0 has the solution x / e; halving the step halves the error."""
    noise = torch.ones(1, 1, 1, 1)
    errors = [
        abs(flow.euler(lambda x, t: x, noise, flow.timesteps(n + 1, shift=1.0)).item() - torch.e**-1) for n in (64, 128)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)


def test_the_solver_meets_each_time_once(pair):
    seen = []
    flow.euler(lambda x, t: seen.append(t[0].item()) or x * 0, pair[1], flow.timesteps(5))
    assert seen == pytest.approx([1.0, 0.9, 0.75, 0.5])  # 3t / (1 + 2t) of 1, 3/4, 1/2, 1/4


def test_time_shift():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(flow.shift_time(t, 1.0), t)
    assert flow.shift_time(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)
    assert flow.training_time(torch.zeros(1)).item() == 0.5


def test_guidance(pair):
    cond, uncond = pair
    torch.testing.assert_close(flow.guide(cond, uncond, 1.0), cond)
    for renorm, axes in (("global", (1, 2, 3)), ("channel", (1,))):
        guided = flow.guide(cond, uncond, 4.0, renorm)
        lengths = torch.linalg.vector_norm(guided, dim=axes), torch.linalg.vector_norm(cond, dim=axes)
        assert (lengths[0] <= lengths[1] * (1 + 1e-5)).all()
    plain = uncond + 4.0 * (cond - uncond)
    guided = flow.guide(cond, uncond, 4.0)
    cosine = torch.nn.functional.cosine_similarity(plain.flatten(1), guided.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2))  # shortened, not turned
    # A guided velocity that is shorter than the conditional one is left alone.
    torch.testing.assert_close(flow.guide(cond, 2 * cond, 1.5), 0.5 * cond)


def test_guidance_only_inside_its_interval(pair):
    cond, uncond = pair
    velocity = flow.guided_velocity(lambda x, t: cond, lambda x, t: (cond, uncond), 3.0, (0.4, 1.0))
    for time, guided in ((1.0, True), (0.41, True), (0.4, False), (0.1, False)):
        v = velocity(cond, torch.full((2,), time))
        torch.testing.assert_close(v, flow.guide(cond, uncond, 3.0) if guided else cond)


def test_repa_loss_is_the_negative_cosine():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert flow.repa_loss(x, 3 * x).item() == pytest.approx(-1)
    assert flow.repa_loss(x, -x).item() == pytest.approx(1)
    assert flow.repa_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])).item() == pytest.approx(
        -(0.5**0.5)
    )
