#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace dga {

/// What the process returns; documented in docs/cli.md.
enum class ExitCode : int {
  ok = 0,
  failure = 1,        // an internal error or a failing system call
  usage = 2,          // wrong command line
  config = 3,         // wrong config
  input = 4,          // unusable data, model or checkpoint files
  numerics = 5,       // non-finite loss or gradient norm
  rank = 6,           // another rank of the run failed or disappeared
  interrupted = 130,  // stopped by SIGINT after saving
  terminated = 143,   // stopped by SIGTERM after saving
};

/// The only exception type thrown on purpose: one line that a user can act on, and the exit code it leads to.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::failure)
      : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// Concatenates its arguments as operator<< prints them.
template <class... T>
std::string str(const T&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... T>
[[noreturn]] void fail(ExitCode code, const T&... parts) {
  throw Error(::dga::str(parts...), code);
}

}  // namespace dga

/// Throws dga::Error with the condition's values: DGA_CHECK(rows > 0, "rows must be positive, got ", rows).
#define DGA_CHECK(condition, ...)                                         \
  do {                                                                    \
    if (!(condition)) ::dga::fail(::dga::ExitCode::failure, __VA_ARGS__); \
  } while (false)

/// The same for files a user handed us (exit code 4): data, models, checkpoints.
#define DGA_CHECK_INPUT(condition, ...)                                 \
  do {                                                                  \
    if (!(condition)) ::dga::fail(::dga::ExitCode::input, __VA_ARGS__); \
  } while (false)
