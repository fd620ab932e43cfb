// Python module fastgan._cpu. Tensors arrive as addresses: the callers in fastgan/ops/*/cpu.py own and check them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>

#include "fastgan/adam_ema.h"
#include "fastgan/bias_act.h"
#include "fastgan/channel_scale.h"
#include "fastgan/conv_thin.h"
#include "fastgan/filtered_lrelu.h"
#include "fastgan/instance_norm.h"
#include "fastgan/norm_penalty.h"
#include "fastgan/spectral_norm.h"
#include "fastgan/upfirdn2d.h"

namespace py = pybind11;
using namespace fastgan;

namespace {

using Address = std::uintptr_t;

template <class T = const void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class T = const void>
std::vector<T*> at(const std::vector<Address>& addresses) {
  std::vector<T*> found;
  for (const Address address : addresses) found.push_back(at<T>(address));
  return found;
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

  m.def(
      "check_gradients",
      [](const std::vector<Address>& gradients, const std::vector<int64_t>& sizes, int dtype, int threads, Address loss,
         Address divisor, Address found) {
        launch_check_gradients({at(gradients), sizes, static_cast<Dtype>(dtype), threads, at<const float>(loss),
                                at<const float>(divisor), at<float>(found)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "adam_ema",
      [](const std::vector<std::array<Address, 6>>& addresses, const std::vector<int64_t>& sizes, int dtype,
         int threads, double lr, std::array<double, 2> betas, double eps, double ema_weight, Address divisor,
         Address bad) {
        std::vector<AdamTensor> tensors;
        for (size_t i = 0; i < sizes.size(); ++i) {
          const auto [weight, gradient, mean, square, average, step] = addresses.at(i);
          tensors.push_back({at<void>(weight), at(gradient), at<void>(mean), at<void>(square), at<void>(average),
                             at<float>(step), sizes[i]});
        }
        launch_adam_ema({tensors, static_cast<Dtype>(dtype), threads, lr, betas[0], betas[1], eps, ema_weight,
                         at<const float>(divisor), at<const float>(bad)});
      },
      py::call_guard<py::gil_scoped_release>());

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

  py::class_<SpectralLayer>(m, "SpectralLayer")
      .def(py::init([](Address weight, int64_t rows, int64_t columns, int64_t segments, int64_t length, int64_t pixels,
                       bool transposed, int64_t offset) {
        return SpectralLayer{at(weight), rows, columns, segments, length, pixels, transposed, offset};
      }));
  m.def(
      "power_iteration",
      [](const std::vector<SpectralLayer>& layers, int dtype, int threads, int iterations, bool v_first, double eps,
         Address uv, Address sigma) {
        launch_power_iteration({layers, static_cast<Dtype>(dtype), threads, iterations, v_first, eps, at<void>(uv),
                                at<void>(sigma)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "spectral_scale",
      [](const std::vector<Address>& weights, const std::vector<Address>& scaled, const std::vector<int64_t>& sizes,
         int dtype, int threads, Address sigma) {
        launch_spectral_scale(
            {at(weights), at<void>(scaled), sizes, static_cast<Dtype>(dtype), threads, at(sigma)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "spectral_scale_grad",
      [](const std::vector<SpectralLayer>& layers, const std::vector<Address>& dy, const std::vector<Address>& dw,
         int dtype, int threads, Address uv, Address sigma) {
        launch_spectral_scale_grad(
            {layers, at(dy), at<void>(dw), static_cast<Dtype>(dtype), threads, at(uv), at(sigma)});
      },
      py::call_guard<py::gil_scoped_release>());

  m.def(
      "scaled",
      [](const BiasActShape& shape, double alpha, double gain, double clamp, bool one_noise, Address x, Address scale,
         Address noise, Address bias, Address y) {
        launch_scaled({shape, {alpha, gain, clamp}, one_noise, at(x), at(scale), at(noise), at(bias), at<void>(y)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "scaled_grad",
      [](const BiasActShape& shape, double alpha, double gain, double clamp, Address dy, Address saved, Address x,
         Address scale, Address dx, Address dscale, Address dnoise, Address db) {
        launch_scaled_grad({shape, {alpha, gain, clamp}, at(dy), at(saved), at(x), at(scale), at<void>(dx),
                            at<void>(dscale), at<void>(dnoise), at<void>(db)});
      },
      py::call_guard<py::gil_scoped_release>());

  m.def(
      "instance_norm",
      [](const BiasActShape& shape, double alpha, double epsilon, Address x, Address y, Address mean, Address scale) {
        launch_instance_norm({shape, alpha, epsilon, at(x), at<void>(y), at<void>(mean), at<void>(scale)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "instance_norm_grad",
      [](const BiasActShape& shape, double alpha, Address dy, Address x, Address mean, Address scale, Address dx) {
        launch_instance_norm_grad({shape, alpha, at(dy), at(x), at(mean), at(scale), at<void>(dx)});
      },
      py::call_guard<py::gil_scoped_release>());

  py::class_<SampleShape>(m, "SampleShape").def(py::init([](int64_t samples, int64_t size, int dtype, int threads) {
    return SampleShape{samples, size, static_cast<Dtype>(dtype), threads};
  }));
  m.def(
      "norm_penalty",
      [](const SampleShape& shape, std::optional<double> target, Address g, Address value, Address slope,
         Address norm) {
        launch_norm_penalty({shape, target.has_value(), target.value_or(0), at(g), at<void>(value), at<void>(slope),
                             at<void>(norm)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "sample_scale",
      [](const SampleShape& shape, Address a, Address c, Address y) {
        launch_sample_scale({shape, at(a), at(c), at<void>(y)});
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "sample_dot",
      [](const SampleShape& shape, Address a, Address b, Address dot) {
        launch_sample_dot({shape, at(a), at(b), at<void>(dot)});
      },
      py::call_guard<py::gil_scoped_release>());

  using Pair = std::array<int64_t, 2>;
  py::class_<UpfirdnShape>(m, "UpfirdnShape")
      .def(py::init([](std::array<int64_t, 4> x, Pair out, Pair taps, Pair up, Pair down, Pair before, bool separable,
                       bool flip, double gain, bool channels_last, int dtype, int threads) {
        return UpfirdnShape{x[0], x[1], x[2], x[3], {out[0], out[1]}, {taps[0], taps[1]}, {up[0], up[1]},
                            {down[0], down[1]}, {before[0], before[1]}, separable, flip, gain, channels_last,
                            static_cast<Dtype>(dtype), threads};
      }));
  m.def(
      "upfirdn2d",
      [](const UpfirdnShape& shape, Address x, Address filter, Address y) {
        launch_upfirdn2d({shape, at(x), at(filter), at<void>(y)});
      },
      py::call_guard<py::gil_scoped_release>());

  py::class_<FilteredShape>(m, "FilteredShape")
      .def(py::init([](std::array<int64_t, 4> x, Pair high, Pair out, Pair taps, Pair up, Pair down, Pair first_before,
                       Pair second_before, bool flip, bool linear, double first_gain, double gain, double slope,
                       double clamp, bool channels_last, int threads) {
        return FilteredShape{x[0], x[1], x[2], x[3], {high[0], high[1]}, {out[0], out[1]}, {taps[0], taps[1]},
                             {up[0], up[1]}, {down[0], down[1]}, {first_before[0], first_before[1]},
                             {second_before[0], second_before[1]}, flip, linear, first_gain, gain, slope, clamp,
                             channels_last, threads};
      }));
  m.def(
      "filtered_lrelu",
      [](const FilteredShape& shape, Address x, Address bias, Address first, Address second, Address masks, Address y) {
        launch_filtered_lrelu({shape, at<const float>(x), at<const float>(bias), at<const float>(first),
                               at<const float>(second), at<uint8_t>(masks), at<float>(y)});
      },
      py::call_guard<py::gil_scoped_release>());

  m.attr("THIN") = kThin;
  m.attr("LANES") = kLanes;
  m.def(
      "conv_thin_grad",
      [](std::array<int64_t, 4> dx_size, std::array<int64_t, 3> dy_size, Pair kernel, Pair stride, Pair padding,
         Pair dilation, int threads, Address dy, Address weight, Address dx) {
        const auto [n, c, h, w] = dx_size;
        const auto [k, p, q] = dy_size;
        launch_conv_thin_grad({n, c, h, w, k, p, q, {kernel[0], kernel[1]}, {stride[0], stride[1]},
                               {padding[0], padding[1]}, {dilation[0], dilation[1]}, threads, at<const float>(dy),
                               at<const float>(weight), at<float>(dx)});
      },
      py::call_guard<py::gil_scoped_release>());
}
