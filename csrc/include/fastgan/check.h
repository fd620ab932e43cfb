// Argument checks without PyTorch. pybind11 turns the exception into a Python RuntimeError.
#pragma once

#include <sstream>
#include <stdexcept>

#define FASTGAN_CHECK(condition, message)                  \
  do {                                                     \
    if (!(condition)) {                                    \
      std::ostringstream text_;                            \
      text_ << "fastgan: " << message;                     \
      throw std::runtime_error(text_.str());               \
    }                                                      \
  } while (false)
