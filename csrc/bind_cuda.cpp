// Python module fastgan._cuda. Importing it neither needs a driver nor creates a context.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string_view>

#include "fastgan/device.h"
#include "fastgan/launch.h"

namespace py = pybind11;
using namespace fastgan;

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "fastgan's CUDA C++ part";
  py::class_<CudaDevice>(m, "CudaDevice")
      .def_readonly("index", &CudaDevice::index)
      .def_readonly("name", &CudaDevice::name)
      .def_property_readonly("capability", [](const CudaDevice& d) { return py::make_tuple(d.major, d.minor); })
      .def_readonly("multiprocessors", &CudaDevice::multiprocessors)
      .def_readonly("memory", &CudaDevice::memory, "bytes")
      .def_readonly("l2_cache", &CudaDevice::l2_cache, "bytes");
  m.def("runtime_version", &cuda_runtime_version);
  m.def("driver_version", &cuda_driver_version);
  m.def("devices", &cuda_devices, "All GPUs; empty where no driver is");
  m.def("why_not", &cuda_why_not, py::arg("device"), "Empty when a kernel of this binary runs on the device");
  m.def("prepare", &prepare_cuda_kernel, py::arg("name"), py::arg("device"), py::arg("shared"),
        "Allows a kernel that many bytes of shared memory; raises RuntimeError if it cannot run on the device");
  m.def(
      "launch",
      [](const std::string& name, int device, int grid, int block, int shared, bool cooperative, std::uintptr_t stream,
         const py::bytes& argument) {
        const std::string_view bytes = argument;
        launch_cuda_kernel({name, device, grid, block, shared, cooperative, reinterpret_cast<void*>(stream)},
                           bytes.data(), bytes.size());
      },
      "Launches a kernel with the bytes of its structure");
}
