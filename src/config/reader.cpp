#include "config/reader.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <memory>
#include <tuple>

#include "config/suggest.h"

namespace dga::config {
namespace {

constexpr double kMaxExactInteger = 9007199254740992.0;  // 2^53

/// Without the underscores that YAML 1.1 allows between digits (1_000_000); empty where one stands elsewhere.
std::string without_underscores(const std::string& text) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits += text[i];
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[i - 1])) &&
                         std::isdigit(static_cast<unsigned char>(text[i + 1]));
    if (!between) return "";
  }
  return digits;
}

/// A finite decimal number. A leading zero (010) is refused: YAML 1.1 reads it as octal, YAML 1.2 as decimal.
bool parse_double(const Value& value, double& result) {
  if (value.quoted) return false;
  std::string text = without_underscores(value.text);
  if (text.starts_with('+') && !text.starts_with("+-")) text.erase(0, 1);
  const size_t first = text.starts_with('-') ? 1 : 0;
  if (first >= text.size() || !(std::isdigit(static_cast<unsigned char>(text[first])) || text[first] == '.'))
    return false;
  if (text[first] == '0' && first + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[first + 1])))
    return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(result);
}

/// A whole number; also 1e6, which is common in the field, as long as it is exact.
bool parse_int(const Value& value, int64_t& result) {
  double number = 0;
  if (!parse_double(value, number)) return false;
  std::string text = without_underscores(value.text);
  if (text[0] == '+') text.erase(0, 1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  if (error == std::errc() && end == text.data() + text.size()) return true;
  if (number != std::floor(number) || std::abs(number) > kMaxExactInteger) return false;
  result = static_cast<int64_t>(number);
  return true;
}

bool parse_text(const Value& value, int64_t& result) { return parse_int(value, result); }
bool parse_text(const Value& value, double& result) { return parse_double(value, result); }
const char* kind_of(int64_t) { return "a whole number"; }
const char* kind_of(double) { return "a number"; }

class RuleChecker final : public Checker {
 public:
  RuleChecker(Reader& reader, std::string path) : reader_(reader), path_(std::move(path)) {}
  void fail(std::string_view field, const std::string& message) override {
    const std::string_view dot = path_.empty() || field.empty() ? "" : ".";
    reader_.broken_rule(str(path_, dot, field), message);
  }

 private:
  Reader& reader_;
  std::string path_;
};

}  // namespace

std::string number_text(double value) {
  char buffer[32];
  const double size = std::abs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e15);  // 0.0003 reads better than 3e-04
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value, format);
  return {buffer, result.ptr};
}

std::string describe(const Range& range) {
  std::string text;
  if (std::isfinite(range.min)) text = str(range.open_min ? "above " : "at least ", number_text(range.min));
  if (std::isfinite(range.max)) text += str(text.empty() ? "" : " and ", "at most ", number_text(range.max));
  return text;
}

std::string Reader::path_of(std::string_view name) const {
  const std::string& path = frames_.back().path;
  return path.empty() ? std::string(name) : str(path, ".", name);
}

const Value* Reader::take(const char* name) {
  Frame& frame = frames_.back();
  frame.known.emplace_back(name);
  known_paths_.insert(path_of(name));
  return frame.value == nullptr ? nullptr : frame.value->entry(name);
}

void Reader::report(const Value& value, const std::string& path, const std::string& message) {
  issues_.push_back({value.origin, path, message});
}

template <class T>
bool Reader::parse(const Value& value, const std::string& path, Range range, T& result) {
  T number{};
  if (value.kind != Value::Kind::scalar || !parse_text(value, number)) {
    report(value, path, str("expected ", kind_of(T{}), ", got ", describe(value)));
    return false;
  }
  const auto x = static_cast<double>(number);
  if (!((range.open_min ? x > range.min : x >= range.min) && x <= range.max)) {
    report(value, path, str("must be ", describe(range), ", got ", value.text));
    return false;
  }
  result = number;
  return true;
}

template <class T>
void Reader::read_number(const char* name, T& value, Range range) {
  if (const Value* given = take(name)) parse(*given, path_of(name), range, value);
}

template <class T>
void Reader::read_optional(const char* name, std::optional<T>& value, Range range) {
  const Value* given = take(name);
  if (given == nullptr) return;
  T number{};
  if (given->kind == Value::Kind::null) {
    value.reset();
  } else if (parse(*given, path_of(name), range, number)) {
    value = number;
  }
}

template <class T>
void Reader::read_numbers(const char* name, std::vector<T>& values, Range range) {
  const Value* given = take(name);
  if (given == nullptr) return;
  std::vector<T> result;
  T number{};
  if (given->kind != Value::Kind::list) {
    if (parse(*given, path_of(name), range, number)) values = {number};
    return;
  }
  bool good = true;
  for (size_t i = 0; i < given->items.size(); ++i) {
    good = parse(given->items[i], str(path_of(name), "[", i, "]"), range, number) && good;
    result.push_back(number);
  }
  if (good) values = std::move(result);
}

void Reader::field(const char* name, bool& value, const char*) {
  const Value* given = take(name);
  if (given == nullptr) return;
  const bool is_true = given->text == "true", is_false = given->text == "false";
  if (given->kind != Value::Kind::scalar || given->quoted || !(is_true || is_false)) {
    report(*given, path_of(name), str("expected true or false, got ", describe(*given)));
    return;
  }
  value = is_true;
}

void Reader::field(const char* name, std::string& value, const char*) {
  const Value* given = take(name);
  if (given == nullptr) return;
  if (given->kind != Value::Kind::scalar) {
    report(*given, path_of(name),
           str("expected text, got ", describe(*given),
               given->kind == Value::Kind::null ? "; write \"\" for an empty text" : ""));
    return;
  }
  value = given->text;
}

