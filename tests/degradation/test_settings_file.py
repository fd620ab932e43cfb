"""Settings from files: with the names of the fields, and as Real-ESRGAN writes them."""

import pytest

from fastgan.degradation import Degradation, Settings, read_settings
from fastgan.errors import UsageError

#: In the layout of Real-ESRGAN's option files.
PUBLIC = """
name: train_x4plus
model_type: RealESRGANModel
scale: 4
gaussian_noise_prob2: 0.25
jpeg_range: [10, 40]
queue_size: 180
datasets:
  train:
    name: DF2K
    blur_kernel_size: 15
    kernel_list2: ['plateau_iso', 'iso']
    kernel_prob2: [0.25, 0.75]
    final_sinc_prob: 1
    gt_size: 256
network_g: {type: RRDBNet}
"""


def written(tmp_path, text, name="options.yml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_public_option_files_are_read(tmp_path):
    expected = Settings(
        gaussian_noise_prob2=0.25, jpeg_range=(10, 40), blur_kernel_size=15, final_sinc_prob=1,
        kernel_prob2=(0.75, 0.0, 0.0, 0.0, 0.25, 0.0),
    )  # fmt: skip
    path = written(tmp_path, PUBLIC)
    assert read_settings(path) == expected
    made = Degradation(4, path)
    assert (made.kind, made.settings) == ("second-order", expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.yaml", "noise_range: [0, 5]\nresize_modes: [area, bicubic-antialias]"),
        ("s.toml", 'noise_range = [0, 5]\nresize_modes = ["area", "bicubic-antialias"]'),
        ("s.json", '{"noise_range": [0, 5], "resize_modes": ["area", "bicubic-antialias"]}'),
    ],
)
def test_files_of_settings_alone(tmp_path, name, text):
    assert read_settings(written(tmp_path, text, name)) == Settings(
        noise_range=(0, 5), resize_modes=("area", "bicubic-antialias")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jpeg_rnage: [1, 2]", "has the unknown setting 'jpeg_rnage'; did you mean 'jpeg_range'?"),
        ("scale: 4", "has the unknown setting 'scale'"),
        ("jpeg_range: 30", r"jpeg_range: expected a value such as \[30.0, 95.0\] in .*, got 30"),
        ("sinc_prob: [0.1]", r"sinc_prob: expected a value such as 0.1 in .*, got \[0.1\]"),
        ("sinc_prob: often", "sinc_prob: expected a value such as 0.1 in .*, got 'often'"),
        ("sinc_prob: true", "sinc_prob: expected a value such as 0.1 in .*, got True"),
        ("resize_modes: [area, 3]", "resize_modes: expected a value such as"),
        ("jpeg_range: [95, 30]", "jpeg_range: expected two rising numbers from 1 to 100"),
        (
            "kernel_list: [iso]\nkernel_prob: [0.5, 0.5]",
            "kernel_prob: expected a weight for each kernel of kernel_list",
        ),
        ("kernel_list: [round]\nkernel_prob: [0.5]", "kernel_prob: expected a weight for each kernel of kernel_list"),
        ("model_type: A\njpeg_range22: [1, 2]", "has the unknown setting 'jpeg_range22'"),
        ("- 1", "degradation: expected a table of settings in .*, got list"),
        ("a: [", "degradation: .*options.yml cannot be parsed"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, expected):
    with pytest.raises(UsageError, match=expected):
        Degradation(2, written(tmp_path, text))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"degradation: .*none.yml cannot be read: No such file or directory"):
        Degradation(2, str(tmp_path / "none.yml"))
