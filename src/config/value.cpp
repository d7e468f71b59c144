#include "config/value.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>

namespace dga::config {
namespace {

constexpr int kMaxDepth = 50;  // an alias inside its own anchor would never end

std::string at(const std::string& file, const YAML::Mark& mark) { return to_string({file, mark.line + 1}); }

Value convert(const YAML::Node& node, const std::string& file, int depth);

void convert_mapping(const YAML::Node& node, const std::string& file, int depth, Value& value) {
  for (const auto& pair : node) {
    const YAML::Node& key = pair.first;
    if (!key.IsScalar()) fail(ExitCode::config, at(file, key.Mark()), ": a key must be plain text");
    if (const Value* earlier = value.entry(key.Scalar())) {
      fail(ExitCode::config, at(file, key.Mark()), ": ", key.Scalar(), ": duplicate key, first given in line ",
           earlier->origin.line, "; keep one of them");
    }
    Value entry = convert(pair.second, file, depth + 1);
    entry.origin.line = key.Mark().line + 1;
    value.entries.emplace_back(key.Scalar(), std::move(entry));
  }
}

Value convert(const YAML::Node& node, const std::string& file, int depth) {
  if (depth > kMaxDepth)
    fail(ExitCode::config, at(file, node.Mark()), ": nested more than ", kMaxDepth, " levels deep");
  Value value;
  value.origin = {file, node.Mark().line + 1};
  if (node.IsScalar()) {
    value.kind = Value::Kind::scalar;
    value.text = node.Scalar();
    value.quoted = node.Tag() != "?" && !node.Tag().empty();
  } else if (node.IsSequence()) {
    value.kind = Value::Kind::list;
    for (const YAML::Node& item : node) value.items.push_back(convert(item, file, depth + 1));
  } else if (node.IsMap()) {
    value.kind = Value::Kind::mapping;
    convert_mapping(node, file, depth, value);
  }
  return value;
}

bool is_index(std::string_view key) {
  return !key.empty() && key.size() < 10 &&
         std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// The list item that `key` addresses, or null.
Value* item_at(Value& list, std::string_view key) {
  if (list.kind != Value::Kind::list || !is_index(key)) return nullptr;
  size_t index = 0;
  std::from_chars(key.data(), key.data() + key.size(), index);
  return index < list.items.size() ? &list.items[index] : nullptr;
}

void emit(YAML::Emitter& out, const Value& value) {
  switch (value.kind) {
    case Value::Kind::null:
      out << YAML::Null;
      break;
    case Value::Kind::scalar:
      if (value.quoted) out << YAML::DoubleQuoted;
      out << value.text;
      break;
    case Value::Kind::list:
      out << YAML::BeginSeq;
      for (const Value& item : value.items) emit(out, item);
      out << YAML::EndSeq;
      break;
    case Value::Kind::mapping:
      out << YAML::BeginMap;
      for (const auto& [key, entry] : value.entries) {
        out << YAML::Key << key << YAML::Value;
        emit(out, entry);
      }
      out << YAML::EndMap;
      break;
  }
}

void flatten_into(const Value& value, const std::string& path, std::map<std::string, std::string>& values) {
  const bool flat = std::all_of(value.items.begin(), value.items.end(), [](const Value& item) {
    return item.kind == Value::Kind::scalar || item.kind == Value::Kind::null;
  });
  if (value.kind == Value::Kind::mapping) {
    for (const auto& [key, entry] : value.entries) {
      flatten_into(entry, path.empty() ? key : str(path, ".", key), values);
    }
  } else if (value.kind == Value::Kind::list && !flat) {
    for (size_t i = 0; i < value.items.size(); ++i) flatten_into(value.items[i], str(path, "[", i, "]"), values);
  } else if (value.kind == Value::Kind::list) {
    std::string joined;
    for (const Value& item : value.items) joined += str(joined.empty() ? "" : ", ", item.text);
    values[path] = str("[", joined, "]");
  } else {
    values[path] = value.kind == Value::Kind::null ? "null" : value.text;
  }
}

}  // namespace

Value* Value::entry(std::string_view key) {
  for (auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string to_string(const Origin& origin) {
  if (origin.file.empty()) return "config";
  return origin.line > 0 ? str(origin.file, ":", origin.line) : origin.file;
}

std::string describe(const Value& value) {
  switch (value.kind) {
    case Value::Kind::null:
      return "nothing";
    case Value::Kind::list:
      return "a list";
    case Value::Kind::mapping:
      return "a mapping";
    case Value::Kind::scalar:
      break;
  }
  return value.quoted ? str("the text \"", value.text, "\"") : str("'", value.text, "'");
}

Value parse_yaml(const std::string& text, const std::string& file) {
  try {
    // Behind a final line break the library takes an unclosed quote for closed, and the rest of the file for its text.
    const std::vector<YAML::Node> documents = YAML::LoadAll(text.substr(0, text.find_last_not_of(" \t\r\n") + 1));
    if (documents.empty()) return Value{.origin = {file, 0}};
    if (documents.size() > 1) {
      fail(ExitCode::config, at(file, documents[1].Mark()), ": a second YAML document; a config is one document");
    }
    return convert(documents[0], file, 0);
  } catch (const YAML::Exception& e) {
    fail(ExitCode::config, at(file, e.mark), ": YAML syntax: ", e.msg);
  }
}

void merge(Value& lower, Value upper) {
  if (lower.kind != Value::Kind::mapping) {
    lower = std::move(upper);
    return;
  }
  if (upper.kind == Value::Kind::null) return;
  if (upper.kind != Value::Kind::mapping) {
    lower = std::move(upper);
    return;
  }
  lower.origin = upper.origin;
  for (auto& [key, value] : upper.entries) {
    if (Value* below = lower.entry(key)) {
      merge(*below, std::move(value));
    } else {
      lower.entries.emplace_back(key, std::move(value));
    }
  }
}

void set_origin(Value& value, const Origin& origin) {
  value.origin = origin;
  for (Value& item : value.items) set_origin(item, origin);
  for (auto& [key, entry] : value.entries) set_origin(entry, origin);
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> keys(1);
  bool after_bracket = false;
  for (const char c : path) {
    if (c == ']') {
      after_bracket = true;
    } else if (c == '.' || c == '[') {
      if (keys.back().empty()) return {};
      keys.emplace_back();
      after_bracket = false;
    } else {
      if (after_bracket) return {};
      keys.back() += c;
    }
  }
  if (keys.back().empty()) return {};
  return keys;
}

Found find_deepest(const Value& root, std::string_view path) {
  const Value* value = &root;
  for (const std::string& key : split_path(path)) {
    const Value* next = value->entry(key);
    if (next == nullptr) next = item_at(const_cast<Value&>(*value), key);
    if (next == nullptr) return {value, false};
    value = next;
  }
  return {value, true};
}

void assign(Value& root, const std::vector<std::string>& keys, Value value, const std::string& where) {
  const Origin origin = value.origin;
  Value* place = &root;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (place->kind == Value::Kind::list) {
      Value* item = item_at(*place, keys[i]);
      if (item == nullptr) {
        fail(ExitCode::config, where, ": ", keys[i - 1], " is a list of ", place->items.size(),
             " items, numbered from 0; ", keys[i], " is none of them");
      }
      place = item;
      continue;
    }
    if (place->kind != Value::Kind::mapping) *place = Value{.kind = Value::Kind::mapping, .origin = origin};
    if (place->entry(keys[i]) == nullptr) place->entries.emplace_back(keys[i], Value{.origin = origin});
    place = place->entry(keys[i]);
  }
  // An assignment always says something, so that an empty one is a value too.
  if (value.kind == Value::Kind::null) {
    *place = std::move(value);
  } else {
    merge(*place, std::move(value));
  }
}

void apply_assignment(Value& root, const std::string& assignment) {
  const std::string where = str("--set ", assignment);
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) fail(ExitCode::config, where, ": lacks '='; write --set section.field=value");
  const std::vector<std::string> keys = split_path(std::string_view(assignment).substr(0, equals));
  if (keys.empty()) fail(ExitCode::config, where, ": no field before '='; write --set section.field=value");
  if (keys[0] == "include") fail(ExitCode::config, where, ": include can only stand in a file");
  Value value = parse_yaml(assignment.substr(equals + 1), where);
  set_origin(value, {"--set", 0});
  assign(root, keys, std::move(value), where);
}

std::string to_yaml(const Value& value) {
  YAML::Emitter out;
  out.SetIndent(2);
  emit(out, value);
  return std::string(out.c_str()) + "\n";
}

std::map<std::string, std::string> flatten(const Value& value) {
  std::map<std::string, std::string> values;
  flatten_into(value, "", values);
  return values;
}

}  // namespace dga::config
