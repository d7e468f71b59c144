#include "dist/agreement.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include "dist/together.h"
#include "util/error.h"
#include "util/file.h"
#include "util/process.h"

namespace dga {
namespace {

constexpr size_t kReported = 5;
constexpr const char* kAbsent = "(absent)";
constexpr const char* kSharedToken = ".shared-";
constexpr auto kRetryDelay = std::chrono::milliseconds(100);

// Between a name and its value, and after a value.
constexpr char kUnit = '\x1f', kRecord = '\x1e';

std::string encode(const Facts& facts) {
  std::string text;
  for (const auto& [name, value] : facts) text += name + kUnit + value + kRecord;
  return text;
}

Facts decode(const std::string& text) {
  Facts facts;
  for (size_t at = 0; at < text.size();) {
    const size_t middle = text.find(kUnit, at), end = text.find(kRecord, middle);
    facts.emplace_back(text.substr(at, middle - at), text.substr(middle + 1, end - middle - 1));
    at = end + 1;
  }
  return facts;
}

std::string value_of(const std::map<std::string, std::string>& facts, const std::string& name) {
  const auto found = facts.find(name);
  return found == facts.end() ? kAbsent : found->second;
}

/// What the ranks' facts differ in, a line each; the facts come after the rank's host.
std::vector<std::string> differences(const std::vector<Facts>& of_ranks) {
  std::vector<std::map<std::string, std::string>> values;
  for (const Facts& facts : of_ranks) values.emplace_back(facts.begin() + 1, facts.end());
  const auto where = [&](size_t rank) { return str("on rank ", rank, " (", of_ranks[rank][0].second, ")"); };
  std::vector<std::string> lines;
  std::map<std::string, bool> reported;
  for (size_t rank = 1; rank < of_ranks.size(); ++rank) {
    for (const size_t side : {size_t{0}, rank}) {  // names that only one of the two has
      for (size_t i = 1; i < of_ranks[side].size(); ++i) {
        const std::string& name = of_ranks[side][i].first;
        const std::string first = value_of(values[0], name), other = value_of(values[rank], name);
        if (first == other || std::exchange(reported[name], true)) continue;
        lines.push_back(str(name, " is ", first, " ", where(0), " and ", other, " ", where(rank)));
      }
    }
  }
  return lines;
}

}  // namespace

void require_agreement(Communicator& ranks, const Facts& facts) {
  Facts own = {{"host", host_name()}};
  own.insert(own.end(), facts.begin(), facts.end());
  std::vector<Facts> of_ranks;
  for (const std::string& text : ranks.exchange("agreement", encode(own))) of_ranks.push_back(decode(text));
  const std::vector<std::string> lines = differences(of_ranks);
  if (lines.empty()) return;
  std::string message;
  for (size_t i = 0; i < std::min(lines.size(), kReported); ++i) message += lines[i] + "\n";
  if (lines.size() > kReported) message += str("and ", lines.size() - kReported, " more\n");
  fail(ExitCode::config, message, "the ranks of a run must have the same config, data and build");
}

void require_shared_folder(Communicator& ranks, const std::filesystem::path& folder,
                           std::chrono::milliseconds patience) {
  std::filesystem::path token;
  run_on_first(ranks, "shared folder/make", [&] {
    std::filesystem::create_directories(folder);
    for (const auto& entry :
         std::filesystem::directory_iterator(folder)) {  // of a rank that ended before it cleaned up
      if (entry.path().filename().string().starts_with(kSharedToken)) std::filesystem::remove(entry.path());
    }
    token = folder / str(kSharedToken, std::random_device()());
    write_file_atomic(token, "seen by all ranks?\n");
  });
  const std::string name = ranks.exchange("shared folder/token", token.filename().string())[0];
  const auto begin = std::chrono::steady_clock::now();
  bool seen = false;
  while (!(seen = std::filesystem::exists(folder / name)) && std::chrono::steady_clock::now() - begin < patience) {
    std::this_thread::sleep_for(kRetryDelay);
  }
  const std::vector<std::string> answers =
      ranks.exchange("shared folder/seen", seen ? "" : str(folder.string(), " of ", host_name()));
  if (ranks.is_first()) std::filesystem::remove(token);
  for (size_t rank = 1; rank < answers.size(); ++rank) {
    if (answers[rank].empty()) continue;
    fail(ExitCode::config, "run.folder: rank ", rank, " does not see in ", answers[rank],
         " what rank 0 writes; it must be a folder that all hosts share");
  }
}

}  // namespace dga
