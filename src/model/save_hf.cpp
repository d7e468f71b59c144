#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "model/attention_record.h"
#include "model/hf_config.h"
#include "model/tokenizer_files.h"
#include "model/weights_io.h"
#include "tensor/dtype.h"
#include "tensor/tensor_file.h"
#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace {

/// A folder that vanishes again unless it was kept.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {
    std::filesystem::create_directories(path_.parent_path());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directory(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!kept_) std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  void keep_as(const std::filesystem::path& name) {
    sync_path(path_);
    rename_synced(path_, name);
    kept_ = true;
  }

 private:
  std::filesystem::path path_;
  bool kept_ = false;
};

void write_json(const std::filesystem::path& path, const nlohmann::json& object) {
  OutputFile out(path);
  out.write(object.dump(2) + "\n");
  out.close_synced();
}

int64_t written_bytes(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.numel() * static_cast<int64_t>(c10::elementSize(dtype));
}

using Shards = std::vector<std::vector<NamedParameter>>;

/// Parameters in order, cut before the one that would exceed the limit.
Shards cut_at_limit(const std::vector<NamedParameter>& parameters, const HfExport& description) {
  Shards shards(1);
  int64_t size = 0;
  for (const NamedParameter& parameter : parameters) {
    const int64_t added = written_bytes(parameter.value, description.dtype);
    if (size > 0 && size + added > description.max_shard_bytes) {
      shards.emplace_back();
      size = 0;
    }
    shards.back().push_back(parameter);
    size += added;
  }
  return shards;
}

/// Parameters in order, as equally as they can be cut into the least multiple of `writers` files whose mean size is
/// within the limit. A parameter goes where its middle lies; a file that none goes to is left out.
Shards cut_equally(const std::vector<NamedParameter>& parameters, const HfExport& description, int64_t writers) {
  int64_t total = 0;
  for (const NamedParameter& parameter : parameters) total += written_bytes(parameter.value, description.dtype);
  const int64_t count = writers * std::max<int64_t>(1, (total - 1) / (writers * description.max_shard_bytes) + 1);
  const double file_bytes = static_cast<double>(total) / static_cast<double>(count);
  Shards shards(static_cast<size_t>(count));
  int64_t before = 0;
  for (const NamedParameter& parameter : parameters) {
    const int64_t size = written_bytes(parameter.value, description.dtype);
    const double middle = static_cast<double>(before) + static_cast<double>(size) / 2;
    shards[std::min(shards.size() - 1, static_cast<size_t>(middle / file_bytes))].push_back(parameter);
    before += size;
  }
  std::erase_if(shards, [](const auto& shard) { return shard.empty(); });
  return shards;
}

Shards make_shards(const std::vector<NamedParameter>& parameters, const HfExport& description, const Share& share) {
  return share.count == 1 ? cut_at_limit(parameters, description) : cut_equally(parameters, description, share.count);
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

void write_weights(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
                   const HfExport& description, const Share& share) {
  const Shards shards = make_shards(parameters, description, share);
  nlohmann::json weight_map = nlohmann::json::object();
  int64_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    const bool writes = share.has(static_cast<int64_t>(i));
    NamedTensors tensors;
    for (const NamedParameter& parameter : shards[i]) {
      if (writes) tensors[parameter.name] = parameter.value.detach().to(at::kCPU, description.dtype);
      weight_map[parameter.name] = name;
      total_bytes += written_bytes(parameter.value, description.dtype);
    }
    if (writes) write_tensors(folder / name, tensors);
  }
  if (shards.size() == 1 || share.index != 0) return;
  write_json(folder / "model.safetensors.index.json",
             {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}});
}

/// config.json and the tokenizer's files.
void write_description(const std::filesystem::path& folder, const HfExport& description) {
  LlamaConfig config = description.config;
  fill_special_tokens(description.tokenizer_source, config);
  const nlohmann::json attention = description.attention ? attention_json(*description.attention) : nlohmann::json();
  write_json(folder / "config.json", hf_config_json(config, hf_dtype_name(description.dtype), attention));
  write_tokenizer_files(description.tokenizer_source, folder);
}

}  // namespace

void write_hf_files(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
                    const HfExport& description, const Share& share) {
  if (share.index == 0) write_description(folder, description);
  write_weights(folder, parameters, description, share);
}

std::set<std::string> parameters_written(const std::vector<NamedParameter>& parameters, const HfExport& description,
                                         const Share& share) {
  const Shards shards = make_shards(parameters, description, share);
  std::set<std::string> names;
  for (size_t i = 0; i < shards.size(); ++i) {
    if (!share.has(static_cast<int64_t>(i))) continue;
    for (const NamedParameter& parameter : shards[i]) names.insert(parameter.name);
  }
  return names;
}

void save_hf(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
             const HfExport& description) {
  const std::filesystem::path target = std::filesystem::absolute(folder).lexically_normal();
  const std::filesystem::path name = target.has_filename() ? target : target.parent_path();
  DGA_CHECK_INPUT(!std::filesystem::exists(name) || std::filesystem::is_empty(name), name.string(),
                  ": exists and is not empty; remove it or name another folder");
  TemporaryFolder temporary(name.parent_path() / str(".", name.filename().string(), ".tmp-", ::getpid()));
  write_hf_files(temporary.path(), parameters, description);
  temporary.keep_as(name);
}

}  // namespace dga
