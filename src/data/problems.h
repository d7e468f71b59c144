#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>

#include "data/config.h"

namespace dga {

/// What can be wrong with text files.
enum class ProblemKind { damaged_file, long_line, invalid_utf8, invalid_json, missing_text, empty_document };
constexpr size_t kProblemKinds = 6;
/// "damaged_file", "long_line", ...
const char* name_of(ProblemKind kind);

/// One line that cannot be used, or the place from which a file is damaged.
struct Problem {
  ProblemKind kind;
  int64_t line = 0;  // from 1
  std::string message;
};

using ProblemCounts = std::array<int64_t, kProblemKinds>;
int64_t total(const ProblemCounts& counts);
/// "2 invalid_json, 1 empty_document"
std::string describe(const ProblemCounts& counts);

/// Treats problems as data.on_error says. Safe to call from several threads.
class ProblemLog {
 public:
  explicit ProblemLog(OnError on_error) : on_error_(on_error) {}
  /// Logs the totals of the kinds that had more problems than were logged one by one.
  ~ProblemLog();

  /// Counts the problem and logs the first few of its kind. Under `refuse` throws it as an input error.
  void report(const std::filesystem::path& file, const Problem& problem);
  /// The same for what a token shard made earlier left out: logs one line.
  void report_earlier(const std::filesystem::path& file, const ProblemCounts& counts, const Problem& first);
  ProblemCounts counts() const;

 private:
  OnError on_error_;
  mutable std::mutex mutex_;
  ProblemCounts counts_{};
  int64_t shards_reported_ = 0;
};

}  // namespace dga
