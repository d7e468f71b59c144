#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/tensor_file.h"
#include "util/share.h"

namespace dga {

/// Some numbers of a tensor of the optimizer's state, or all of them.
struct TensorPiece {
  std::string name;            // of the whole tensor, as "exp_avg.model.norm.weight"
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t first = 0;           // of its numbers in the order that they are stored
  TensorSource numbers;        // [n], or the whole tensor
};

/// Writes optimizer.safetensors of one process, with whole tensors; or that of one of several ranks,
/// optimizer-0000R-of-0000W.safetensors, where a piece is the tensor NAME@FIRST and the file's metadata has the shape
/// of NAME. Synced.
void write_state_file(const std::filesystem::path& folder, const Share& rank, const std::vector<TensorPiece>& pieces);

/// The optimizer's state in a checkpoint, in whatever way it is cut into pieces and files, as whole tensors. The files
/// are mapped: only the numbers that are asked for are read. Throws an input error naming a file that is missing or
/// damaged; reading does for a tensor that lacks numbers.
SavedTensors open_state_files(const std::filesystem::path& checkpoint);

}  // namespace dga
