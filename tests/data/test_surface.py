import subprocess
import sys

import fastgan.data


def test_names_are_sorted_and_there():
    assert fastgan.data.__all__ == sorted(fastgan.data.__all__) == ["ImageSet", "fetch", "known", "open_source"]
    assert all(hasattr(fastgan.data, name) for name in fastgan.data.__all__)


def test_import_needs_no_torch():
    code = "import sys, fastgan.data; sys.exit(any(m.split('.')[0] in ('torch', 'triton') for m in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
