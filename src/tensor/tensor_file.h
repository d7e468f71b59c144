#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "util/safetensors.h"

namespace dga {

using NamedTensors = std::map<std::string, at::Tensor>;

/// A CPU tensor that shares the view's bytes (no copy): valid while the mapped file lives, and never to be written.
at::Tensor tensor_of_view(const TensorView& view);

/// The bytes of a contiguous CPU tensor as a view; valid while the tensor lives.
TensorView view_of_tensor(const at::Tensor& tensor);

/// A tensor that is made when it is needed, so that a file can hold more than fits in memory twice.
struct TensorSource {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::function<at::Tensor()> make;  // on any device
};

/// A tensor of a checkpoint, of which parts can be read.
struct SavedTensor {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::function<at::Tensor(int64_t begin, int64_t end)> read;  // its numbers [begin, end), flat, on the CPU
};
using SavedTensors = std::map<std::string, SavedTensor>;
/// Tensors that are there as a whole.
SavedTensors as_saved(const NamedTensors& tensors);

/// Writes and syncs tensors of any device as one safetensors file (not atomically, like write_safetensors).
void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// The same of tensors that are made one at a time.
void write_tensors(const std::filesystem::path& path, const std::map<std::string, TensorSource>& sources,
                   const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// All tensors of a safetensors file, copied into memory of their own on the CPU. Throws as SafetensorsFile does.
NamedTensors read_tensors(const std::filesystem::path& path);

}  // namespace dga
