#include "data/tokenize.h"

#include <chrono>
#include <deque>
#include <memory>
#include <set>
#include <string>

#include "data/source_files.h"
#include "data/token_store.h"
#include "util/timer.h"

namespace dga {
namespace {

constexpr size_t kFilesAtOnce = 4;  // so that the encoders have work while a file begins and while one is synced

std::deque<SourceFile> list_text_files(const std::vector<SourceConfig>& sources, TokenizeProgress& progress) {
  std::deque<SourceFile> files;
  std::set<std::pair<std::string, std::string>> seen;  // two sources may read the same file
  for (const SourceConfig& source : sources) {
    for (SourceFile& file : list_files(source)) {
      if (!file.is_text()) {
        ++progress.bins;
      } else if (seen.emplace(file.path.string(), file.text_field).second) {
        files.push_back(std::move(file));
      }
    }
  }
  progress.files = static_cast<int64_t>(files.size());
  return files;
}

}  // namespace

TokenizeProgress tokenize_sources(const std::vector<SourceConfig>& sources, const DataConfig& data,
                                  std::shared_ptr<const Tokenizer> tokenizer,
                                  const std::function<bool(const TokenizeProgress&)>& report) {
  TokenizeProgress finished;
  std::deque<SourceFile> files = list_text_files(sources, finished);
  TokenStore store(data, std::move(tokenizer));
  std::deque<std::shared_ptr<GrowingShard>> growing;
  Timer since_report;
  while (true) {
    while (!files.empty() && growing.size() < kFilesAtOnce) {
      const std::shared_ptr<TokenFile> file = store.open(files.front());
      files.pop_front();
      if (const auto shard = std::dynamic_pointer_cast<TokenShard>(file)) {
        ++finished.done;
        ++finished.found;
        finished.documents += shard->documents();
        finished.tokens += shard->tokens();
      } else {
        growing.push_back(std::dynamic_pointer_cast<GrowingShard>(file));
      }
    }
    TokenizeProgress now = finished;
    for (auto shard = growing.begin(); shard != growing.end();) {
      // Only the oldest is waited for; the others finish meanwhile.
      const auto limit = std::chrono::milliseconds(shard == growing.begin() ? 50 : 0);
      const GrowingShard::Progress progress = (*shard)->wait(limit);
      const int64_t new_tokens = progress.elsewhere ? 0 : progress.tokens;
      now.documents += progress.documents;
      now.tokens += progress.tokens;
      now.new_tokens += new_tokens;
      if (!progress.done) {
        ++shard;
        continue;
      }
      (*shard)->rethrow_failure();
      ++finished.done;
      ++now.done;
      finished.documents += progress.documents;
      finished.tokens += progress.tokens;
      finished.new_tokens += new_tokens;
      finished.found += progress.elsewhere ? 1 : 0;
      shard = growing.erase(shard);
    }
    now.problems = store.problems();
    const bool end = files.empty() && growing.empty();
    if (end || since_report.seconds() > 0.2) {
      since_report.restart();
      if (!report(now) || end) return now;
    }
  }
}

}  // namespace dga
