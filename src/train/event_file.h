#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "util/file.h"

/// TensorBoard event files: a sequence of records, each [length, uint64][masked CRC-32C of the length, uint32][content]
/// [masked CRC-32C of the content, uint32], little-endian; a content is a protocol buffer `Event`. The formats are
/// TensorFlow's (lib/io/record_writer, core/util/event.proto).
namespace dga {

/// CRC-32C (Castagnoli) of the bytes.
uint32_t crc32c(std::string_view bytes);

/// Named numbers of one step, with the time in seconds since 1970.
struct ScalarEvent {
  double wall_time = 0;
  int64_t step = 0;
  std::vector<std::pair<std::string, float>> values;
};

/// Writes an event file from its beginning.
class EventFileWriter {
 public:
  /// The file begins with its version and the notice that a session starts at `first_step`: readers that are open
  /// forget what earlier files said of this step and later ones.
  EventFileWriter(const std::filesystem::path& path, double wall_time, int64_t first_step);

  void write(const ScalarEvent& event);

 private:
  OutputFile file_;
};

/// Cuts a file before its first record that is damaged or of a step beyond `last_step`.
void cut_event_file(const std::filesystem::path& path, int64_t last_step);

}  // namespace dga
