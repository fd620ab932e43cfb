"""The benchmarks still fit the trainer that they time: nobody runs them often enough to notice otherwise."""

import argparse
import csv
import dataclasses

import ceilings
import contestants
import convolutions
import degradations
import end_to_end
import host
import monitor
import presets
import profile_steps
import pytest
import run
import steps
import stylegan_ops
import table
import task_cases
import task_iterations
import tiny_ops
import torch
import translation_layers
import updates
from end_to_end import Preset, networks_of, verify
from plain import plain_pytorch

import fastgan
from fastgan import models
from fastgan._util.timing import Timing
from fastgan.ops import _autotune
from fastgan.ops.conv import reference
from fastgan.testing import timing


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def floors(tmp_path):
    path = tmp_path / "ceilings.csv"
    assert ceilings.main(["--seconds", "0.01", "--out", str(path)]) == 0
    return path


@pytest.fixture
def small(monkeypatch):
    """Steps, layers and presets that a CPU runs in milliseconds."""

    def network():
        return steps.conv_discriminator([(4, 4, 2), (8, 4, 2)], side=16)

    one = {"cpu": (2,), "cuda": (2,)}
    found = [
        steps.Step("gradient_penalty", network, steps.gradient_penalty, one, side=16, passes=4),
        steps.Step("norms", lambda: steps.Weights(steps._with_norms(network())), steps.weights_alone, one, 16),
    ]
    monkeypatch.setattr(run, "STEPS", found)
    monkeypatch.setattr(profile_steps, "STEPS", found)
    monkeypatch.setattr(convolutions, "LAYERS", ((3, 4, 8), (4, 4, 8)))
    pair = {"name": "dcgan", "width": 4}
    monkeypatch.setattr(end_to_end, "FAMILIES", [Preset("small", 32, pair, "hinge", {"cpu": 2})])


def test_ceilings_give_floors(floors):
    assert [row["name"] for row in rows_of(floors)] == ["copy", "bf16 products", "float32 products"]
    found = ceilings.Ceilings(floors)
    # The longer of the two: a gigabyte moved, or a teraflop done.
    moved, done = found.floor_ms(size=1e9), found.floor_ms(flops=1e12)
    assert moved == pytest.approx(1e3 / found.values["copy"])
    assert done == pytest.approx(1e3 / found.values["float32 products"])
    assert found.floor_ms(1e9, 1e12) == max(moved, done)
    assert ceilings.Ceilings(None).floor_ms(1e9) is None


def test_host_times_are_measured(tmp_path):
    out = tmp_path / "host.csv"
    assert host.main(["--seconds", "0.01", "--out", str(out)]) == 0
    found = {row["name"]: row for row in rows_of(out)}
    # The two rows that need a GPU are missing.
    assert set(host.ROWS) - set(found) == {
        "Triton kernel of three arguments",
        "penalty, fused, fastgan.compile(mode=graph)",
    }
    assert all(float(row["wall_us"]) > 0 and not row["host_us"] for row in found.values())


def test_steps_are_timed_and_an_interrupted_run_resumed(tmp_path, small, floors, monkeypatch):
    out = tmp_path / "steps.csv"
    words = ["--only", "steps", "--seconds", "0.002", "--ceilings", str(floors), "--out", str(out)]
    assert run.main([*words, "--case", "norms"]) == 0
    (first, *_) = rows = rows_of(out)
    assert [(row["provider"], row["layout"]) for row in rows] == [
        (name, layout) for layout in ("contiguous", "channels_last") for name in ("fastgan", "eager")
    ]
    assert float(first["median_ms"]) > 0
    measured, measure_step = [], run.measure_step
    monkeypatch.setattr(
        run, "measure_step", lambda what, *rest: measured.append(what.name) or measure_step(what, *rest)
    )
    assert run.main([*words, "--resume"]) == 0
    assert measured == ["gradient_penalty"]
    assert rows_of(out)[:4] == rows
    assert len(rows_of(out)) == 8


