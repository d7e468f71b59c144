#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <memory>

#include "config/reader.h"

namespace dga::config {
namespace {

/// Whether YAML readers take a plain scalar for this very text, and not for a number, a boolean or syntax.
bool is_plain(const std::string& text) {
  static constexpr std::array<std::string_view, 11> kReserved = {"true", "false", "yes", "no",  "on", "off",
                                                                 "null", "y",     "n",   "inf", "nan"};
  if (text.empty() || !(std::isalpha(static_cast<unsigned char>(text[0])) || text[0] == '/' || text[0] == '_'))
    return false;
  std::string lower = text;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::find(kReserved.begin(), kReserved.end(), lower) == kReserved.end() &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) || std::strchr("_./+-", c); });
}

/// Emits the fields as block mappings, one value a line.
class Printer final : public Fields {
 public:
  Printer(std::string& text, const Value* origins) : text_(text), origins_(origins), paths_{""} {
    out_.SetIndent(2);
    out_ << YAML::BeginMap;
  }
  ~Printer() override {
    out_ << YAML::EndMap;
    text_ = std::string(out_.c_str()) + "\n";
  }

  void field(const char* name, bool& value, const char*) override { entry(name, value ? "true" : "false"); }
  void field(const char* name, std::string& value, const char*) override {
    out_ << YAML::Key << name << YAML::Value;
    emit_text(value);
    comment(name);
  }
  void field(const char* name, int64_t& value, const char*, Range) override { entry(name, std::to_string(value)); }
  void field(const char* name, double& value, const char*, Range) override { entry(name, number_text(value)); }
  void field(const char* name, std::vector<std::string>& value, const char*) override {
    sequence(name, value, [this](const std::string& item) { emit_text(item); });
  }
  void field(const char* name, std::vector<int64_t>& value, const char*, Range) override {
    sequence(name, value, [this](int64_t item) { out_ << std::to_string(item); });
  }
  void field(const char* name, std::vector<double>& value, const char*, Range) override {
    sequence(name, value, [this](double item) { out_ << number_text(item); });
  }
  void field(const char* name, std::optional<int64_t>& value, const char*, Range) override {
    value ? entry(name, std::to_string(*value)) : null(name);
  }
  void field(const char* name, std::optional<double>& value, const char*, Range) override {
    value ? entry(name, number_text(*value)) : null(name);
  }

 protected:
  void choice(const char* name, size_t& index, const std::vector<std::string>& choices, const char*) override {
    entry(name, choices[index]);
  }
  void begin_section(const char* name, const char*) override {
    out_ << YAML::Key << name << YAML::Value << YAML::BeginMap;
    paths_.push_back(path_of(name));
  }
  void end_section() override {
    out_ << YAML::EndMap;
    paths_.pop_back();
  }
  size_t begin_list(const char* name, size_t size, const char*) override {
    out_ << YAML::Key << name << YAML::Value;
    if (size == 0) out_ << YAML::Flow;
    out_ << YAML::BeginSeq;
    paths_.push_back(path_of(name));
    return size;
  }
  void begin_item(size_t index) override {
    out_ << YAML::BeginMap;
    paths_.push_back(str(paths_.back(), "[", index, "]"));
  }
  void end_list() override {
    out_ << YAML::EndSeq;
    paths_.pop_back();
  }
  void check(const std::function<void(Checker&)>&) override {}

 private:
  std::string path_of(const char* name) const { return paths_.back().empty() ? name : paths_.back() + "." + name; }

  void emit_text(const std::string& text) {
    if (is_plain(text)) {
      out_ << text;
    } else {
      out_ << YAML::DoubleQuoted << text;
    }
  }
  void entry(const char* name, const std::string& text) {
    out_ << YAML::Key << name << YAML::Value << text;
    comment(name);
  }
  void null(const char* name) {
    out_ << YAML::Key << name << YAML::Value << YAML::Null;
    comment(name);
  }
  template <class T, class Emit>
  void sequence(const char* name, const std::vector<T>& values, const Emit& emit) {
    out_ << YAML::Key << name << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const T& value : values) emit(value);
    out_ << YAML::EndSeq;
    comment(name);
  }
  void comment(const char* name) {
    if (origins_ == nullptr) return;
    const Found found = find_deepest(*origins_, path_of(name));
    out_ << YAML::Comment(found.exact ? to_string(found.value->origin) : "default");
  }

  std::string& text_;
  const Value* origins_;
  std::vector<std::string> paths_;
  YAML::Emitter out_;
};

}  // namespace

std::unique_ptr<Fields> make_printer(std::string& text, const Value* origins) {
  return std::make_unique<Printer>(text, origins);
}

std::string to_yaml(const std::function<void(Fields&)>& visit) {
  std::string text;
  {
    Printer printer(text, nullptr);
    visit(printer);
  }
  return text;
}

}  // namespace dga::config
