#include "data/problems.h"

#include <numeric>

#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {
constexpr int64_t kLoggedEach = 10;  // a set with a million broken lines must not fill the disk with its log
}

const char* name_of(ProblemKind kind) {
  switch (kind) {
    case ProblemKind::damaged_file:
      return "damaged_file";
    case ProblemKind::long_line:
      return "long_line";
    case ProblemKind::invalid_utf8:
      return "invalid_utf8";
    case ProblemKind::invalid_json:
      return "invalid_json";
    case ProblemKind::missing_text:
      return "missing_text";
    case ProblemKind::empty_document:
      return "empty_document";
  }
  return "?";
}

int64_t total(const ProblemCounts& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

std::string describe(const ProblemCounts& counts) {
  std::string text;
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    if (counts[kind] == 0) continue;
    text += str(text.empty() ? "" : ", ", counts[kind], " ", name_of(static_cast<ProblemKind>(kind)));
  }
  return text.empty() ? "none" : text;
}

ProblemLog::~ProblemLog() {
  for (size_t kind = 0; kind < kProblemKinds; ++kind) {
    if (counts_[kind] > kLoggedEach) {
      log::warning("data: ", counts_[kind], " times ", name_of(static_cast<ProblemKind>(kind)), " in all");
    }
  }
}

void ProblemLog::report(const std::filesystem::path& file, const Problem& problem) {
  const std::string text = str(file.string(), ":", problem.line, ": ", problem.message);
  if (on_error_ == OnError::refuse) fail(ExitCode::input, text, " (data.on_error: skip would leave it out)");
  const std::lock_guard lock(mutex_);
  const int64_t count = ++counts_[static_cast<size_t>(problem.kind)];
  if (count > kLoggedEach) return;
  log::warning(text, "; left out (", name_of(problem.kind),
               count == kLoggedEach ? "; further ones are only counted)" : ")");
}

void ProblemLog::report_earlier(const std::filesystem::path& file, const ProblemCounts& counts, const Problem& first) {
  if (total(counts) == 0) return;
  if (on_error_ == OnError::refuse) {
    fail(ExitCode::input, file.string(), ":", first.line, ": ", first.message,
         " (data.on_error: skip would leave it out)");
  }
  const std::lock_guard lock(mutex_);
  for (size_t kind = 0; kind < kProblemKinds; ++kind) counts_[kind] += counts[kind];
  if (++shards_reported_ > kLoggedEach) return;
  log::warning(file.string(), ": left out when it was tokenised: ", describe(counts), "; the first at line ",
               first.line, ": ", first.message);
}

ProblemCounts ProblemLog::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace dga