void Reader::field(const char* name, int64_t& value, const char*, Range range) { read_number(name, value, range); }
void Reader::field(const char* name, double& value, const char*, Range range) { read_number(name, value, range); }

void Reader::field(const char* name, std::vector<std::string>& value, const char*) {
  const Value* given = take(name);
  if (given == nullptr) return;
  std::vector<std::string> result;
  const std::vector<Value> single(1, *given);
  const bool is_list = given->kind == Value::Kind::list;
  for (const Value& item : is_list ? given->items : single) {
    if (item.kind != Value::Kind::scalar) {
      const std::string path = is_list ? str(path_of(name), "[", result.size(), "]") : path_of(name);
      report(item, path, str("expected ", is_list ? "text" : "text or a list of texts", ", got ", describe(item)));
    }
    result.push_back(item.text);
  }
  value = std::move(result);
}

void Reader::field(const char* name, std::vector<int64_t>& value, const char*, Range range) {
  read_numbers(name, value, range);
}
void Reader::field(const char* name, std::vector<double>& value, const char*, Range range) {
  read_numbers(name, value, range);
}
void Reader::field(const char* name, std::optional<int64_t>& value, const char*, Range range) {
  read_optional(name, value, range);
}
void Reader::field(const char* name, std::optional<double>& value, const char*, Range range) {
  read_optional(name, value, range);
}

void Reader::choice(const char* name, size_t& index, const std::vector<std::string>& choices, const char*) {
  const Value* given = take(name);
  if (given == nullptr) return;
  const auto found =
      given->kind == Value::Kind::scalar ? std::find(choices.begin(), choices.end(), given->text) : choices.end();
  if (found == choices.end()) {
    const std::string near = given->kind == Value::Kind::scalar ? nearest(given->text, choices) : "";
    report(*given, path_of(name),
           str("must be ", join_choices(choices), ", got ", describe(*given),
               near.empty() ? "" : str("; did you mean ", near, "?")));
    return;
  }
  index = static_cast<size_t>(found - choices.begin());
}

void Reader::begin_section(const char* name, const char*) {
  const Value* given = take(name);
  if (given != nullptr && given->kind != Value::Kind::mapping) {
    if (given->kind != Value::Kind::null) {
      report(*given, path_of(name), str("expected a section (a mapping), got ", describe(*given)));
    }
    given = nullptr;
  }
  frames_.push_back({path_of(name), given, {}, 0});
}

void Reader::end_section() {
  note_unknown_keys(frames_.back());
  frames_.pop_back();
}

size_t Reader::begin_list(const char* name, size_t size, const char*) {
  const Value* given = take(name);
  if (given != nullptr && given->kind != Value::Kind::list) {
    report(*given, path_of(name), str("expected a list of mappings, got ", describe(*given)));
    given = nullptr;
  }
  frames_.push_back({path_of(name), given, {}, 0});
  return given == nullptr ? size : given->items.size();
}

void Reader::begin_item(size_t index) {
  const Frame& list = frames_.back();
  const std::string path = str(list.path, "[", index, "]");
  const Value* item = list.value == nullptr ? nullptr : &list.value->items[index];
  if (item != nullptr && item->kind != Value::Kind::mapping) {
    report(*item, path, str("expected a mapping, got ", describe(*item)));
    item = nullptr;
  }
  frames_.push_back({path, item, {}, index});
}

void Reader::end_list() { frames_.pop_back(); }

void Reader::check(const std::function<void(Checker&)>& rules) {
  RuleChecker checker(*this, frames_.back().path);
  rules(checker);
}

void Reader::broken_rule(const std::string& path, const std::string& message) {
  // A field that could not be read keeps its default; a rule that this default breaks says nothing new.
  const bool reported =
      std::any_of(issues_.begin(), issues_.end(), [&](const Issue& issue) { return issue.path == path; });
  if (!reported) issues_.push_back({find_deepest(root_, path).value->origin, path, message});
}

void Reader::note_unknown_keys(const Frame& frame) {
  if (frame.value == nullptr) return;
  for (const auto& [key, value] : frame.value->entries) {
    if (std::find(frame.known.begin(), frame.known.end(), key) != frame.known.end()) continue;
    unknown_.push_back({frame.path, key, value.origin, frame.known});
  }
}

void Reader::report_unknown_keys() {
  for (const Unknown& unknown : unknown_) {
    const std::string path = unknown.section.empty() ? unknown.key : unknown.section + "." + unknown.key;
    std::string advice = nearest(unknown.key, unknown.known);
    if (advice.empty()) {  // perhaps the right key in the wrong section
      for (const std::string& known : known_paths_) {
        if (known.ends_with("." + unknown.key)) advice = known;
      }
    }
    advice = advice.empty() ? str("known keys: ", join_choices(unknown.known)) : str("did you mean ", advice, "?");
    issues_.push_back({unknown.origin, path, "unknown key; " + advice});
  }
}

void Reader::finish() {
  note_unknown_keys(frames_.front());
  report_unknown_keys();
  if (issues_.empty()) return;
  std::stable_sort(issues_.begin(), issues_.end(), [](const Issue& a, const Issue& b) {
    return std::tie(a.origin.file, a.origin.line) < std::tie(b.origin.file, b.origin.line);
  });
  std::string text;
  for (const Issue& issue : issues_) {
    text += str(text.empty() ? "" : "\n", to_string(issue.origin), ": ", issue.path, issue.path.empty() ? "" : ": ",
                issue.message);
  }
  throw Error(text, ExitCode::config);
}

}  // namespace dga::config
