#include "train/event_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <optional>

namespace dga {
namespace {

static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");

constexpr auto kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
    table[i] = crc;
  }
  return table;
}();

/// The format masks checksums, since a CRC of bytes that hold their own CRC says little.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
}

template <class T>
std::string bytes_of(T value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}

template <class T>
T value_at(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

constexpr size_t kHeaderBytes = sizeof(uint64_t) + sizeof(uint32_t);
constexpr size_t kFooterBytes = sizeof(uint32_t);

std::string record(const std::string& content) {
  const std::string length = bytes_of(static_cast<uint64_t>(content.size()));
  return length + bytes_of(masked_crc(length)) + content + bytes_of(masked_crc(content));
}

/// The content of the record at the front of `bytes`; nothing where it is cut short or damaged.
std::optional<std::string_view> first_content(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes + kFooterBytes) return std::nullopt;
  const auto length = value_at<uint64_t>(bytes, 0);
  if (value_at<uint32_t>(bytes, sizeof(uint64_t)) != masked_crc(bytes.substr(0, sizeof(uint64_t)))) return std::nullopt;
  if (length > bytes.size() - kHeaderBytes - kFooterBytes) return std::nullopt;
  const std::string_view content = bytes.substr(kHeaderBytes, length);
  if (value_at<uint32_t>(bytes, kHeaderBytes + length) != masked_crc(content)) return std::nullopt;
  return content;
}

// Protocol buffers: a field is its number and wire type as a varint, then the value.
enum WireType : uint64_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

// Fields of Event, Summary, Summary.Value and SessionLog.
constexpr uint64_t kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3, kEventSummary = 5, kEventSessionLog = 7;
constexpr uint64_t kSummaryValue = 1, kValueTag = 1, kValueSimple = 2, kSessionStatus = 1, kSessionStart = 1;

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(uint64_t field, WireType type) { return varint(field << 3 | type); }
std::string text_field(uint64_t field, std::string_view text) {
  return key(field, kLength) + varint(text.size()) + std::string(text);
}

std::string event_head(double wall_time, int64_t step) {
  return key(kEventWallTime, kFixed64) + bytes_of(wall_time) + key(kEventStep, kVarint) +
         varint(static_cast<uint64_t>(step));
}

uint64_t read_varint(std::string_view bytes, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0; at < bytes.size() && shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes[at++]);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) break;
  }
  return value;
}

/// The step of an Event; 0 where it has none, as protocol buffers leave out zeros.
int64_t step_of(std::string_view event) {
  for (size_t at = 0; at < event.size();) {
    const uint64_t head = read_varint(event, at);
    switch (head & 7) {
      case kVarint: {
        const uint64_t value = read_varint(event, at);
        if (head >> 3 == kEventStep) return static_cast<int64_t>(value);
        break;
      }
      case kFixed64:
        at += sizeof(uint64_t);
        break;
      case kLength: {
        const uint64_t length = read_varint(event, at);
        at += length;
        break;
      }
      default:
        at += sizeof(uint32_t);
    }
  }
  return 0;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

EventFileWriter::EventFileWriter(const std::filesystem::path& path, double wall_time, int64_t first_step)
    : file_(path) {
  const std::string start = key(kSessionStatus, kVarint) + varint(kSessionStart);
  file_.write(record(event_head(wall_time, 0) + text_field(kEventFileVersion, "brain.Event:2")) +
              record(event_head(wall_time, first_step) + text_field(kEventSessionLog, start)));
}

void EventFileWriter::write(const ScalarEvent& event) {
  std::string summary;
  for (const auto& [tag, number] : event.values) {
    summary += text_field(kSummaryValue, text_field(kValueTag, tag) + key(kValueSimple, kFixed32) + bytes_of(number));
  }
  file_.write(record(event_head(event.wall_time, event.step) + text_field(kEventSummary, summary)));
}

void cut_event_file(const std::filesystem::path& path, int64_t last_step) {
  const std::string bytes = read_file(path);
  size_t kept = 0;
  while (const std::optional<std::string_view> content = first_content(std::string_view(bytes).substr(kept))) {
    if (step_of(*content) > last_step) break;
    kept += kHeaderBytes + content->size() + kFooterBytes;
  }
  if (kept < bytes.size()) std::filesystem::resize_file(path, kept);
}

}  // namespace dga
