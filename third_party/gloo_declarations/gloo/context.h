// The names of gloo that ProcessGroupGloo.hpp of LibTorch mentions: the wheel ships that header and the compiled
// library, but none of gloo's own headers. Only declarations; src/dist uses nothing of gloo but through LibTorch.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
