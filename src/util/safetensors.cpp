#include "util/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "util/error.h"

namespace dga {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100 << 20;  // the limit of the reference implementation

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(count, size, &count)) return -1;
  }
  return count;
}

}  // namespace

int64_t safetensors_element_bytes(const std::string& dtype) {
  static const std::map<std::string, int64_t> kBytes = {{"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4}, {"I32", 4},
                                                        {"U32", 4}, {"F16", 2}, {"BF16", 2}, {"I16", 2}, {"U16", 2},
                                                        {"I8", 1},  {"U8", 1},  {"BOOL", 1}};
  const auto found = kBytes.find(dtype);
  DGA_CHECK_INPUT(found != kBytes.end(), "tensor type ", dtype, " is not supported");
  return found->second;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::span<const std::byte> bytes = file_.bytes();
  const std::string name = path.string();
  DGA_CHECK_INPUT(bytes.size() >= 8, name, ": not a safetensors file (", bytes.size(), " bytes)");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  DGA_CHECK_INPUT(header_bytes <= kMaxHeaderBytes && header_bytes <= bytes.size() - 8, name,
                  ": not a safetensors file, or truncated inside the header");
  const char* begin = reinterpret_cast<const char*>(bytes.data()) + 8;
  const nlohmann::json header = nlohmann::json::parse(begin, begin + header_bytes, nullptr, /*allow_exceptions=*/false);
  DGA_CHECK_INPUT(header.is_object(), name, ": header is not a JSON object");

  const std::span<const std::byte> data = bytes.subspan(8 + header_bytes);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [key, entry] : header.items()) {
    try {
      if (key == "__metadata__") {
        metadata_ = entry.get<std::map<std::string, std::string>>();
        continue;
      }
      TensorView view{entry.at("dtype").get<std::string>(), entry.at("shape").get<std::vector<int64_t>>(), {}};
      const uint64_t first = entry.at("data_offsets").at(0).get<uint64_t>();
      const uint64_t last = entry.at("data_offsets").at(1).get<uint64_t>();
      DGA_CHECK_INPUT(first <= last && last <= data.size(), name, ": tensor ", key, " ends at byte ", last, " of ",
                      data.size(), "; the file is truncated");
      const int64_t count = element_count(view.shape);
      const int64_t element_bytes = safetensors_element_bytes(view.dtype);
      DGA_CHECK_INPUT(count >= 0 && static_cast<uint64_t>(count) == (last - first) / element_bytes &&
                          (last - first) % element_bytes == 0,
                      name, ": tensor ", key, " has ", last - first, " bytes, which its shape and type do not give");
      view.bytes = data.subspan(first, last - first);
      ranges.emplace_back(first, last);
      tensors_.emplace(key, std::move(view));
    } catch (const nlohmann::json::exception&) {
      fail(ExitCode::input, name, ": entry ", key, " of the header lacks dtype, shape or data_offsets");
    }
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t end = 0;
  for (const auto& [first, last] : ranges) {
    DGA_CHECK_INPUT(first == end, name, ": tensors overlap or leave a gap at byte ", end, " of the data");
    end = last;
  }
  DGA_CHECK_INPUT(end == data.size(), name, ": ", data.size() - end, " bytes after the last tensor");
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, const std::map<std::string, TensorSpec>& specs,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& [name, spec] : specs) {
    const int64_t count = element_count(spec.shape);
    DGA_CHECK(count >= 0, "tensor ", name, " has no possible shape");
    const auto size = static_cast<uint64_t>(count * safetensors_element_bytes(spec.dtype));
    header[name] = {{"dtype", spec.dtype}, {"shape", spec.shape}, {"data_offsets", {offset, offset + size}}};
    expected_.emplace_back(name, size);
    offset += size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data starts 8-byte aligned
  const uint64_t header_bytes = text.size();
  file_.write(&header_bytes, sizeof(header_bytes));
  file_.write(text);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  DGA_CHECK(written_ < expected_.size(), "all tensors are written");
  const auto& [name, size] = expected_[written_++];
  DGA_CHECK(bytes.size() == size, "tensor ", name, " has ", bytes.size(),
            " bytes, which its shape and type do not give");
  file_.write(bytes.data(), bytes.size());
}

void SafetensorsWriter::close_synced() {
  DGA_CHECK(written_ == expected_.size(), expected_.size() - written_, " tensors are missing");
  file_.close_synced();
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::map<std::string, TensorSpec> specs;
  for (const auto& [name, view] : tensors) {
    const auto size_bytes = static_cast<int64_t>(view.bytes.size());
    DGA_CHECK(element_count(view.shape) * safetensors_element_bytes(view.dtype) == size_bytes, "tensor ", name, " has ",
              size_bytes, " bytes, which its shape and type do not give");
    specs[name] = {view.dtype, view.shape};
  }
  SafetensorsWriter writer(path, specs, metadata);
  for (const auto& [name, view] : tensors) writer.write(view.bytes);
  writer.close_synced();
}

}  // namespace dga
