#include "eval/windows.h"

#include <algorithm>

namespace dga {
namespace {

std::vector<Window> plan_sliding(int64_t tokens, int64_t context_length, int64_t stride) {
  std::vector<Window> windows;
  int64_t scored_end = 0;
  for (int64_t start = 0; scored_end < tokens; start += stride) {
    const int64_t end = std::min(start + context_length, tokens);
    const Window window{start, end - start, std::max(scored_end, start + 1)};
    if (window.scored() > 0) windows.push_back(window);
    scored_end = end;
  }
  return windows;
}

std::vector<Window> plan_longlora(int64_t tokens, int64_t context_length, int64_t stride) {
  std::vector<Window> windows;
  for (int64_t start = 0; start + context_length <= tokens; start += stride) {
    windows.push_back({start, context_length, start + 1});
  }
  return windows;
}

}  // namespace

std::vector<Window> plan_windows(EvalProtocol protocol, int64_t tokens, int64_t context_length, int64_t stride) {
  if (context_length < 2) {
    fail(ExitCode::config, "eval: a context length of ", context_length, " scores nothing; it must be at least 2");
  }
  if (stride < 1 || stride > context_length) {
    fail(ExitCode::config, "eval: a stride of ", stride, " does not fit windows of ", context_length,
         " tokens; it must be between 1 and the context length");
  }
  return protocol == EvalProtocol::sliding ? plan_sliding(tokens, context_length, stride)
                                           : plan_longlora(tokens, context_length, stride);
}

}  // namespace dga
