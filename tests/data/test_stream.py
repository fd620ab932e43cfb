import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from fastgan._util.files import amount
from fastgan.data import open_source, stream
from fastgan.data.imageset import ImageSet
from fastgan.data.stream import BatchStream, normalize
from fastgan.errors import DataError, UsageError

CPU = torch.device("cpu")
FIRST = [7, 0, 9, 2, 1, 3, 8, 4, 6, 5]  # the order of ten images under seed 0, recorded from the first version


def numbered(n):
    """n one-pixel images, image i of value i."""
    return ImageSet(np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), None, "numbered", "none")


def values(batch):
    return ((batch + 1) * 127.5).round().int().flatten().tolist()


def test_normalize_maps_bytes_to_minus_one_to_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(normalize(pixels), torch.tensor([-1.0, -0.6, 1.0]))


def test_every_epoch_holds_every_image_once_in_a_fresh_order():
    stream = BatchStream(numbered(10), 4, seed=0, device=CPU)
    seen = [value for _ in range(5) for value in values(next(stream))]  # two epochs in batches that straddle them
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] != list(range(10))


def test_order_depends_on_the_seed_alone_and_position_restores_it():
    streams = [BatchStream(numbered(50), 8, seed, CPU) for seed in (1, 1, 2)]
    first = [[values(next(s)) for _ in range(20)] for s in streams]
    assert first[0] == first[1] != first[2]
    resumed = BatchStream(numbered(50), 8, 1, CPU)
    other = BatchStream(numbered(50), 8, 1, CPU)
    for _ in range(13):
        next(other)
    resumed.load_state_dict(other.state_dict())
    assert [values(next(resumed)) for _ in range(7)] == first[0][13:]


def test_a_batch_may_be_larger_than_the_set():
    assert sorted(values(next(BatchStream(numbered(3), 6, 0, CPU)))) == [0, 0, 1, 1, 2, 2]


