#include <ATen/ATen.h>
#include <unistd.h>

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

/// Parameters in order, cut before the one that would exceed the limit.
std::vector<std::vector<NamedParameter>> make_shards(const std::vector<NamedParameter>& parameters,
                                                     const HfExport& description) {
  std::vector<std::vector<NamedParameter>> shards(1);
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

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

void write_weights(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
                   const HfExport& description) {
  const std::vector<std::vector<NamedParameter>> shards = make_shards(parameters, description);
  nlohmann::json weight_map = nlohmann::json::object();
  int64_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    NamedTensors tensors;
    for (const NamedParameter& parameter : shards[i]) {
      tensors[parameter.name] = parameter.value.detach().to(at::kCPU, description.dtype);
      weight_map[parameter.name] = name;
      total_bytes += written_bytes(parameter.value, description.dtype);
    }
    write_tensors(folder / name, tensors);
  }
  if (shards.size() == 1) return;
  write_json(folder / "model.safetensors.index.json",
             {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}});
}

}  // namespace

void write_hf_files(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
                    const HfExport& description) {
  LlamaConfig config = description.config;
  fill_special_tokens(description.tokenizer_source, config);
  const nlohmann::json attention = description.attention ? attention_json(*description.attention) : nlohmann::json();
  write_json(folder / "config.json", hf_config_json(config, hf_dtype_name(description.dtype), attention));
  write_tokenizer_files(description.tokenizer_source, folder);
  write_weights(folder, parameters, description);
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
