"""What an edit does to a velocity and to the times."""

import pytest
import torch

import flow
import sample


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 16, 4, 4, generator=generator), torch.randn(2, 16, 4, 4, generator=generator)


def test_a_held_walk_is_on_the_known_line_outside_the_mask_at_every_step(pair):
    """And, by Euler, it is what RePaint does: walk, then put the known latents, noised to the step's time, back in."""
    data, noise = pair
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 1:3, :2] = 1
    times = sample.times_from(flow.timesteps(9), 0.7)

    def velocity(x, t):
        return (3 * x + t.view(-1, 1, 1, 1)).sin()

    def line(t):
        return flow.interpolate(data, noise, flow.fill(t, data))

    for solve in (getattr(flow, name) for name in sample.SOLVERS):
        seen = []
        held = sample.hold(velocity, data, noise, mask)

        def watched(x, t, held=held, seen=seen):
            seen.append((x, t[0].item()))
            return held(x, t)

        seen.append((solve(watched, line(0.7), times), 0.0))
        for x, t in seen:
            torch.testing.assert_close(x * (1 - mask), line(t) * (1 - mask), atol=1e-5, rtol=0)
        assert ((seen[-1][0] - data).abs() * mask).max() > 0.1
    x = line(0.7)
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x = x + (t_next - t) * velocity(x, flow.fill(t, x))
        x = mask * x + (1 - mask) * line(t_next)
    torch.testing.assert_close(flow.euler(held, line(0.7), times), x, atol=1e-5, rtol=0)


def test_a_walk_from_a_time_visits_it_and_what_lies_below():
    times = flow.timesteps(9)
    part = sample.times_from(times, 0.7)
    assert part[0] == torch.tensor(0.7) and (part[1:] < 0.7).all() and part[-1] == 0
    assert set(part[1:].tolist()) <= set(times.tolist())
    assert torch.equal(sample.times_from(times, 1.0), times)


def test_a_mixture_of_velocities_ends_at_either_and_a_watched_one_shows_the_data(pair):
    a, b = pair
    ends = sample.mix(a, b, torch.tensor([0.0, 1.0]))
    assert torch.equal(ends[0], a[0]) and torch.equal(ends[1], b[1])
    torch.testing.assert_close(sample.mix(a, b, torch.full((2,), 0.25)), 0.75 * a + 0.25 * b)
    data, noise, seen = a, b, []
    straight = sample.watched(lambda x, t: noise - data, lambda clean, t: seen.append((clean, t)))
    assert torch.equal(
        flow.euler(straight, noise, flow.timesteps(5)), flow.euler(lambda *_: noise - data, noise, flow.timesteps(5))
    )
    assert [t for _, t in seen] == flow.timesteps(5)[:-1].tolist()
    for clean, _ in seen:
        torch.testing.assert_close(clean, data, atol=1e-5, rtol=0)
