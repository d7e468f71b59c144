#include "model/weights_io.h"

#include <ATen/ATen.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "model/hf_config.h"
#include "tensor/dtype.h"
#include "tensor/tensor_file.h"
#include "util/error.h"
#include "util/random.h"
#include "util/safetensors.h"

namespace dga {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

bool is_ignored(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

/// File name -> tensors that the index says it holds; an empty set where there is no index.
std::map<std::string, std::set<std::string>> weight_files(const std::filesystem::path& folder) {
  std::map<std::string, std::set<std::string>> files;
  const std::filesystem::path index = folder / kIndexFile;
  if (!std::filesystem::exists(index)) {
    DGA_CHECK_INPUT(std::filesystem::exists(folder / kSingleFile), folder.string(), ": has neither ", kSingleFile,
                    " nor ", kIndexFile, "; other weight formats are not supported");
    files[kSingleFile] = {};
    return files;
  }
  const nlohmann::json object = read_json_object(index);
  const auto map = object.find("weight_map");
  DGA_CHECK_INPUT(map != object.end() && map->is_object() && !map->empty(), index.string(),
                  ": weight_map: must be an object of tensor names and file names");
  for (const auto& [tensor, file] : map->items()) {
    DGA_CHECK_INPUT(
        file.is_string() && std::filesystem::path(file.get<std::string>()).filename() == file.get<std::string>(),
        index.string(), ": weight_map: ", tensor, ": must be the name of a file in the folder, got ", file.dump());
    files[file.get<std::string>()].insert(tensor);
  }
  return files;
}

std::string first_of(const std::vector<std::string>& names) {
  std::string text = names.front();
  for (size_t i = 1; i < std::min<size_t>(names.size(), 3); ++i) text += ", " + names[i];
  if (names.size() > 3) text += str(" and ", names.size() - 3, " more");
  return text;
}

class Loader {
 public:
  Loader(std::filesystem::path folder, const std::vector<NamedParameter>& parameters, bool tied)
      : folder_(std::move(folder)), tied_(tied) {
    for (const NamedParameter& parameter : parameters) missing_.emplace(parameter.name, parameter.value);
    if (tied) embedding_ = missing_.at("model.embed_tokens.weight");
  }

  void load() {
    for (const auto& [name, indexed] : weight_files(folder_)) read(folder_ / name, indexed);
    std::vector<std::string> names;
    for (const auto& [name, tensor] : missing_) names.push_back(name);
    DGA_CHECK_INPUT(names.empty(), folder_.string(), ": missing ", first_of(names));
    DGA_CHECK_INPUT(unexpected_.empty(), folder_.string(), ": unexpected ", first_of(unexpected_),
                    "; the shape in config.json has no such weight");
    if (!tied_head_.defined()) return;
    DGA_CHECK_INPUT(tied_head_.equal(embedding_), folder_.string(),
                    ": tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight; set it "
                    "to false in config.json to keep both");
  }

 private:
  void read(const std::filesystem::path& path, const std::set<std::string>& indexed) {
    const SafetensorsFile file(path);
    for (const std::string& name : indexed) {
      DGA_CHECK_INPUT(file.tensors().contains(name), path.string(), ": lacks ", name, ", which ", kIndexFile,
                      " says it holds");
    }
    for (const auto& [name, view] : file.tensors()) {
      if (is_ignored(name)) continue;
      const auto target = missing_.find(name);
      if (target != missing_.end()) {
        copy(path, name, view, target->second);
        missing_.erase(target);
      } else if (tied_ && name == "lm_head.weight") {
        tied_head_ = at::empty_like(embedding_);
        copy(path, name, view, tied_head_);
      } else {
        unexpected_.push_back(name);
      }
    }
  }

  static void copy(const std::filesystem::path& path, const std::string& name, const TensorView& view,
                   const at::Tensor& target) {
    DGA_CHECK_INPUT(view.dtype == "F32" || view.dtype == "F16" || view.dtype == "BF16", path.string(), ": ", name,
                    ": type ", view.dtype, " is not supported; F32, F16 and BF16 are");
    DGA_CHECK_INPUT(at::IntArrayRef(view.shape) == target.sizes(), path.string(), ": ", name, ": shape is ",
                    at::IntArrayRef(view.shape), ", but config.json gives ", target.sizes());
    target.copy_(tensor_of_view(view));
  }

  std::filesystem::path folder_;
  bool tied_;
  std::map<std::string, at::Tensor> missing_;
  std::vector<std::string> unexpected_;
  at::Tensor embedding_, tied_head_;
};

}  // namespace

void load_weights(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
                  bool tie_word_embeddings) {
  const at::NoGradGuard no_grad;
  Loader(folder, parameters, tie_word_embeddings).load();
}

at::ScalarType stored_dtype(const std::filesystem::path& folder) {
  const char* name = "model.embed_tokens.weight";
  for (const auto& [file_name, indexed] : weight_files(folder)) {
    if (!indexed.empty() && !indexed.contains(name)) continue;
    const SafetensorsFile file(folder / file_name);
    const auto found = file.tensors().find(name);
    if (found != file.tensors().end()) return dtype_of_safetensors(found->second.dtype);
  }
  fail(ExitCode::input, folder.string(), ": missing ", name);
}

double largest_logit_difference(const Llama& a, const Llama& b, int64_t length) {
  const at::NoGradGuard no_grad;
  const int64_t vocab_size = a.config().vocab_size;
  const CounterRng random({static_cast<uint64_t>(vocab_size), static_cast<uint64_t>(length)});
  const at::Tensor tokens = at::empty({1, length}, at::kLong);
  for (int64_t t = 0; t < length; ++t) {
    tokens.mutable_data_ptr<int64_t>()[t] =
        static_cast<int64_t>(random.uniform(static_cast<uint64_t>(t)) * static_cast<double>(vocab_size));
  }
  const auto logits = [&](const Llama& model) {
    const at::Tensor hidden = model.forward(tokens.to(model.device()), SequenceLayout::whole_rows(1, length));
    const at::ScalarType dtype = at::promote_types(model.dtype(), at::kFloat);
    return at::linear(hidden.to(dtype), model.output_weight().to(dtype)).to(at::kCPU);
  };
  return (logits(a) - logits(b)).abs().max().item<double>();
}

}  // namespace dga
