// In the place of libcuda: remembers the last launch, and fails where a test asks for it.
#include <cstdio>
#include <cstring>

namespace {

int depth = 0;  // of the stack of contexts
char context, module, function;
char last[256];
unsigned char structure[16];

int launch(const char* kind, void* f, const unsigned* sizes, void* stream, void** arguments) {
  if (depth != 1) return 201;
  std::memcpy(structure, arguments[0], sizeof structure);
  std::snprintf(last, sizeof last, "%s %d %u,%u,%u %u,%u,%u %u %p", kind, f == &function, sizes[0], sizes[1], sizes[2],
                sizes[3], sizes[4], sizes[5], sizes[6], stream);
  return 0;
}

}  // namespace

extern "C" {

const char* last_launch() { return last; }
const unsigned char* last_structure() { return structure; }
int contexts() { return depth; }

int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int* device, int index) {
  *device = index + 100;
  return index > 1 ? 101 : 0;
}
int cuDevicePrimaryCtxRetain(void** result, int device) {
  *result = &context;
  return device == 101 ? 0 : 1;
}
int cuCtxPushCurrent_v2(void* pushed) {
  ++depth;
  return pushed == &context ? 0 : 201;
}
int cuCtxPopCurrent_v2(void** popped) {
  *popped = &context;
  --depth;
  return 0;
}
int cuModuleLoadData(void** result, const void* image) {
  *result = &module;
  return std::strcmp(static_cast<const char*>(image), "code") ? 200 : 0;
}
int cuModuleGetFunction(void** result, void* from, const char* name) {
  *result = &function;
  return from == &module && !std::strcmp(name, "kernel") ? 0 : 500;
}
int cuFuncSetAttribute(void* f, int attribute, int value) {
  return f == &function && attribute == 8 && value <= 1000 ? 0 : 1;
}
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
  const unsigned sizes[] = {gx, gy, gz, bx, by, bz, shared};
  return extra ? 1 : launch("usual", f, sizes, stream, arguments);
}
int cuLaunchCooperativeKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                              unsigned shared, void* stream, void** arguments) {
  const unsigned sizes[] = {gx, gy, gz, bx, by, bz, shared};
  return bx > 1024 ? 720 : launch("cooperative", f, sizes, stream, arguments);
}
int cuGetErrorString(int error, const char** text) {
  *text = error == 720 ? "too many blocks" : error == 500 ? "not found" : "some error";
  return 0;
}

}  // extern "C"