@pytest.fixture
def mapped(tmp_path):
    """53 noise images as a memory map."""
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (53, 3, 4, 5), np.uint8))
    return ImageSet(np.load(tmp_path / "images.npy", mmap_mode="r"), None, "mapped", "none")


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "fastgan-prefetch"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_prefetched_equals_resident_and_ranks_equal_one(mapped, world):
    """Bit for bit over three epochs, with batches that straddle epochs and ranks in different epochs."""
    whole = BatchStream(mapped, 12, 5, CPU)
    resident = [BatchStream(mapped, 12 // world, 5, CPU, rank=rank, world=world) for rank in range(world)]
    ahead = [BatchStream(mapped, 12 // world, 5, CPU, rank=rank, world=world, share=0) for rank in range(world)]
    assert [s.where for s in resident + ahead] == [f"resident, {amount(mapped.images.nbytes)} on cpu"] * world + [
        "memory map, prefetched"
    ] * world
    for i in range(15):
        expected = next(whole)
        for streams in (resident, ahead):
            got = torch.cat([next(s) for s in streams])
            assert got.dtype == torch.float32
            assert torch.equal(got, expected)
            assert [s.position for s in streams] == [12 * (i + 1)] * world


def test_the_order_is_that_of_older_versions():
    """Changing it would change the images of every resumed run."""
    assert values(next(BatchStream(numbered(10), 10, 0, CPU))) == FIRST
    assert values(next(BatchStream(numbered(10), 10, 1, CPU))) != FIRST


@pytest.mark.parametrize("share", [0.25, 0])
def test_resume_mid_epoch_at_another_world(mapped, share):
    whole = BatchStream(mapped, 12, 5, CPU)
    first = [BatchStream(mapped, 6, 5, CPU, rank=rank, world=2, share=share) for rank in range(2)]
    for _ in range(7):
        next(whole)
        states = [next(s) is not None and s.state_dict() for s in first]
    assert states[0] == states[1] == whole.state_dict()
    assert states[0]["position"] == 84  # batches that are ready but not consumed do not count
    resumed = [BatchStream(mapped, 4, 5, CPU, rank=rank, world=3, share=share) for rank in range(3)]
    for s in resumed:
        next(s)  # batches gathered before loading must not be yielded after it
        s.load_state_dict(states[0])
    for _ in range(4):
        assert torch.equal(torch.cat([next(s) for s in resumed]), next(whole))


@pytest.mark.parametrize("share", [0.25, 0])
def test_held_out_images_are_never_yielded(mapped, share):
    stream = BatchStream(mapped, 10, 5, CPU, held_out=13, share=share)
    given = torch.cat([next(stream) for _ in range(4)])
    everything = normalize(torch.from_numpy(np.array(mapped.images)))
    assert sorted(values(torch.cat([given, stream.held_out]))) == sorted(values(everything))
    assert sorted(values(torch.cat([next(stream) for _ in range(4)]))) == sorted(values(given))
    again = BatchStream(mapped, 10, 5, CPU, held_out=13, rank=1, world=2)
    assert torch.equal(again.held_out, stream.held_out)
    assert len(BatchStream(mapped, 10, 5, CPU).held_out) == 0
    for held_out in (-1, 53):
        with pytest.raises(UsageError, match="held_out: expected 0 or more, fewer than the 53 images"):
            BatchStream(mapped, 10, 5, CPU, held_out=held_out)


def test_the_state_of_another_set_is_refused(mapped):
    state = BatchStream(numbered(50), 8, 1, CPU).state_dict()
    message = r"the state belongs to the images numbered \(50\), not to mapped \(53\); use"
    with pytest.raises(DataError, match=message):
        BatchStream(mapped, 8, 1, CPU).load_state_dict(state)
    other = ImageSet(numbered(50).images.copy(), None, "other", "none")
    BatchStream(other, 8, 1, CPU).load_state_dict(state)  # the same images under another name
    other.images[-1] ^= 1
    with pytest.raises(DataError, match=r"not to other \(50\)"):
        BatchStream(other, 8, 1, CPU).load_state_dict(state)
    older = BatchStream(numbered(50), 8, 1, CPU)
    older.load_state_dict({"position": 16})
    assert older.position == 16


@pytest.mark.parametrize("state", [{"at": 3, "seed": 0}, {}, {"position": "3"}, [3], None])
def test_the_state_of_other_batches_is_refused(mapped, state):
    stream = BatchStream(mapped, 8, 1, CPU)
    with pytest.raises(DataError, match=r"belongs to another data loader: expected a state with a position, got"):
        stream.load_state_dict(state)
    assert stream.position == 0


def test_a_set_is_resident_where_it_takes_at_most_a_quarter_of_the_memory(mapped, monkeypatch):
    for free, resident in ((4 * mapped.images.nbytes, True), (4 * mapped.images.nbytes - 1, False)):
        monkeypatch.setattr(stream, "free_memory", lambda device, free=free: free)
        assert BatchStream(mapped, 1, 0, CPU).where.startswith("resident") == resident
    monkeypatch.setattr(stream, "free_memory", lambda device: 0)
    loose = ImageSet(np.array(mapped.images), None, "loose", "none")
    ahead = BatchStream(loose, 9, 0, CPU)
    assert ahead.where == "host memory, prefetched"
    assert torch.equal(next(ahead), next(BatchStream(mapped, 9, 0, CPU)))


def test_resident_images_are_a_copy(mapped):
    """Copied in chunks, the last one shorter; later changes of the source have no effect."""
    loose = ImageSet(np.array(mapped.images), None, "loose", "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_CHUNK", 10 * loose.images[0].nbytes)
        first = BatchStream(loose, 53, 0, CPU)
    loose.images[:] = 0
    assert torch.equal(next(first), next(BatchStream(mapped, 53, 0, CPU)))


def test_free_memory():
    assert 1 << 20 < stream.free_memory(CPU) < 1 << 50


def test_the_thread_ends_with_its_stream(mapped):
    ahead = BatchStream(mapped, 4, 0, CPU, share=0)
    next(ahead)
    assert len(threads()) == 1
    ahead.load_state_dict({"position": 0})  # ends the thread; the next batch starts another
    next(ahead)
    assert len(threads()) == 1
    del ahead
    gc.collect()
    assert threads() == []


def test_an_error_of_the_thread_is_raised_and_the_next_call_continues(mapped, monkeypatch):
    ahead, expected = BatchStream(mapped, 4, 0, CPU, share=0), BatchStream(mapped, 4, 0, CPU)
    assert torch.equal(next(ahead), next(expected))

    def until_it_fails():
        while True:  # some batches were ready before the failure
            next(ahead)
            next(expected)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "from_numpy", lambda array: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            until_it_fails()
    assert threads() == []
    assert torch.equal(next(ahead), next(expected))


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "del stream", "stream._prefetch._ready.get()"])
def test_a_process_with_a_thread_ends(tmp_path, ending):
    np.savez(tmp_path / "a.npz", images=np.zeros((100, 64, 64), np.uint8))
    code = (
        "import sys, torch; from fastgan.data import open_source; from fastgan.data.stream import BatchStream\n"
        "stream = BatchStream(open_source(sys.argv[1]), 8, 0, torch.device('cpu'), share=0); next(stream)\n" + ending
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.npz"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch: expected a number >= 1, got 0"),
        ({"rank": 2, "world": 2}, "rank: expected a number from 0 to world - 1 = 1, got 2"),
        ({"rank": -1}, "rank: expected .* got -1"),
        ({"share": 25}, "share: expected a share of the device's free memory, 0 to 1, got 25"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(UsageError, match=message):
        BatchStream(numbered(3), **{"batch": 2, "seed": 0, "device": CPU, **options})


def test_batches_of_a_folder(tmp_path, picture):
    for i in range(5):
        picture(f"set/{i}.png", array=np.full((2, 2), 50 * i, np.uint8))
    ahead = BatchStream(open_source(tmp_path / "set"), 5, 0, CPU, share=0)
    assert sorted(next(ahead)[:, 0, 0, 0].tolist()) == pytest.approx([i * 50 / 127.5 - 1 for i in range(5)], abs=1e-6)
