#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "util/error.h"

/// How a component declares its settings. Each component keeps them in its own config.h:
///
///     enum class Shape { constant, cosine };
///     constexpr auto enum_names(Shape) { return config::names<Shape>({{Shape::constant, "constant"}, ...}); }
///     struct ScheduleConfig {
///       Shape shape = Shape::cosine;
///       int64_t warmup_steps = 0;
///       void fields(config::Fields& f);                // names, documents and bounds every field
///       void check(config::Checker& c) const;          // optional: rules between fields
///     };
///     void ScheduleConfig::fields(config::Fields& f) {
///       f.field("shape", shape, "how the rate falls after warm-up");
///       f.field("warmup_steps", warmup_steps, "steps over which the rate rises linearly from 0", config::at_least(0));
///     }
/// The one `fields` function serves reading from YAML, printing the resolved config and the reference in docs/.
namespace dga::config {

/// Allowed interval of a number. Bounds are inclusive unless `open_min`.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;
};
inline Range any() { return {}; }
inline Range at_least(double min) { return {min, std::numeric_limits<double>::infinity(), false}; }
inline Range above(double min) { return {min, std::numeric_limits<double>::infinity(), true}; }
inline Range between(double min, double max) { return {min, max, false}; }

template <class E>
using Names = std::vector<std::pair<E, const char*>>;
template <class E>
Names<E> names(std::initializer_list<std::pair<E, const char*>> list) {
  return list;
}

/// The name of an enum value as configs spell it.
template <class E>
std::string name_of(E value) {
  for (const auto& [candidate, name] : enum_names(E{})) {
    if (candidate == value) return name;
  }
  return "?";
}

/// The enum value that configs spell `name`; nothing where none is called so.
template <class E>
std::optional<E> value_named(const std::string& name) {
  for (const auto& [value, candidate] : enum_names(E{})) {
    if (name == candidate) return value;
  }
  return std::nullopt;
}

/// Collects what is wrong between fields. Paths are relative to the struct that is checked ("warmup_steps").
class Checker {
 public:
  virtual ~Checker() = default;
  /// Reports `message` (what is wrong and what would be right) at the place where `field` was set.
  virtual void fail(std::string_view field, const std::string& message) = 0;
  void require(bool condition, std::string_view field, const std::string& message) {
    if (!condition) fail(field, message);
  }
};

/// Visits the fields of a config struct: reads them, prints them or lists them, as the implementation decides.
class Fields {
 public:
  virtual ~Fields() = default;
  virtual void field(const char* name, bool& value, const char* doc) = 0;
  virtual void field(const char* name, std::string& value, const char* doc) = 0;
  virtual void field(const char* name, int64_t& value, const char* doc, Range range = any()) = 0;
  virtual void field(const char* name, double& value, const char* doc, Range range = any()) = 0;
  /// A list; a single value is read as a list of one.
  virtual void field(const char* name, std::vector<std::string>& value, const char* doc) = 0;
  virtual void field(const char* name, std::vector<int64_t>& value, const char* doc, Range range = any()) = 0;
  virtual void field(const char* name, std::vector<double>& value, const char* doc, Range range = any()) = 0;
  /// A number that may be absent (YAML null or no key at all).
  virtual void field(const char* name, std::optional<int64_t>& value, const char* doc, Range range = any()) = 0;
  virtual void field(const char* name, std::optional<double>& value, const char* doc, Range range = any()) = 0;

  template <class E>
  requires std::is_enum_v<E>
  void field(const char* name, E& value, const char* doc) {
    std::vector<std::string> choices;
    size_t index = 0;
    const Names<E> table = enum_names(E{});
    for (size_t i = 0; i < table.size(); ++i) {
      choices.emplace_back(table[i].second);
      if (table[i].first == value) index = i;
    }
    choice(name, index, choices, doc);
    value = table[index].first;
  }

  /// A nested struct.
  template <class S>
  void section(const char* name, S& value, const char* doc) {
    begin_section(name, doc);
    visit(value);
    end_section();
  }

  /// A list of structs.
  template <class S>
  void list(const char* name, std::vector<S>& values, const char* doc) {
    values.resize(begin_list(name, values.size(), doc));
    for (size_t i = 0; i < values.size(); ++i) {
      begin_item(i);
      visit(values[i]);
      end_section();
    }
    end_list();
  }

  /// Visits `value`'s fields at the current place, then its rules between fields.
  template <class S>
  void visit(S& value) {
    value.fields(*this);
    if constexpr (requires(const S& s, Checker& c) { s.check(c); }) {
      check([&value](Checker& checker) { std::as_const(value).check(checker); });
    }
  }

 protected:
  virtual void choice(const char* name, size_t& index, const std::vector<std::string>& choices, const char* doc) = 0;
  virtual void begin_section(const char* name, const char* doc) = 0;
  virtual void end_section() = 0;
  /// Returns how many items there are after the call (when reading: those of the file).
  virtual size_t begin_list(const char* name, size_t size, const char* doc) = 0;
  virtual void begin_item(size_t index) = 0;
  virtual void end_list() = 0;
  virtual void check(const std::function<void(Checker&)>& rules) = 0;
};

}  // namespace dga::config
