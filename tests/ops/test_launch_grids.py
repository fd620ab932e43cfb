"""Launches of the Triton kernels, recorded in place of the kernels: grids have one axis, because CUDA's others end at
65,535, and what is launched depends on sizes as it should. The kernels themselves: tests/interpret and tests/gpu."""

import pytest
import torch

from fastgan.ops.bias_act import triton as bias_act
from fastgan.ops.channel_scale import triton as channel_scale
from fastgan.ops.conv import triton_launch as conv
from fastgan.ops.conv.triton_configs import (
    CONFIGS,
    Config,
    Gpu,
    configs,
    padded_channels,
    shared_bytes,
    shared_memory,
    wgrad_configs,
)
from fastgan.ops.instance_norm import triton as instance_norm
from fastgan.ops.norm_penalty import triton as norm_penalty
from fastgan.ops.upfirdn2d import triton as upfirdn2d

ACT = ("leaky_relu", 0.2, 1.0, None)
H200, A100, L4, T4 = (
    Gpu(count, shared_memory(capability))
    for count, capability in ((132, (9, 0)), (108, (8, 0)), (58, (8, 9)), (40, (7, 5)))
)
BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64


class Recorder:
    """Stands for a module of kernels; records (name, grid, arguments by keyword) of each launch."""

    def __init__(self):
        self.launches = []

    def __getattr__(self, name):
        class Kernel:
            def __getitem__(_, grid):
                return lambda *args, **options: self.launches.append((name, grid, args, options))

        return Kernel()

    @property
    def names(self):
        return [name for name, _, _, _ in self.launches]


@pytest.fixture
def recorder(monkeypatch):
    own = Recorder()
    monkeypatch.setattr(bias_act, "_kernels", lambda: own)
    monkeypatch.setattr(norm_penalty, "_kernels", lambda: own)
    monkeypatch.setattr(channel_scale, "_kernels", lambda: own)
    monkeypatch.setattr(upfirdn2d, "_kernels", lambda: own)
    monkeypatch.setattr(instance_norm, "_kernels", lambda: own)
    for name in ("_kernels", "_epilogue_kernels", "_wgrad_kernels"):
        monkeypatch.setattr(conv, name, lambda: own)
    return own


