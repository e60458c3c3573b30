"""Rectified flow against closed forms."""

import math

import numpy as np
import pytest
import torch

import flow
from sample import SOLVERS, split_times
from speed.reference import guided_velocity


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 16, 4, 4, generator=generator), torch.randn(2, 16, 4, 4, generator=generator)


def linear(x, t, constant, slope):
    return (constant + slope * t).view(-1, 1, 1, 1).expand_as(x)


def test_interpolation_ends_at_data_and_noise(pair):
    data, noise = pair
    torch.testing.assert_close(flow.interpolate(data, noise, torch.zeros(2)), data)
    torch.testing.assert_close(flow.interpolate(data, noise, torch.ones(2)), noise)


def test_velocity_error_is_zero_for_the_derivative_of_the_interpolation(pair):
    data, noise = pair
    t, step = torch.tensor([0.3, 0.6]), 1e-3
    slope = (flow.interpolate(data, noise, t + step) - flow.interpolate(data, noise, t)) / step
    assert flow.velocity_error(slope, data, noise).max() < 1e-4


def test_every_solver_walks_a_straight_flow_exactly_to_the_data(pair):
    data, noise = pair
    for solve in (getattr(flow, name) for name in SOLVERS):
        for steps in (2, 7):
            arrived = solve(lambda x, t: noise - data, noise, flow.timesteps(steps))
            torch.testing.assert_close(arrived, data, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_order_of_convergence_on_uneven_times(name, order):
    """dx/dt = x cos(3t) from t = 1 to 0 has the solution x e^(-sin(3) / 3); the slope of the error is the order."""
    noise, counts = torch.ones(1, 1, 1, 1, dtype=torch.float64), [20, 40, 80]
    arrived = [getattr(flow, name)(lambda x, t: x * (3 * t).cos(), noise, flow.timesteps(n + 1)).item() for n in counts]
    errors = np.abs(np.array(arrived) - math.exp(-math.sin(3) / 3))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.15)


@pytest.mark.parametrize(("name", "euler_steps"), [("euler", 5), ("heun", 0), ("ab2", 1)])
def test_a_velocity_linear_in_time_is_exact_but_for_the_euler_steps(pair, name, euler_steps):
    """The integral of 1 + 2t from 1 to 0 is -2; an Euler step takes its start for its middle, and adds h^2 to that."""
    _, noise = pair
    times = flow.timesteps(6)
    arrived = getattr(flow, name)(lambda x, t: linear(x, t, 1, 2), noise, times)
    excess = times.diff()[:euler_steps].square().sum()
    torch.testing.assert_close(arrived, noise - 2 - excess, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [
        ("euler", [1.0, 0.9, 0.75, 0.5]),  # 3t / (1 + 2t) of 1, 3/4, 1/2, 1/4
        ("heun", [1.0, 0.9, 0.9, 0.75, 0.75, 0.5, 0.5, 0.0]),
        ("ab2", [1.0, 0.9, 0.75, 0.5]),
    ],
)
def test_when_a_solver_evaluates_the_velocity(pair, name, evaluations):
    seen = []
    getattr(flow, name)(lambda x, t: seen.append(t[0].item()) or x * 0, pair[1], flow.timesteps(5))
    assert seen == pytest.approx(evaluations)


@pytest.mark.parametrize(("name", "euler_steps"), [("heun", 0), ("ab2", 1)])
def test_a_jump_of_the_velocity_costs_no_accuracy_where_the_walk_is_split(pair, name, euler_steps):
    """5 + 2t above 0.4, then 2t - 1: the integrals are 3.84 and -0.24, exact but for Euler's steps on each side."""
    _, noise = pair
    solve, times = getattr(flow, name), flow.timesteps(9, through=0.4)
    early, late = split_times(times, 0.4)
    arrived = solve(lambda x, t: linear(x, t, 5, 2), noise, early)
    arrived = solve(lambda x, t: linear(x, t, -1, 2), arrived, late)
    excess = sum(half.diff()[:euler_steps].square().sum() for half in (early, late))
    torch.testing.assert_close(arrived, noise - 3.6 - excess, atol=1e-5, rtol=0)
    across = solve(lambda x, t: linear(x, t, 5 if t[0] > 0.4 else -1, 2), noise, times)
    assert (across - arrived).abs().min() > 0.1  # what the split is for


def test_euler_split_at_the_jump_is_euler_with_the_published_interval(pair):
    cond, uncond = pair
    times = flow.timesteps(50)
    early, late = split_times(times, 0.4)

    def conditional(x, t):
        return cond * x

    def both(x, t):
        return cond * x, uncond * x

    published = flow.euler(guided_velocity(conditional, both, 2.0, (0.4, 1.0)), cond, times)
    halves = flow.euler(conditional, flow.euler(lambda x, t: flow.guide(*both(x, t), 2.0), cond, early), late)
    assert torch.equal(published, halves)


def test_times_through_a_given_time():
    plain, through = flow.timesteps(13), flow.timesteps(13, through=0.4)
    assert (through[:-1] > through[1:]).all()
    moved = (plain != through).nonzero().flatten()
    assert through[moved].tolist() == pytest.approx([0.4]) and (plain[moved] - 0.4).abs() == (plain - 0.4).abs().min()
    assert flow.timesteps(3, through=0.4).tolist() == pytest.approx([1, 0.4, 0])
    assert flow.timesteps(2, through=0.4).tolist() == [1, 0]  # the ends stay


@pytest.mark.parametrize("at", [0.4, 0.5, 1.0, 2.0, 0.0])
def test_the_halves_of_the_times_meet(at):
    times = flow.timesteps(5)  # 1, 0.9, 0.75, 0.5, 0
    early, late = split_times(times, at)
    assert (early[:-1] > at).all() and (late <= at).all()
    assert torch.equal(torch.cat([early[:-1], late]), times)
    assert early[-1] == late[0]


def test_time_shift():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(flow.shift_time(t, 1.0), t)
    assert flow.shift_time(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)
    assert flow.training_time(torch.zeros(1)).item() == 0.5


def test_guidance(pair):
    cond, uncond = pair
    torch.testing.assert_close(flow.guide(cond, uncond, 1.0), cond)
    guided = flow.guide(cond, uncond, 4.0)
    lengths = guided.flatten(1).norm(dim=1), cond.flatten(1).norm(dim=1)
    assert (lengths[0] <= lengths[1] * (1 + 1e-5)).all()
    plain = uncond + 4.0 * (cond - uncond)
    guided = flow.guide(cond, uncond, 4.0)
    cosine = torch.nn.functional.cosine_similarity(plain.flatten(1), guided.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2))  # shortened, not turned
    # A guided velocity that is shorter than the conditional one is left alone.
    torch.testing.assert_close(flow.guide(cond, 2 * cond, 1.5), 0.5 * cond)


def test_guidance_only_inside_its_interval(pair):
    cond, uncond = pair
    velocity = guided_velocity(lambda x, t: cond, lambda x, t: (cond, uncond), 3.0, (0.4, 1.0))
    for time, guided in ((1.0, True), (0.41, True), (0.4, False), (0.1, False)):
        v = velocity(cond, torch.full((2,), time))
        torch.testing.assert_close(v, flow.guide(cond, uncond, 3.0) if guided else cond)
