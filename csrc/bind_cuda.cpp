// Python module fastgan._cuda. Importing it neither needs a driver nor creates a context.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "fastgan/device.h"

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
}