@pytest.mark.parametrize("shape", [(1, 70_000, 2, 1), (70_000, 2, 2, 1), (2, 9_000_000), (1, 1, 70_000, 2)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_elementwise_grids_have_one_axis_and_cover_the_tensor(recorder, shape, layout):
    x = torch.empty(shape)
    if x.dim() == 4:
        x = x.contiguous(memory_format=layout)
    bias_act.bias_act(x, None, *ACT)
    bias_act.bias_act_grad(x, x, None, *ACT, True)
    bias_act.bias_act_grad_grad(x, x, x, None, *ACT)
    norm_penalty.norm_penalty(x, 1.0)
    norm_penalty.sample_dot(x, x)
    norm_penalty.sample_scale(x, torch.empty(shape[0]))
    assert {"bias_act_fwd_kernel", "bias_act_bwd_kernel", "bias_act_bwd_bwd_kernel"} <= set(recorder.names)
    assert all(len(grid) == 1 and 0 < grid[0] < 2**31 for _, grid, _, _ in recorder.launches)
    for name, (programs,), _, options in recorder.launches:
        if name.startswith("bias_act"):
            covered = programs * options["BLOCK_O"] * options["BLOCK_I"] * options.get("REPEATS", 1)
            assert x.numel() <= covered


@pytest.mark.parametrize("shape", [(1, 70_000, 2, 1), (70_000, 2, 2, 1), (1, 1, 70_000, 2), (2, 64, 256, 256)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_grids_of_instance_norm_have_one_axis_and_cover_the_tensor(recorder, shape, layout):
    x, sums = torch.empty(shape).contiguous(memory_format=layout), torch.empty(shape[:2])
    instance_norm.plan_forward(x, 0.2, 1e-5)(x)
    instance_norm.plan_grad(x, x, sums, sums, 0.2, 1e-5)(x, x, sums, sums)
    launches = {name: (grid, args, options) for name, grid, args, options in recorder.launches}
    assert list(launches) == [
        "part_statistics_kernel", "join_statistics_kernel", "normalized_fwd_kernel", "part_grad_sums_kernel",
        *(["sum_rows_kernel"] if "sum_rows_kernel" in launches else []), "normalized_bwd_kernel",
    ]  # fmt: skip
    assert all(len(grid) == 1 and 0 < grid[0] < 2**31 for grid, _, _ in launches.values())
    pixels = shape[2] * shape[3]
    for name, chunk_at in (("part_statistics_kernel", 5), ("part_grad_sums_kernel", 8)):
        (programs,), args, options = launches[name]
        across, (chunk, parts) = -(-shape[1] // options["BLOCK_C"]), args[chunk_at : chunk_at + 2]
        assert programs == shape[0] * parts * across
        assert (parts - 1) * chunk < pixels <= parts * chunk
    for name in ("normalized_fwd_kernel", "normalized_bwd_kernel"):
        (programs,), _, options = launches[name]
        assert programs == shape[0] * -(-shape[1] // options["BLOCK_C"]) * -(-pixels // options["BLOCK_P"])
    (programs,), _, options = launches["join_statistics_kernel"]
    assert programs == shape[0] * -(-shape[1] // options["BLOCK_C"])


@pytest.mark.parametrize("shape", [(1, 70_000, 2, 1), (70_000, 2, 2, 1), (1, 1, 70_000, 2), (2, 64, 256, 256)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_grids_of_modulated_layers_have_one_axis_and_cover_the_tensor(recorder, shape, layout):
    x = torch.empty(shape).contiguous(memory_format=layout)
    scale = torch.empty(shape[:2])
    channel_scale.plan_scale(x, scale)(x, scale)
    channel_scale.plan_dot(x, x)(x, x)
    for wanted in ((True, True, True), (True, False, True)):
        options = (x, x, x, scale, 0.2, 1.0, None, *wanted)
        channel_scale.plan_grad(*options)(*options)
    launches = [one for one in recorder.launches if one[0] != "sum_rows_kernel"]
    assert [name for name, *_ in launches] == [
        "scaled_fwd_kernel", "channel_dot_kernel", "scaled_bwd_kernel", "scaled_bwd_kernel",
    ]  # fmt: skip
    for _, (programs,), _, options in launches:
        across, down = -(-shape[1] // options["BLOCK_C"]), -(-shape[2] * shape[3] // options["BLOCK_P"])
        assert 0 < programs <= across * down * shape[0] < 2**31
    recorder.launches.clear()
    filter = torch.ones(4)
    for up, down in ((1, 1), (2, 1), (1, 2)):
        options = (x, filter, [up] * 2, [down] * 2, [3] * 4, False, 1.0)
        y = upfirdn2d.plan_upfirdn2d(*options)(*options)
        ((_, (programs,), _, options),) = recorder.launches
        outputs = programs * options["ROWS"] * options["BLOCK_X"] * up * options["BLOCK_C"]
        assert y.numel() <= outputs
        assert outputs <= 2**14 * y.numel()
        recorder.launches.clear()


def test_a_matrix_of_too_many_rows_is_refused():
    # One byte of memory: only sizes are read.
    tall = torch.empty(1).expand(2**20, 2**10, 2, 2)
    assert tall.numel() == 2**32
    assert bias_act.matrix(tall, torch.contiguous_format) == (2**30, 4, False)
    taller = torch.empty(1).expand(2**21, 2**10, 2, 1)
    assert "rows" in bias_act.why_not(taller)
    assert "rows" not in bias_act.why_not(tall)


def test_a_penalty_is_one_launch_unless_samples_are_large(recorder):
    small = torch.empty(4, 3, 64, 64)
    norm_penalty.norm_penalty(small, 1.0)
    norm_penalty.sample_dot(small, small)
    assert recorder.names == ["penalty_kernel", "sample_dot_kernel"]
    recorder.launches.clear()
    large = torch.empty(2, 3, 256, 256)
    norm_penalty.norm_penalty(large, None)
    norm_penalty.sample_dot(large, large)
    assert recorder.names == ["sample_dot_kernel", "penalty_finish_kernel", "sample_dot_kernel", "dot_finish_kernel"]


def test_split_sums_launch_a_second_kernel_and_padding_a_first(recorder):
    x, w = torch.empty(2, 3, 16, 16), torch.empty(8, 3, 4, 4)
    options = ([2, 2], [1, 1], [1, 1])
    config = CONFIGS[-1]
    conv.forward(x, w, None, *options, *ACT, config)
    assert recorder.names == ["conv_fwd_kernel"]
    programs = recorder.launches[0][1][0]
    recorder.launches.clear()
    conv.forward(x, w, None, *options, *ACT, config._replace(splits=3, pad=True))
    assert recorder.names == ["pad_channels_kernel", "conv_fwd_kernel", "conv_finish_kernel"]
    assert recorder.launches[1][1] == (3 * programs,)
    assert recorder.launches[1][3]["FEW"] == padded_channels(3) == 4
    recorder.launches.clear()
    conv.wgrad(torch.empty(2, 8, 8, 8), x, [4, 4], *options, True, config._replace(splits=2))
    assert recorder.names == ["conv_wgrad_kernel", "sum_rows_kernel"]
    assert all(len(grid) == 1 for _, grid, _, _ in recorder.launches)


def test_the_slope_of_the_tangent_is_in_the_launch_of_the_convolution(recorder):
    x, w, saved = torch.empty(2, 16, 8, 8), torch.empty(16, 16, 3, 3), torch.empty(2, 16, 8, 8)
    conv.forward(x, w, None, [1, 1], [1, 1], [1, 1], *ACT, CONFIGS[-1], saved)
    ((name, _, _, options),) = recorder.launches
    assert name == "conv_fwd_kernel"
    assert (options["HAS_SLOPE"], options["HAS_ACT"], options["HAS_BIAS"]) == (True, False, False)


# --- candidates ------------------------------------------------------------------------------------------------------


def test_a_hopper_gpu_gets_the_large_tiles_and_deep_pipelines():
    found = configs(16384, 256, 2048, BF16, H200)
    assert any(c[:3] == (128, 256, 64) and c.stages >= 4 for c in found)
    assert any(c.stages == 6 for c in found)
    # Of each tile, one pipeline as deep as fits, and one of which two programs fit.
    assert {c.stages for c in found if c[:3] == (128, 128, 64)} == {3, 6}


@pytest.mark.parametrize("gpu", [H200, A100, L4, T4], ids=["H200", "A100", "L4", "T4"])
@pytest.mark.parametrize("dtype", [torch.float16, BF16, FP32, FP64], ids=str)
def test_every_shape_has_candidates_that_fit(gpu, dtype):
    for rows in (1, 64, 1024, 10**6):
        for outputs in (1, 3, 17, 64, 100, 128, 512, 1000):
            for few in (False, True):
                for tf32 in (False, True):
                    forward = configs(rows, outputs, 48, dtype, gpu, tf32=tf32, few=few, pad=few)
                    weight = wgrad_configs(rows, outputs, 3 if few else 64, 16, dtype, gpu, tf32=tf32)
                    for found in (forward, weight):
                        assert found
                        assert len(set(found)) == len(found) <= 10
                        assert all(shared_bytes(c, dtype.itemsize) <= gpu.shared for c in found)


def test_deep_layers_with_few_tiles_are_split_for_the_whole_gpu():
    # DCGAN's third and fourth convolution at batch 64: 32 tiles of 128×256 and of 128×128.
    for rows, outputs, depth in ((4096, 256, 2048), (1024, 512, 4096)):
        split = [c for c in configs(rows, outputs, depth, BF16, H200) if c.splits > 1]
        assert split
        for c in split:
            tiles = -(-rows // c.block_m) * -(-outputs // c.block_n)
            assert 66 < tiles * c.splits <= 132
            assert depth // c.block_k // c.splits >= 4
    assert not [c for c in configs(65536, 256, 2048, BF16, H200) if c.splits > 1]
    assert not [c for c in configs(1024, 512, 64, BF16, H200) if c.splits > 1]


def test_the_name_of_a_config_tells_it_from_others():
    assert str(Config(128, 64, 64, 8, 3)) == "128x64x64w8s3"
    assert str(Config(128, 64, 64, 8, 3, 4, True)) == "128x64x64w8s3k4p"
