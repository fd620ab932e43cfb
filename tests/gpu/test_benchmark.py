"""fastgan.benchmark and the clock on a real GPU."""

import pytest
import torch

import fastgan
from fastgan.testing import discriminator_steps as steps
from fastgan.testing.timing import captured, times

pytestmark = pytest.mark.gpu


def test_a_critic_step_is_timed_as_a_cuda_graph_and_its_state_restored():
    network = steps.discriminator().cuda()
    draws = [x.cuda() for x in steps.draws()]
    optimizer = torch.optim.Adam(network.parameters(), capturable=True)
    before = [p.clone() for p in network.parameters()]

    def step(real, fake, epsilon):
        network.zero_grad()
        loss = steps.wgan_gp(network, real, fake, epsilon)
        loss.backward()
        optimizer.step()
        return loss.detach()

    found = fastgan.benchmark(step, *draws, seconds=0.05)
    graph, eager = found["CUDA graph"], found["eager"]
    assert not graph.reason
    assert graph.launches < eager.launches
    assert eager.host.median <= 1.2 * eager.wall.median
    assert graph.graph.median <= 1.2 * eager.wall.median
    assert eager.memory > 0
    assert graph.memory > 0
    assert "the calls take" in str(found)
    assert not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_step_that_waits_is_no_cuda_graph():
    network = steps.discriminator().cuda()
    found = fastgan.benchmark(lambda x: network(x).mean() * float(x.sum()), steps.draws()[0].cuda(), seconds=0.02)
    assert "cannot be captured" in found["CUDA graph"].reason
    assert found["eager"].wall.median > 0


def test_host_time_is_not_hidden_behind_the_queue_of_another_function():
    small, large = torch.zeros(8, device="cuda"), torch.zeros(8192, 8192, device="cuda")

    def many_launches():
        for _ in range(100):
            small.add_(1)

    found = times({"host-bound": many_launches, "busy": lambda: large @ large}, "cuda", 0.05)
    # 100 launches take the host some hundred microseconds; in a loop they may be faster than from an idle GPU.
    assert found["host-bound"].wall.median >= 0.5 * found["host-bound"].host.median
    assert found["busy"].host.median < 0.5 * found["busy"].wall.median


def test_replays_have_a_time_for_one_set_of_inputs():
    inputs = [torch.zeros(2**24, device="cuda") for _ in range(4)]
    builds = [lambda x=x: lambda: x.add_(1) for x in inputs]
    functions = {"add": builds[0]()}
    one = times(functions, "cuda", 0.05, graphs={"add": captured(builds[:1])})["add"]
    four = times(functions, "cuda", 0.05, graphs={"add": captured(builds)})["add"]
    assert (one.cache, four.cache) == ("cleared", "rotated")
    assert 0.5 < one.graph.median / four.graph.median < 2
