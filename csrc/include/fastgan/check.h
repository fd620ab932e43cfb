// Argument checks for code that knows no PyTorch: the exception becomes a Python RuntimeError in the binding.
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
