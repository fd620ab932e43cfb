// Python module fastgan._cpu. Tensors arrive as addresses: the callers in fastgan/ops/*/cpu.py own and check them.
#include <pybind11/pybind11.h>

#include "fastgan/bias_act.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

using Address = std::uintptr_t;

template <class T = const void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

const char* instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
  return "sse2";
#else
  return "baseline";
#endif
}

bool threaded() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "fastgan's CPU kernels";
  m.def("instruction_set", &instruction_set, "The widest vector code that this processor runs");
  m.def("threaded", &threaded, "Whether the kernels were built with OpenMP");

  py::class_<BiasActShape>(m, "BiasActShape")
      .def(py::init([](int64_t images, int64_t channels, int64_t pixels, bool channels_last, int dtype, int threads) {
        return BiasActShape{images, channels, pixels, channels_last, static_cast<Dtype>(dtype), threads};
      }));
  py::class_<BiasActOptions>(m, "BiasActOptions").def(py::init([](int act, double alpha, double gain, double clamp) {
    return BiasActOptions{static_cast<Act>(act), alpha, gain, clamp};
  }));
  m.def(
      "bias_act",
      [](const BiasActShape& shape, const BiasActOptions& options, Address x, Address bias, Address y) {
        launch_bias_act({shape, options, at(x), at(bias), at<void>(y)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "bias_act_grad",
      [](const BiasActShape& shape, const BiasActOptions& options, Address dy, Address saved, Address bias, Address dx,
         Address db) {
        launch_bias_act_grad({shape, options, at(dy), at(saved), at(bias), at<void>(dx), at<void>(db)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "bias_act_grad_grad",
      [](const BiasActShape& shape, const BiasActOptions& options, Address ddx, Address dy, Address saved, Address bias,
         Address ddy, Address dsaved) {
        launch_bias_act_grad_grad(
            {shape, options, at(ddx), at(dy), at(saved), at(bias), at<void>(ddy), at<void>(dsaved)});
      },
      py::call_guard<py::gil_scoped_release>());
}
