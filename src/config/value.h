#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/load.h"

/// The merged YAML tree behind config::Document.
namespace dga::config {

/// One YAML value with the place where it was written. For an entry of a mapping that place is the line of its key.
struct Value {
  enum class Kind { null, scalar, list, mapping };
  Kind kind = Kind::null;
  Origin origin{};
  std::string text{};   // of a scalar
  bool quoted = false;  // a quoted scalar is text, never a number
  std::vector<Value> items{};
  std::vector<std::pair<std::string, Value>> entries{};  // in the order of the file

  Value* entry(std::string_view key);
  const Value* entry(std::string_view key) const { return const_cast<Value*>(this)->entry(key); }
};

/// "configs/a.yaml:12", "configs/a.yaml" where no line is known, "--set" for the command line.
std::string to_string(const Origin& origin);

/// What a reader of a message calls the value: `'abc'`, `a list`, `a mapping`, `nothing`.
std::string describe(const Value& value);

/// Parses YAML text. Throws a config error naming `file` and the line for bad syntax, a second document, keys that are
/// no plain text and duplicate keys (which the YAML library accepts).
Value parse_yaml(const std::string& text, const std::string& file);

/// Lays `upper` over `lower`: mappings merge key by key, lists and scalars are replaced. An empty section (a key with
/// nothing after it) leaves the mapping below as it is.
void merge(Value& lower, Value upper);

/// Gives a value and all within it the same place.
void set_origin(Value& value, const Origin& origin);

/// Splits "data.sources[0].weight" or "data.sources.0.weight" into its keys; empty where the path is malformed.
std::vector<std::string> split_path(std::string_view path);

/// The value at a path, or the deepest enclosing value that exists; `exact` tells which.
struct Found {
  const Value* value;
  bool exact;
};
Found find_deepest(const Value& root, std::string_view path);

/// Lays `value` over what stands at a path (split as split_path does), making the mappings on the way; a number
/// addresses an item of an existing list. `where` begins the message of a config error.
void assign(Value& root, const std::vector<std::string>& keys, Value value, const std::string& where);

/// Applies "a.b=c" (c is YAML) as assign() does.
void apply_assignment(Value& root, const std::string& assignment);

/// The value as YAML that parses back to it, a field a line.
std::string to_yaml(const Value& value);

/// Every scalar by its path ("data.sources[0].weight"); a list of scalars as one text, "[1, 2]"; null and empty values
/// as "null" and "[]".
std::map<std::string, std::string> flatten(const Value& value);

}  // namespace dga::config