def test_floors_of_steps_follow_from_the_ceilings(small, floors):
    found = ceilings.Ceilings(floors)
    penalty, norms = run.STEPS
    # 3 → 4 channels at 8×8 pixels and 4 → 8 at 4×4, 4×4 kernels, and the linear layer; two images, four passes.
    flops = 2 * 2 * (64 * 4 * 3 * 16 + 16 * 8 * 4 * 16 + 128)
    assert steps.floor(penalty, "cpu", torch.float32, 2, found) == pytest.approx(found.floor_ms(flops=4 * flops))
    size = 4 * (4 * 3 * 16 + 8 * 4 * 16 + 128)
    assert steps.floor(norms, "cpu", torch.float32, 1, found) == pytest.approx(found.floor_ms(5 * size))


def test_ops_are_timed(tmp_path, monkeypatch, floors):
    # Without a compiler.
    monkeypatch.setattr(run, "providers", lambda case: {"fastgan": case.call, "eager": case.plain})
    case = next(case for case in run.CASES if case.name == "norm_penalty-target")
    monkeypatch.setattr(run, "CASES", [case])
    out = tmp_path / "ops.csv"
    assert run.main(["--only", "ops", "--seconds", "0.001", "--ceilings", str(floors), "--out", str(out)]) == 0
    assert {row["mode"] for row in rows_of(out)} == {"forward", "backward", "forward+backward", "penalty"}


def test_a_case_that_fails_does_not_end_the_others(tmp_path, small, monkeypatch, capsys):
    def verify(step, *_):
        if step.name == "gradient_penalty":
            raise RuntimeError("of the GPU")

    monkeypatch.setattr(run, "verify", verify)
    out = tmp_path / "steps.csv"
    assert run.main(["--only", "steps", "--seconds", "0.002", "--out", str(out)]) == 1
    assert {row["case"] for row in rows_of(out)} == {"norms"}
    assert "NOT TIMED: gradient_penalty 2 torch.float32: RuntimeError: of the GPU" in capsys.readouterr().err


def test_a_case_that_does_not_exist_is_an_error_that_names_the_others(capsys):
    with pytest.raises(SystemExit):
        run.main(["--case", "nosuch"])
    message = capsys.readouterr().err
    assert "--case nosuch: no case has such a name" in message
    assert "bias_act-leaky_relu" in message
    assert "gradient_penalty" in message


def test_kernels_of_steps_are_listed(tmp_path, small):
    out = tmp_path / "profile.csv"
    assert profile_steps.main(["--batch", "2", "--out", str(out)]) == 0
    rows = [row for row in rows_of(out) if row["provider"] == "fastgan"]
    assert any("convolution" in row["kernel"] for row in rows)
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=0.05)


def test_candidates_of_convolutions_are_those_of_autotuning(small, monkeypatch):
    """A step that asks autotuning for the fastest shows its candidates; the library runs."""
    given = convolutions.operands("conv_slope", (4, 4, 8), 2, torch.float32, "cpu")
    expected = reference.conv_slope(*given)

    def asks(*args):
        runs = {_autotune.LIBRARY: lambda x: expected, "triton/64": lambda x: expected + 1}
        return _autotune.fastest(torch.device("cpu"), ("conv_slope",), lambda: runs, args[:1])

    before = _autotune.fastest
    monkeypatch.setattr(convolutions.reference, "conv_slope", asks)
    found = convolutions.candidates("conv_slope", given)
    assert list(found) == [_autotune.LIBRARY, "triton/64"]
    assert _autotune.fastest is before
    options = argparse.Namespace(device="cpu", seconds=0.001, floors=ceilings.Ceilings(None), device_name="cpu")
    rows = convolutions.measure("conv_slope", (4, 4, 8), 2, torch.float32, options)
    assert rows[1]["note"].startswith("not timed: its result differs from the library's")
    assert float(rows[0]["wall_ms"]) > 0


