#include "train/config_difference.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "util/error.h"

namespace dga {
namespace {

/// Writes each field's value under its path.
class Flattener final : public config::Fields {
 public:
  std::map<std::string, std::string> values;

  void field(const char* name, bool& value, const char*) override { put(name, value ? "true" : "false"); }
  void field(const char* name, std::string& value, const char*) override { put(name, value); }
  void field(const char* name, int64_t& value, const char*, config::Range) override { put(name, text(value)); }
  void field(const char* name, double& value, const char*, config::Range) override { put(name, text(value)); }
  void field(const char* name, std::vector<std::string>& value, const char*) override { put(name, join(value)); }
  void field(const char* name, std::vector<int64_t>& value, const char*, config::Range) override {
    put(name, join(value));
  }
  void field(const char* name, std::vector<double>& value, const char*, config::Range) override {
    put(name, join(value));
  }
  void field(const char* name, std::optional<int64_t>& value, const char*, config::Range) override {
    put(name, value ? text(*value) : "null");
  }
  void field(const char* name, std::optional<double>& value, const char*, config::Range) override {
    put(name, value ? text(*value) : "null");
  }

 protected:
  void choice(const char* name, size_t& index, const std::vector<std::string>& choices, const char*) override {
    put(name, choices[index]);
  }
  void begin_section(const char* name, const char*) override { path_.push_back(path_of(name)); }
  void end_section() override { path_.pop_back(); }
  size_t begin_list(const char* name, size_t size, const char*) override {
    path_.push_back(path_of(name));
    return size;
  }
  void begin_item(size_t index) override { path_.push_back(str(path_.back(), "[", index, "]")); }
  void end_list() override { path_.pop_back(); }
  void check(const std::function<void(config::Checker&)>&) override {}

 private:
  std::string path_of(const char* name) const { return path_.empty() ? name : path_.back() + "." + name; }
  void put(const char* name, const std::string& value) { values[path_of(name)] = value; }
  static std::string text(const std::string& value) { return value; }
  static std::string text(int64_t value) { return std::to_string(value); }
  static std::string text(double value) {
    char shortest[32];
    return {shortest, std::to_chars(shortest, shortest + sizeof(shortest), value).ptr};
  }
  template <class T>
  static std::string join(const std::vector<T>& values) {
    std::string joined = "[";
    for (size_t i = 0; i < values.size(); ++i) joined += (i == 0 ? "" : ", ") + text(values[i]);
    return joined + "]";
  }

  std::vector<std::string> path_;
};

constexpr const char* kAbsent = "(absent)";

std::string value_or_absent(const std::map<std::string, std::string>& values, const std::string& path) {
  const auto found = values.find(path);
  return found == values.end() ? kAbsent : found->second;
}

}  // namespace

std::map<std::string, std::string> flatten(RunConfig config) {
  Flattener flattener;
  config.fields(flattener);
  return flattener.values;
}

std::vector<ConfigChange> compare_configs(const std::map<std::string, std::string>& before,
                                          const std::map<std::string, std::string>& after) {
  std::map<std::string, std::string> paths = before;
  paths.insert(after.begin(), after.end());
  std::vector<ConfigChange> changes;
  for (const auto& [path, unused] : paths) {
    const ConfigChange change{path, value_or_absent(before, path), value_or_absent(after, path)};
    if (change.before != change.after) changes.push_back(change);
  }
  return changes;
}

bool may_change_on_resume(const std::string& path) {
  static constexpr std::array kFree = {"run.name",
                                       "run.folder",
                                       "run.device",
                                       "log.",
                                       "checkpoint.",
                                       "eval.",
                                       "parallel.threads",
                                       "parallel.shard",
                                       "parallel.bucket_mib",
                                       "parallel.timeout_seconds",
                                       "attention.keep_lists",
                                       "optimizer.offload",
                                       "data.cache",
                                       "data.tokenizer_threads",
                                       "data.skip",
                                       "train.steps",
                                       "train.micro_batch_size",
                                       "train.recompute",  // and train.recompute_layers
                                       "train.keep_attention",
                                       "train.offload",
                                       "train.mlp_tile_tokens",
                                       "train.loss_chunk_tokens",
                                       "train.skip_outliers.",
                                       "train.deterministic"};
  return std::ranges::any_of(kFree, [&](const char* prefix) { return path.starts_with(prefix); });
}

std::vector<ConfigChange> check_resumable(const std::map<std::string, std::string>& saved, const RunConfig& config) {
  std::vector<ConfigChange> allowed;
  std::string refused;
  std::map<std::string, std::string> before = saved;
  before.merge(flatten(RunConfig()));  // a checkpoint of an older version did what a newer field's default says
  for (const ConfigChange& change : compare_configs(before, flatten(config))) {
    if (may_change_on_resume(change.path)) {
      allowed.push_back(change);
    } else {
      refused += str(change.path, " was ", change.before, " in the checkpoint, is now ", change.after, "\n");
    }
  }
  if (refused.empty()) return allowed;
  fail(ExitCode::config, refused,
       "the run cannot go on with these changes, since its numbers would be others; restore the values, or start a "
       "new run with the checkpoint's folder as model.path");
}

}  // namespace dga
