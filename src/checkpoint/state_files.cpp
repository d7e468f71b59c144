#include "checkpoint/state_files.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "tensor/dtype.h"
#include "util/error.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr const char* kWholeName = "optimizer.safetensors";
constexpr const char* kShapes = "shapes";  // in the metadata: a JSON object

std::string file_name(const Share& rank) {
  if (rank.count == 1) return kWholeName;
  char name[96];
  std::snprintf(name, sizeof(name), "optimizer-%05lld-of-%05lld.safetensors", static_cast<long long>(rank.index + 1),
                static_cast<long long>(rank.count));
  return name;
}

/// The number of files that the name of one of several tells; 0 for other names.
int64_t count_of_files(const std::string& name) {
  long long index = 0, count = 0;
  if (std::sscanf(name.c_str(), "optimizer-%lld-of-%lld.safetensors", &index, &count) != 2) return 0;
  return name == file_name({index - 1, count}) ? count : 0;
}

std::vector<std::string> state_file_names(const fs::path& checkpoint) {
  int64_t count = 1;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint)) {
    count = std::max(count, count_of_files(entry.path().filename().string()));
  }
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(file_name({i, count}));
  return names;
}

/// NAME and FIRST of a tensor in a file.
std::pair<std::string, int64_t> split_name(const std::string& text, const fs::path& file) {
  const size_t at = text.rfind('@');
  if (at == std::string::npos) return {text, 0};
  int64_t first = -1;
  const char* end = text.data() + text.size();
  const auto [last, failure] = std::from_chars(text.data() + at + 1, end, first);
  DGA_CHECK_INPUT(failure == std::errc() && last == end && first >= 0, file.string(), ": \"", text,
                  "\" is no piece of a tensor");
  return {text.substr(0, at), first};
}

/// A tensor whose pieces lie in several files.
struct CutTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::map<int64_t, at::Tensor> pieces;  // by the first number; flat views of the files

  int64_t count() const { return c10::multiply_integers(shape); }

  /// Numbers [begin, end): a view where one piece has them all.
  at::Tensor read(int64_t begin, int64_t end) const {
    std::vector<at::Tensor> parts;
    auto piece = pieces.upper_bound(begin);
    if (piece != pieces.begin()) --piece;
    for (int64_t at = begin; at < end; ++piece) {
      const bool covers = piece != pieces.end() && piece->first <= at && at < piece->first + piece->second.numel();
      DGA_CHECK_INPUT(covers, "optimizer state ", name, " lacks number ", at, " of ", count());
      const int64_t first = at - piece->first, last = std::min(end - piece->first, piece->second.numel());
      parts.push_back(piece->second.slice(0, first, last));
      at = piece->first + last;
    }
    return parts.size() == 1 ? parts.front() : at::cat(parts);
  }
};

class StateFiles {
 public:
  void open(const fs::path& path) {
    files_.push_back(std::make_shared<const SafetensorsFile>(path));
    const nlohmann::json shapes = shapes_in(*files_.back());
    for (const auto& [text, view] : files_.back()->tensors()) {
      const auto [name, first] = split_name(text, path);
      std::vector<int64_t> shape = view.shape;
      if (text != name) {
        DGA_CHECK_INPUT(shapes.contains(name), path.string(), ": the shape of ", name, " is missing");
        shapes.at(name).get_to(shape);
      }
      add(name, shape, first, tensor_of_view(view).view(-1), path);
    }
  }

  SavedTensors saved() const {
    SavedTensors saved;
    for (const auto& [name, tensor] : tensors_) {
      saved[name] = {
          tensor->pieces.begin()->second.scalar_type(), tensor->shape,
          [tensor = tensor, files = files_](int64_t begin, int64_t end) { return tensor->read(begin, end); }};
    }
    return saved;
  }

 private:
  static nlohmann::json shapes_in(const SafetensorsFile& file) {
    const auto found = file.metadata().find(kShapes);
    if (found == file.metadata().end()) return nlohmann::json::object();
    return nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  }

  void add(const std::string& name, const std::vector<int64_t>& shape, int64_t first, const at::Tensor& numbers,
           const fs::path& path) {
    std::shared_ptr<CutTensor>& tensor = tensors_[name];
    if (!tensor) tensor = std::make_shared<CutTensor>(CutTensor{name, shape, {}});
    const bool fits = tensor->shape == shape && first + numbers.numel() <= tensor->count() &&
                      (tensor->pieces.empty() || tensor->pieces.begin()->second.scalar_type() == numbers.scalar_type());
    DGA_CHECK_INPUT(fits, path.string(), ": ", name, " differs in shape or type from its pieces in other files");
    tensor->pieces.emplace(first, numbers);
  }

  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, std::shared_ptr<CutTensor>> tensors_;
};

}  // namespace

void write_state_file(const fs::path& folder, const Share& rank, const std::vector<TensorPiece>& pieces) {
  std::map<std::string, TensorSource> tensors;
  nlohmann::json shapes = nlohmann::json::object();
  for (const TensorPiece& piece : pieces) {
    if (piece.numbers.shape == piece.shape) {
      tensors[piece.name] = piece.numbers;
      continue;
    }
    tensors[str(piece.name, "@", piece.first)] = piece.numbers;
    shapes[piece.name] = piece.shape;
  }
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (!shapes.empty()) metadata[kShapes] = shapes.dump();
  write_tensors(folder / file_name(rank), tensors, metadata);
}

SavedTensors open_state_files(const fs::path& checkpoint) {
  StateFiles files;
  for (const std::string& name : state_file_names(checkpoint)) files.open(checkpoint / name);
  return files.saved();
}

}  // namespace dga
