"""The clock, on a stand-in for a GPU: a simulated queue and a simulated host clock."""

import pytest

from fastgan._util.timing import BLOCKS, CALLS, HOST_CALLS, alternate, replay_time, wall_and_host, watch

MICRO = 1e-6
LAUNCHES = 20


class Simulated:
    """A launch costs the host time and adds time to the device's queue, which holds `depth` launches."""

    def __init__(self, depth=1000):
        self.depth = depth
        self.time = 0.0  # of the host
        self.ends = []  # when the device finishes each launch
        self.cleared = 0

    def launch(self, host, device):
        self.time += host
        if len(self.ends) >= self.depth:  # the host waits for a place in the queue
            self.time = max(self.time, self.ends[-self.depth])
        self.ends.append(max(self.time, self.free) + device)

    @property
    def free(self):
        return self.ends[-1] if self.ends else 0.0

    def now(self):
        return self.time

    def synchronize(self):
        self.time = max(self.time, self.free)

    def clear_cache(self):
        self.cleared += 1
        self.launch(5 * MICRO, 100 * MICRO)

    def mark(self):
        return max(self.time, self.free)

    def between(self, first, last):
        return 1e3 * (last - first)


def contestants(device):
    """Both work for 1 ms, one of them on the host and the other on the device."""

    def of(host, gpu):
        return lambda: [device.launch(host * MICRO, gpu * MICRO) for _ in range(LAUNCHES)]

    return {"device-bound": of(5, 50), "host-bound": of(50, 5)}


def by_events(functions, device, seconds):
    """What the benchmarks did before: events around calls in alternating rounds, and one wait at the end."""

    def clock(function):
        device.clear_cache()
        first = device.mark()
        function()
        last = device.mark()
        return lambda: device.between(first, last)

    reads = alternate(functions, clock, 20)
    device.synchronize()
    return {name: sorted(read() for read in found)[10] for name, found in reads.items()}


def wall(functions, device, seconds):
    return {name: one.median for name, (one, _) in wall_and_host(functions, device, seconds).items()}


def check_wall(measure):
    device = Simulated()
    found = measure(contestants(device), device, 0.1)
    # The host-bound one takes what its calls take, the device-bound one what the device takes (and a first launch).
    assert found["host-bound"] == pytest.approx(1.0, rel=0.01)
    assert found["device-bound"] == pytest.approx(1.0, rel=0.01)


def test_queued_work_of_another_function_hides_no_host_time():
    check_wall(wall)


def test_events_behind_a_filled_queue_would_have_hidden_it():
    with pytest.raises(AssertionError):
        check_wall(by_events)
    device = Simulated()
    # Half of the host's work and more disappears behind the neighbor.
    assert by_events(contestants(device), device, 0.1)["host-bound"] < 0.5


def test_host_time_is_that_of_the_calls_alone():
    device = Simulated()
    found = {name: one.median for name, (_, one) in wall_and_host(contestants(device), device, 0.1).items()}
    assert found["host-bound"] == pytest.approx(LAUNCHES * 50e-3)
    assert found["device-bound"] == pytest.approx(LAUNCHES * 5e-3)


def test_host_time_does_not_include_the_wait_for_a_full_queue():
    """A block of calls would: after `depth` launches the host waits for the device."""
    device = Simulated(depth=2 * LAUNCHES)
    (_, host) = wall_and_host(contestants(device), device, 0.1)["device-bound"]
    assert host.q80 == pytest.approx(LAUNCHES * 5e-3)


def test_the_device_is_idle_at_the_start_of_each_measurement():
    class Watched(Simulated):
        def now(self):
            self.at.append(self.free <= self.time)
            return self.time

    device = Watched()
    device.at = []
    wall_and_host(contestants(device), device, 0.01)
    # The clock is read at the start and at the end; only host time may end before the device has.
    assert all(device.at[::2])
    assert sum(not idle for idle in device.at[1::2]) <= 2 * BLOCKS * HOST_CALLS


@pytest.mark.parametrize("which", ["host-bound", "device-bound"])
def test_a_replay_takes_the_time_of_the_device_with_a_cleared_cache(which):
    device = Simulated()
    kernels = {"host-bound": 5, "device-bound": 50}[which]
    found = replay_time(lambda: device.launch(10 * MICRO, LAUNCHES * kernels * MICRO), device, 0.1)
    assert found.median == pytest.approx(LAUNCHES * kernels * 1e-3)
    assert device.cleared >= 15


def test_replays_of_rotated_inputs_are_counted_by_input():
    device = Simulated()
    found = replay_time(lambda: device.launch(10 * MICRO, 4 * 100 * MICRO), device, 0.1, rotated=4)
    # Blocks have at least CALLS[0] replays, and the first launch of each is not hidden.
    assert found.median == pytest.approx(0.1, rel=10 / 400 / CALLS[0] + 1e-6)
    assert not device.cleared


def test_a_call_on_a_cpu_has_one_time():
    assert watch(lambda: sum(range(1000)))() > 0
