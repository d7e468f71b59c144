#pragma once

#include <set>
#include <string>
#include <vector>

#include "config/value.h"

namespace dga::config {

/// Sets fields from a tree of values and collects everything that is wrong.
class Reader final : public Fields {
 public:
  explicit Reader(const Value& root) : root_(root) { frames_.push_back({"", &root, {}, 0}); }

  void field(const char* name, bool& value, const char* doc) override;
  void field(const char* name, std::string& value, const char* doc) override;
  void field(const char* name, int64_t& value, const char* doc, Range range) override;
  void field(const char* name, double& value, const char* doc, Range range) override;
  void field(const char* name, std::vector<std::string>& value, const char* doc) override;
  void field(const char* name, std::vector<int64_t>& value, const char* doc, Range range) override;
  void field(const char* name, std::vector<double>& value, const char* doc, Range range) override;
  void field(const char* name, std::optional<int64_t>& value, const char* doc, Range range) override;
  void field(const char* name, std::optional<double>& value, const char* doc, Range range) override;

  /// Throws what was found as one config error, a line each, in the order of files and lines.
  void finish();
  /// Reports a broken rule at the place where `path` (or what encloses it) was set; once a field.
  void broken_rule(const std::string& path, const std::string& message);

 protected:
  void choice(const char* name, size_t& index, const std::vector<std::string>& choices, const char* doc) override;
  void begin_section(const char* name, const char* doc) override;
  void end_section() override;
  size_t begin_list(const char* name, size_t size, const char* doc) override;
  void begin_item(size_t index) override;
  void end_list() override;
  void check(const std::function<void(Checker&)>& rules) override;

 private:
  struct Frame {
    std::string path;
    const Value* value;  // null: the section is not in the document
    std::vector<std::string> known;
    size_t item;
  };
  struct Issue {
    Origin origin;
    std::string path, message;
  };
  struct Unknown {
    std::string section, key;
    Origin origin;
    std::vector<std::string> known;
  };

  std::string path_of(std::string_view name) const;
  /// The value of a field, or null where it is not given; notes the name as known.
  const Value* take(const char* name);
  void report(const Value& value, const std::string& path, const std::string& message);
  void note_unknown_keys(const Frame& frame);
  void report_unknown_keys();

  template <class T>
  bool parse(const Value& value, const std::string& path, Range range, T& result);
  template <class T>
  void read_number(const char* name, T& value, Range range);
  template <class T>
  void read_optional(const char* name, std::optional<T>& value, Range range);
  template <class T>
  void read_numbers(const char* name, std::vector<T>& values, Range range);

  const Value& root_;
  std::vector<Frame> frames_;
  std::vector<Issue> issues_;
  std::vector<Unknown> unknown_;
  std::set<std::string> known_paths_;
};

/// Prints fields as YAML into `text`; with `origins` each value is followed by the place it comes from.
std::unique_ptr<Fields> make_printer(std::string& text, const Value* origins);

/// "at least 1", "above 0 and at most 1", "" where every number is allowed.
std::string describe(const Range& range);

/// The shortest decimal that reads back to the same number.
std::string number_text(double value);

}  // namespace dga::config