def test_every_pass_of_every_layer_is_timed(tmp_path, small, floors):
    out = tmp_path / "convolutions.csv"
    words = ["--batch", "2", "--seconds", "0.001", "--ceilings", str(floors), "--out", str(out)]
    assert convolutions.main(words) == 0
    assert [(row["layer"], row["pass"]) for row in rows_of(out)] == [
        (layer, name)
        for layer, second in (("3-4", "conv_dgrad"), ("4-4", "conv_dgrad_act"))
        for name in ("conv_bias_act", second, "conv_slope", "conv_wgrad")
    ]
    assert all(float(row["floor_ms"]) > 0 for row in rows_of(out))


def test_operations_of_stylegan_are_compared_and_timed(tmp_path, floors, monkeypatch, capsys):
    for name, value in {"SIDE": 16, "CHANNELS": 4, "LAYERS": ((4, 8),)}.items():
        monkeypatch.setattr(stylegan_ops, name, value)
    out = tmp_path / "stylegan.csv"
    words = ["--batch", "2", "--seconds", "0.001", "--ceilings", str(floors), "--out", str(out)]
    assert stylegan_ops.main(words) == 0
    rows = rows_of(out)
    ops = ["upfirdn2d up (images)", "upfirdn2d filter", "upfirdn2d down", "channel_scale", "channel_dot",
           "scale_noise_bias_act", "scale_noise_bias_act_grad",
           *(f"filtered_lrelu{part} up {up}, down 2" for up in (2, 4) for part in ("", "_linear"))]  # fmt: skip
    names = [(row["op"], row["layout"]) for row in rows if row["candidate"] == "fastgan"]
    layouts = list(stylegan_ops.LAYOUTS)
    # Convolutions come last.
    assert names == [(op, a) for a in layouts for op in ops] + [("modulated_conv2d", a) for a in layouts]
    assert {row["candidate"] for row in rows[:-6]} == {"fastgan", "PyTorch", "copy"}
    assert all(float(row["wall_ms"]) > 0 and float(row["of_copy"]) >= 0 for row in rows)
    # Of the smallest ones less than the last digit.
    assert min(float(row["floor_ms"]) for row in rows) >= 0 < max(float(row["floor_ms"]) for row in rows)
    assert [row["vs_convolution"] for row in rows if row["candidate"] == "convolution"] == ["1.00", "1.00"]
    assert stylegan_ops.main([*words, "--resume"]) == 0
    assert rows_of(out) == rows
    monkeypatch.setattr(stylegan_ops, "channel_scale", lambda x, scale: x)
    out.unlink()
    capsys.readouterr()
    assert stylegan_ops.main(words) == 1
    assert "its result differs" in capsys.readouterr().err
    assert "channel_scale" not in {row["op"] for row in rows_of(out)}


