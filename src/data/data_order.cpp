#include "data/data_order.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "util/error.h"
#include "util/hash.h"

namespace dga {
namespace {

constexpr int kOrderVersion = 1;

std::string hash_files(const std::vector<SourceFile>& files) {
  std::string list;
  for (const SourceFile& file : files) list += str(file.path.filename().string(), '\n', file.size_bytes, '\n');
  return hash_hex(list);
}

nlohmann::json optional_number(const std::optional<int64_t>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

}  // namespace

nlohmann::json describe_order(const DataConfig& config, const std::vector<std::vector<SourceFile>>& files,
                              const Tokenizer* tokenizer, const LoaderOptions& options) {
  nlohmann::json order = {{"version", kOrderVersion},
                          {"run.seed", options.seed},
                          {"train.global_batch_size", options.global_batch_size},
                          {"data.context_length", config.context_length},
                          {"data.shuffle_tokens", config.shuffle_tokens},
                          {"data.bos", config.bos},
                          {"data.eos", config.eos},
                          {"data.bos_id", optional_number(config.bos_id)},
                          {"data.eos_id", optional_number(config.eos_id)},
                          {"data.max_line_bytes", config.max_line_bytes},
                          {"data.tokenizer (hash)", tokenizer ? tokenizer->hash() : ""},
                          {"data.sources (number)", config.sources.size()}};
  for (size_t i = 0; i < config.sources.size(); ++i) {
    const SourceConfig& source = config.sources[i];
    const std::string path = str("data.sources[", i, "].");
    order[path + "name"] = source.name;
    order[path + "format"] = config::name_of(source.format);
    order[path + "text_field"] = source.text_field;
    order[path + "weight"] = source.weight;
    order[path + "min_tokens"] = source.min_tokens;
    order[path + "upsample_min_tokens"] = optional_number(source.upsample_min_tokens);
    order[path + "upsample_factor"] = source.upsample_factor;
    order[path + "separator"] = optional_number(source.separator);
    order[path + "paths (number of files)"] = files[i].size();
    order[path + "paths (hash of file names and sizes)"] = hash_files(files[i]);
  }
  return order;
}

void require_same_order(const nlohmann::json& saved, const nlohmann::json& now) {
  std::set<std::string> keys;
  for (const auto& [key, value] : saved.items()) keys.insert(key);
  for (const auto& [key, value] : now.items()) keys.insert(key);
  std::string differences;
  for (const std::string& key : keys) {
    const nlohmann::json before = saved.value(key, nlohmann::json());
    const nlohmann::json after = now.value(key, nlohmann::json());
    if (before != after) differences += str("\n  ", key, ": was ", before.dump(), ", is ", after.dump());
  }
  if (differences.empty()) return;
  fail(ExitCode::config, "the data cannot be resumed where it was, because its order has changed:", differences);
}

}  // namespace dga
