#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config/fields.h"

namespace dga::config {

/// Where a value came from: a line of a file, `--set`, or the default.
struct Origin {
  std::string file;  // empty for a default; "--set" for the command line
  int line = 0;
};

struct Value;

/// The merged YAML of a run, every value with its origin. Layers: included files in order, then the file itself,
/// then --set assignments; mappings merge key by key, lists and scalars are replaced.
class Document {
 public:
  /// Reads `path` and what its `include:` (a path or a list, relative to the file) names, then applies `assignments`
  /// ("optimizer.weight_decay=0.1", the value is YAML). An empty path gives the assignments alone.
  /// Throws a config error (exit code 3) with file and line for unreadable files, YAML syntax, include cycles,
  /// duplicate keys and malformed assignments.
  Document(const std::filesystem::path& path, const std::vector<std::string>& assignments);
  /// Of `content`, as if it stood in the file `path`: what its `include:` names is relative to that. Throws as above.
  Document(Value content, const std::filesystem::path& path);
  ~Document();
  Document(Document&&) noexcept;

  /// Lays `yaml` (a mapping) below everything read so far as the content of `section`; `file` is the origin shown.
  void set_defaults(const std::string& section, const std::string& yaml, const std::string& file);

  /// The text of a scalar ("model.path"); empty where the document has none.
  std::string text_at(const std::string& path) const;

  /// Sets the fields of `value` from the document. Collects every unknown key, wrong type, number out of range and
  /// broken rule, and throws them together as one config error, one line each:
  ///     configs/a.yaml:12: attention.group_sise: unknown key; did you mean group_size?
  template <class S>
  void read_into(S& value) {
    const std::unique_ptr<Fields> reader = make_reader();
    reader->visit(value);
    finish(*reader);
  }

  /// The struct as YAML with the origin of each value as a comment.
  template <class S>
  std::string print(S value) const {
    std::string text;
    const std::unique_ptr<Fields> printer = make_printer(text);
    value.fields(*printer);
    return text;
  }

 private:
  struct Impl;
  std::unique_ptr<Fields> make_reader();
  void finish(Fields& reader);
  std::unique_ptr<Fields> make_printer(std::string& text) const;
  std::unique_ptr<Impl> impl_;
};

/// The struct as plain YAML that reads back to the same values.
std::string to_yaml(const std::function<void(Fields&)>& visit);

/// Reference of all fields as a markdown table: name, type, default, bounds, meaning.
std::string reference(const std::function<void(Fields&)>& visit);

}  // namespace dga::config
