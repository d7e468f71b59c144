#include "data/sentencepiece_spec.h"

#include <cstdint>
#include <functional>

#include "util/error.h"

namespace dga {
namespace {

/// One field of a protobuf message; `bytes` for length-delimited fields, `number` for varints.
struct WireField {
  uint64_t id = 0;
  uint64_t number = 0;
  std::string_view bytes;
};

uint64_t take_varint(std::string_view& message) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    DGA_CHECK_INPUT(!message.empty(), "the sentencepiece model ends in the middle of a number");
    const auto byte = static_cast<unsigned char>(message.front());
    message.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail(ExitCode::input, "the sentencepiece model holds a number of more than 64 bits");
}

std::string_view take_bytes(std::string_view& message, uint64_t size) {
  DGA_CHECK_INPUT(size <= message.size(), "the sentencepiece model ends in the middle of a field");
  const std::string_view bytes = message.substr(0, size);
  message.remove_prefix(size);
  return bytes;
}

void for_each_field(std::string_view message, const std::function<void(const WireField&)>& visit) {
  while (!message.empty()) {
    const uint64_t tag = take_varint(message);
    WireField field;
    field.id = tag >> 3;
    switch (tag & 7) {
      case 0:
        field.number = take_varint(message);
        break;
      case 1:
        take_bytes(message, 8);
        break;
      case 2:
        field.bytes = take_bytes(message, take_varint(message));
        break;
      case 5:
        take_bytes(message, 4);
        break;
      default:
        fail(ExitCode::input, "the sentencepiece model holds a field of unknown kind ", tag & 7);
    }
    visit(field);
  }
}

}  // namespace

SentencepieceSpec read_sentencepiece_spec(std::string_view model_proto) {
  SentencepieceSpec spec;
  for_each_field(model_proto, [&spec](const WireField& part) {
    if (part.id == 2) {  // trainer_spec
      for_each_field(part.bytes, [&spec](const WireField& field) {
        if (field.id == 3) spec.model_type = static_cast<SentencepieceSpec::ModelType>(field.number);
        if (field.id == 24) spec.whitespace_as_suffix = field.number != 0;
      });
    } else if (part.id == 3) {  // normalizer_spec
      for_each_field(part.bytes, [&spec](const WireField& field) {
        if (field.id == 2) spec.identity_normalization = field.bytes.empty();
        if (field.id == 3) spec.add_dummy_prefix = field.number != 0;
        if (field.id == 4) spec.remove_extra_whitespaces = field.number != 0;
        if (field.id == 5) spec.escape_whitespaces = field.number != 0;
      });
    }
  });
  return spec;
}

}  // namespace dga
