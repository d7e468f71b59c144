#include <memory>

#include "config/reader.h"
#include "config/suggest.h"

namespace dga::config {
namespace {

std::string code(const std::string& text) { return str("`", text, "`"); }

/// Writes one markdown table for each section of the top level; deeper fields go by their whole path.
class ReferenceWriter final : public Fields {
 public:
  std::string text;

  void field(const char* name, bool& value, const char* doc) override {
    row(name, "true or false", code(value ? "true" : "false"), doc);
  }
  void field(const char* name, std::string& value, const char* doc) override {
    row(name, "text", code(value.empty() ? "\"\"" : value), doc);
  }
  void field(const char* name, int64_t& value, const char* doc, Range range) override {
    row(name, bounded("whole number", range), code(std::to_string(value)), doc);
  }
  void field(const char* name, double& value, const char* doc, Range range) override {
    row(name, bounded("number", range), code(number_text(value)), doc);
  }
  void field(const char* name, std::vector<std::string>& value, const char* doc) override {
    row(name, "list of texts", list_text(value, [](const std::string& item) { return item; }), doc);
  }
  void field(const char* name, std::vector<int64_t>& value, const char* doc, Range range) override {
    row(name, bounded("list of whole numbers", range),
        list_text(value, [](int64_t item) { return std::to_string(item); }), doc);
  }
  void field(const char* name, std::vector<double>& value, const char* doc, Range range) override {
    row(name, bounded("list of numbers", range), list_text(value, number_text), doc);
  }
  void field(const char* name, std::optional<int64_t>& value, const char* doc, Range range) override {
    row(name, bounded("whole number or null", range), value ? code(std::to_string(*value)) : "null", doc);
  }
  void field(const char* name, std::optional<double>& value, const char* doc, Range range) override {
    row(name, bounded("number or null", range), value ? code(number_text(*value)) : "null", doc);
  }

 protected:
  void choice(const char* name, size_t& index, const std::vector<std::string>& choices, const char* doc) override {
    std::vector<std::string> quoted;
    for (const std::string& choice : choices) quoted.push_back(code(choice));
    row(name, join_choices(quoted), code(choices[index]), doc);
  }
  void begin_section(const char* name, const char* doc) override {
    if (prefix_.empty()) {
      text += str(text.empty() ? "" : "\n", "## ", name, "\n\n", doc,
                  "\n\n| field | type | default | meaning |\n| --- | --- | --- | --- |\n");
    } else {
      row(name, "section", "", doc);
    }
    prefix_.push_back(str(name, "."));
  }
  void end_section() override { prefix_.pop_back(); }
  size_t begin_list(const char* name, size_t, const char* doc) override {
    row(name, "list of mappings", code("[]"), doc);
    prefix_.push_back(name);
    return 1;
  }
  void begin_item(size_t) override { prefix_.emplace_back("[]."); }
  void end_list() override { prefix_.pop_back(); }
  void check(const std::function<void(Checker&)>&) override {}

 private:
  static std::string bounded(const char* type, const Range& range) {
    const std::string bounds = describe(range);
    return bounds.empty() ? type : str(type, ", ", bounds);
  }
  template <class T, class Text>
  static std::string list_text(const std::vector<T>& values, const Text& text_of) {
    std::string joined;
    for (const T& value : values) joined += str(joined.empty() ? "" : ", ", text_of(value));
    return code(str("[", joined, "]"));
  }
  void row(const char* name, const std::string& type, const std::string& default_value, const char* doc) {
    std::string path;
    for (const std::string& part : prefix_) path += part;
    text += str("| `", path, name, "` | ", type, " |", default_value.empty() ? "" : " " + default_value, " | ", doc,
                " |\n");
  }

  std::vector<std::string> prefix_;
};

}  // namespace

std::string reference(const std::function<void(Fields&)>& visit) {
  ReferenceWriter writer;
  visit(writer);
  return writer.text;
}

}  // namespace dga::config