def test_updates_are_compared_and_timed(tmp_path):
    out = tmp_path / "updates.csv"
    assert updates.main(["--width", "2", "--seconds", "0.01", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert [row["provider"] for row in rows] == ["torch", "adam_ema"]
    assert rows[0]["ratio_vs_torch"] == "1.00"
    assert all(float(row["median_ms"]) > 0 and not row["note"] for row in rows)


def test_layers_of_translation_are_timed(tmp_path, monkeypatch, capsys):
    small = {"few outputs, small": (2, 3, 8, 7, 1), "reflection, small": (2, 2, 8, 3, 1)}
    monkeypatch.setattr(translation_layers, "CASES", small)
    out = tmp_path / "layers.csv"
    assert translation_layers.main(["--rounds", "1", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert [(row["case"].split(",")[0], row["layout"], row["pass"]) for row in rows] == [
        (case, layout, which)
        for case in ("few outputs", "reflection")
        for layout in ("channels_last", "contiguous")
        for which in ("train", "forward")
    ]
    assert all(float(row["plain_ms"]) > 0 and float(row["fused_ms"]) > 0 for row in rows)
    with pytest.raises(SystemExit):
        translation_layers.main(["--case", "other"])
    assert "--case 'other' is in no name" in capsys.readouterr().err


def test_iterations_are_timed(tmp_path, small):
    out = tmp_path / "training.csv"
    words = ["--families", "--seconds", "0.01", "--only", "fastgan", "--out", str(out)]
    assert end_to_end.main(words) == 0
    rows = rows_of(out)
    assert [row["provider"] for row in rows] == ["eager", "fastgan"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    written = out.read_text()
    assert end_to_end.main([*words, "--resume"]) == 0
    assert out.read_text() == written


def test_iterations_of_a_task_are_timed(tmp_path, monkeypatch):
    (case,) = (case for case in task_cases.cases() if case.name == "cyclegan")
    build = task_cases._family("cyclegan", width=4, blocks=1, layers=1)
    small = dataclasses.replace(case, build=build, sizes={"cpu": (16, 1)})
    monkeypatch.setattr(task_iterations, "cases", lambda: [small])
    monkeypatch.setattr(task_iterations, "why_slow", lambda precision, device: "" if precision == "fp32" else "it is")
    out = tmp_path / "tasks.csv"
    words = ["--seconds", "0.01", "--only", "fastgan", "--out", str(out)]
    assert task_iterations.main(words) == 0
    rows = rows_of(out)
    assert [row["provider"] for row in rows] == ["eager", "fastgan"] * 2
    assert all(float(row["iteration_ms"]) > 0 for row in rows if row["precision"] == "fp32")
    written = out.read_text()
    assert task_iterations.main([*words, "--resume"]) == 0
    assert out.read_text() == written


def test_a_task_with_other_gradients_is_not_timed(monkeypatch, capsys):
    (case,) = (case for case in task_cases.cases() if case.name == "pix2pix")
    build = task_cases._family("pix2pix", width=4, norm="batch")
    wrong = dataclasses.replace(case, build=build, sizes={"cpu": (32, 1)}, options={"l1_weight": 99.0, "d_scale": 1.0})
    monkeypatch.setattr(task_iterations, "cases", lambda: [wrong])
    assert task_iterations.main(["--seconds", "0.01", "--only", "fastgan"]) == 1
    assert "the generator's gradients differ" in capsys.readouterr().err


def test_every_op_runs_for_the_sanitizer(capsys):
    assert tiny_ops.main(["--case", "bias_act-silu"]) == 0
    assert "16 runs" in capsys.readouterr().out
    assert tiny_ops.main(["--case", "absent"]) == 1


class Simulated:
    """A GPU whose work is done when a call returns, and a clock that only its work moves."""

    def __init__(self):
        self.time = 0.0

    def work(self, ms):
        def run():
            self.time += ms / 1e3

        return run

    def now(self):
        return self.time

    mark = now

    def synchronize(self):
        pass

    clear_cache = synchronize

    def between(self, first, last):
        return 1e3 * (last - first)


def test_tables_of_a_gpu_have_all_three_times(monkeypatch):
    gpu = Simulated()
    monkeypatch.setattr(timing, "CudaDevice", lambda: gpu)
    graphs = {"eager": timing.Graph(gpu.work(1)), "fastgan": timing.Graph(gpu.work(1), sets=4)}
    functions = {"eager": gpu.work(2), "fastgan": gpu.work(1), "compile": gpu.work(0.5)}
    found = timing.times(functions, "cuda", 0.01, graphs=graphs)
    options = argparse.Namespace(device="cuda")
    rows = {name: run.figures(one, found["eager"], options, 1000, 0.5) for name, one in found.items()}
    assert set(rows["eager"]) | {"note", *run.KEY} == set(run.COLUMNS["cuda"])
    assert float(rows["eager"]["wall_ms"]) == float(rows["eager"]["host_ms"]) == 2
    assert [float(rows[name]["graph_ms"]) for name in ("eager", "fastgan")] == [1, 0.25]
    assert [float(rows["fastgan"][name]) for name in ("wall_vs_eager", "graph_vs_eager")] == [2, 4]
    assert (rows["eager"]["cache"], rows["fastgan"]["cache"]) == ("cleared", "rotated")
    assert "graph_ms" not in rows["compile"]
    assert rows["compile"]["graph_vs_eager"] == ""
    assert float(rows["eager"]["floor_share"]) == 0.5
    assert set(table.gpu_times(found["eager"])) == set(table.GPU_TIMES) < set(end_to_end.COLUMNS["cuda"])
    assert table.gpu_times(timing.Times(Timing(1, 1, 1))).keys() == {"wall_ms", "wall_q20_ms", "wall_q80_ms"}


def test_phases_of_an_iteration_are_timed():
    config = fastgan.Config.from_flags(latent=contestants.LATENT, batch=2, compile="off")
    pair = models.build("dcgan", resolution=32, channels=3, latent=contestants.LATENT, width=4)
    ours = contestants.Ours(*pair, config, fuse=False)
    ours.use(contestants.stream(2, 32, "cpu"))
    ours.iterate()
    spent = contestants.phases(ours, "cpu", iterations=1)
    assert sorted(spent) == ["data_ms", "discriminator_ms", "generator_ms", "update_ms"]
    assert all(float(ms) >= 0 for ms in spent.values())
    assert float(spent["discriminator_ms"]) > 0


def test_the_cost_of_the_monitor_is_measured(monkeypatch):
    small = {"resolution": 8, "channels": 1, "width": 4, "d_norm": "none"}
    monkeypatch.setitem(monitor.PRESETS, "small", (small, "wgan-gp", {"batch": 4, "d_steps": 1}))
    row = monitor.measure("small", rounds=2)
    assert set(row) == set(monitor.COLUMNS)
    assert float(row["without_ms"]) > 0
    assert float(row["interval_end_ms"]) > 0


def test_the_stages_of_degradations_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(degradations, "ROUNDS", 1)
    monkeypatch.setattr(degradations, "MIXED", 1)
    out = tmp_path / "degradations.csv"
    monkeypatch.setattr("sys.argv", ["degradations.py", "--batch", "1", "--side", "32", "--out", str(out)])
    degradations.main()
    rows = rows_of(out)
    assert {"blur", "JPEG", "second-order as a whole"} <= {row["stage"] for row in rows}
    assert all(float(row["ms"]) >= 0 for row in rows)


def test_the_cost_of_a_preset_is_measured():
    row = presets.measure("mlp", seconds=0.1)
    assert set(row) == set(presets.COLUMNS)
    assert float(row["hours"]) > 0


@pytest.mark.parametrize(
    ("name", "loss", "options"),
    [
        ("dcgan", "wgan-gp", {}),
        ("biggan", "hinge", {"d_norm": "spectral", "attention": 16}),
        ("progan", "non-saturating", {}),
        ("r3gan", "relativistic", {}),
    ],
)
def test_a_family_has_the_gradients_of_the_same_network_in_plain_pytorch(name, loss, options):
    penalties = {} if loss in ("wgan-gp", "hinge") else {"r1_weight": 1.0, "r2_weight": 0.5}
    pair = {"name": name, "width": 16} | options
    verify(Preset(name, 32, pair, loss, {"cpu": 4}, **penalties), "cpu")


def test_plain_networks_have_no_fastgan_node_in_their_graphs():
    preset = Preset("resnet", 32, {"name": "resnet", "width": 4, "d_norm": "spectral"}, "hinge", {"cpu": 2})
    generator, discriminator = networks_of(preset, "cpu")
    with plain_pytorch():
        plain = names(discriminator(generator(torch.randn(2, contestants.LATENT))).sum())
    generator, discriminator = networks_of(preset, "cpu", plain=False)
    ours = names(discriminator(generator(torch.randn(2, contestants.LATENT))).sum())
    assert any("fastgan" in name for name in ours)
    assert not any("fastgan" in name for name in plain)


def names(y):
    """Names of the autograd nodes that y depends on."""
    found, open_ = set(), [y.grad_fn]
    while open_:
        node = open_.pop()
        if node is not None and node not in found:
            found.add(node)
            open_ += [before for before, _ in node.next_functions]
    return {type(node).__name__ for node in found}
