#include "data/json_text.h"

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>

#include "util/error.h"

namespace dga {
namespace {

using nlohmann::json;

/// Takes one string from the parser's events; nothing else of the line is kept.
class TextField : public nlohmann::json_sax<json> {
 public:
  explicit TextField(const std::string& field) : field_(field) {}

  bool null() override { return other(); }
  bool boolean(bool) override { return other(); }
  bool number_integer(number_integer_t) override { return other(); }
  bool number_unsigned(number_unsigned_t) override { return other(); }
  bool number_float(number_float_t, const string_t&) override { return other(); }
  bool binary(binary_t&) override { return other(); }
  bool string(string_t& value) override {
    if (expected_) {
      text_ = std::move(value);
      found_ = true;
    }
    return other();
  }
  bool start_object(size_t) override {
    ++depth_;
    object_ = object_ || depth_ == 1;
    return other();
  }
  bool key(string_t& name) override {
    expected_ = depth_ == 1 && name == field_;
    seen_ = seen_ || expected_;
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(size_t) override {
    ++depth_;
    return other();
  }
  bool end_array() override { return close(); }
  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    std::string_view what = error.what();
    const size_t detail = what.find(": ");  // after "[json.exception.parse_error.101] parse error at line 1, column 9"
    if (detail != std::string_view::npos) what.remove_prefix(detail + 2);
    // The parser quotes what it read last, which may be the whole line.
    const size_t quoted = what.find("; last read");
    message_ = str("no JSON at byte ", position, ": ", what.substr(0, std::min<size_t>(quoted, 200)));
    return false;
  }

  ExtractedText result() && {
    if (!message_.empty()) return failed(ProblemKind::invalid_json, message_);
    if (!object_) return failed(ProblemKind::invalid_json, "is no JSON object");
    if (!found_) {
      return failed(ProblemKind::missing_text, str("field \"", field_, seen_ ? "\" is no string" : "\" is missing"));
    }
    if (text_.empty()) return failed(ProblemKind::empty_document, str("field \"", field_, "\" is empty"));
    return {std::move(text_), std::nullopt};
  }

 private:
  static ExtractedText failed(ProblemKind kind, std::string message) {
    return {"", Problem{kind, 0, std::move(message)}};
  }
  bool other() {
    expected_ = false;
    return true;
  }
  bool close() {
    --depth_;
    return true;
  }

  const std::string& field_;
  std::string text_;
  std::string message_;
  int64_t depth_ = 0;
  bool object_ = false;
  bool expected_ = false;
  bool seen_ = false;
  bool found_ = false;
};

std::optional<Problem> utf8_problem(std::string_view bytes) {
  const std::optional<size_t> at = find_invalid_utf8(bytes);
  if (!at) return std::nullopt;
  return Problem{ProblemKind::invalid_utf8, 0, str("invalid UTF-8 at byte ", *at + 1)};
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view bytes) {
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  const auto follows = [&](size_t at, unsigned char low, unsigned char high) {
    return at < bytes.size() && data[at] >= low && data[at] <= high;
  };
  for (size_t at = 0; at < bytes.size();) {
    uint64_t word = 0;
    if (at + 8 <= bytes.size()) {
      std::memcpy(&word, data + at, 8);
      if ((word & 0x8080808080808080ULL) == 0) {
        at += 8;
        continue;
      }
    }
    const unsigned char lead = data[at];
    size_t length = 1;
    bool valid = lead < 0x80;
    if (lead >= 0xc2 && lead <= 0xdf) {
      length = 2;
      valid = follows(at + 1, 0x80, 0xbf);
    } else if (lead >= 0xe0 && lead <= 0xef) {
      length = 3;
      valid = follows(at + 1, lead == 0xe0 ? 0xa0 : 0x80, lead == 0xed ? 0x9f : 0xbf) && follows(at + 2, 0x80, 0xbf);
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      length = 4;
      valid = follows(at + 1, lead == 0xf0 ? 0x90 : 0x80, lead == 0xf4 ? 0x8f : 0xbf) && follows(at + 2, 0x80, 0xbf) &&
              follows(at + 3, 0x80, 0xbf);
    }
    if (!valid) return at;
    at += length;
  }
  return std::nullopt;
}

ExtractedText extract_json_text(std::string_view line, const std::string& field) {
  if (std::optional<Problem> problem = utf8_problem(line)) return {"", std::move(problem)};
  TextField handler(field);
  json::sax_parse(line.data(), line.data() + line.size(), &handler);
  return std::move(handler).result();
}

ExtractedText extract_text(std::string_view line, const SourceFile& file) {
  if (file.format == SourceFormat::jsonl) return extract_json_text(line, file.text_field);
  if (std::optional<Problem> problem = utf8_problem(line)) return {"", std::move(problem)};
  return {std::string(line), std::nullopt};
}

ExtractedText extract_text(std::string&& text, size_t begin, const SourceFile& file) {
  std::string owned = std::move(text);
  const std::string_view line = std::string_view(owned).substr(begin);
  if (file.format == SourceFormat::jsonl) return extract_json_text(line, file.text_field);
  if (std::optional<Problem> problem = utf8_problem(line)) return {"", std::move(problem)};
  owned.erase(0, begin);
  return {std::move(owned), std::nullopt};
}

}  // namespace dga
