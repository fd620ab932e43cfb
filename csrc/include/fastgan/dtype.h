// Element types of the Python interface, as small integers shared with fastgan/_util/native.py.
#pragma once

namespace fastgan {

enum class Dtype : int { float32 = 0, float64 = 1 };

}  // namespace fastgan
