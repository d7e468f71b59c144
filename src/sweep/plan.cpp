#include "sweep/plan.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "config/suggest.h"
#include "config/value.h"
#include "run/run_config.h"
#include "util/file.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

using config::Value;

constexpr size_t kLongestName = 120;  // of a point; a folder's name may have 255 bytes

/// What a point changes: fields with their values, and files laid over the run's config.
struct Variation {
  std::string name;
  std::vector<std::pair<std::string, Value>> fields;
  std::vector<Value> includes;
};

[[noreturn]] void refuse(const Value& at, const std::string& message) {
  fail(ExitCode::config, config::to_string(at.origin), ": ", message);
}

void require_field(const std::string& path, const Value& value) {
  if (config::split_path(path).empty()) refuse(value, str(path, ": not a config path such as attention.group_size"));
  for (const char* own : {"run.name", "run.folder"}) {
    if (path == own) refuse(value, str(path, ": a sweep gives every point its own"));
  }
}

std::string text_of(const Value& value) {
  if (value.kind == Value::Kind::scalar) return value.text;
  if (value.kind == Value::Kind::null) return "null";
  std::string text = config::to_yaml(value);  // a list or mapping, on one line
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

/// Characters that are safe in a folder's name and in a shell.
std::string plain_name(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) || std::string_view("._=+-,").find(c) != std::string_view::npos;
    name += plain ? c : '_';
  }
  return name;
}

std::string default_name(const Variation& variation) {
  std::string name;
  for (const auto& [path, value] : variation.fields) {
    name += str(name.empty() ? "" : ",", path.substr(path.rfind('.') + 1), "=", text_of(value));
  }
  for (const Value& include : variation.includes)
    name += str(name.empty() ? "" : ",", fs::path(include.text).stem().string());
  return plain_name(name);
}

Variation read_item(const Value& item) {
  if (item.kind != Value::Kind::mapping) refuse(item, str("list: expected a mapping of fields, got ", describe(item)));
  Variation variation;
  for (const auto& [key, value] : item.entries) {
    if (key == "name") {
      variation.name = plain_name(value.text);
    } else if (key == "include") {
      variation.includes = value.kind == Value::Kind::list ? value.items : std::vector<Value>{value};
    } else {
      require_field(key, value);
      variation.fields.emplace_back(key, value);
    }
  }
  return variation;
}

std::vector<Variation> read_list(const Value* list) {
  if (list == nullptr) return {Variation{}};
  if (list->kind != Value::Kind::list || list->items.empty()) refuse(*list, "list: expected a list of points");
  std::vector<Variation> variations;
  for (const Value& item : list->items) variations.push_back(read_item(item));
  return variations;
}

/// Every variation with every combination of the grid's values; the last field varies fastest.
std::vector<Variation> cross(std::vector<Variation> variations, const Value* grid) {
  if (grid == nullptr) return variations;
  if (grid->kind != Value::Kind::mapping || grid->entries.empty()) {
    refuse(*grid, "grid: expected fields with lists of values, such as {attention.group_size: [4, 16]}");
  }
  for (const auto& [path, values] : grid->entries) {
    require_field(path, values);
    if (values.kind != Value::Kind::list || values.items.empty()) {
      refuse(values, str("grid: ", path, ": expected a list of values, got ", describe(values)));
    }
    std::vector<Variation> crossed;
    for (const Variation& variation : variations) {
      for (const Value& value : values.items) {
        crossed.push_back(variation);
        crossed.back().fields.emplace_back(path, value);
      }
    }
    variations = std::move(crossed);
  }
  return variations;
}

/// A list item's own name stays in front of what the grid adds.
void name_points(std::vector<Variation>& variations, const Value& root) {
  const Value* grid = root.entry("grid");
  const size_t from_grid = grid == nullptr ? 0 : grid->entries.size();
  std::set<std::string> names;
  for (Variation& variation : variations) {
    if (variation.name.empty()) {
      variation.name = default_name(variation);
    } else if (from_grid > 0) {
      Variation added;
      added.fields.assign(variation.fields.end() - static_cast<std::ptrdiff_t>(from_grid), variation.fields.end());
      variation.name += "," + default_name(added);
    }
    if (variation.name.empty() || variation.name.size() > kLongestName || variation.name.starts_with('.')) {
      refuse(root, str("list: the point \"", variation.name, "\" needs a short name of its own; add name: to it"));
    }
    if (!names.insert(variation.name).second) {
      refuse(root, str("two points are called ", variation.name, "; give them different values, or names in the list"));
    }
  }
}

void check_keys(const Value& root) {
  static const std::vector<std::string> kKeys = {"name",   "folder", "job",  "gpus_per_point",
                                                 "config", "set",    "grid", "list"};
  for (const auto& [key, value] : root.entries) {
    if (std::ranges::find(kKeys, key) != kKeys.end()) continue;
    const std::string near = config::nearest(key, kKeys);
    refuse(value, str(key, ": unknown key; ",
                      near.empty() ? "known keys: " + config::join_choices(kKeys) : "did you mean " + near + "?"));
  }
}

/// The text of an optional scalar.
std::string text_at(const Value& root, const char* key) {
  const Value* value = root.entry(key);
  if (value == nullptr) return "";
  if (value->kind != Value::Kind::scalar) refuse(*value, str(key, ": expected a text, got ", describe(*value)));
  return value->text;
}

/// The run's config of a point, as it would stand in the sweep's own file.
Value point_config(const Value& root, const Variation& variation, const SweepPoint& at,
                   const std::vector<std::string>& assignments) {
  const config::Origin origin{root.origin.file, 0};
  const auto scalar = [&](const std::string& text) {
    return Value{.kind = Value::Kind::scalar, .origin = origin, .text = text, .quoted = true};
  };
  Value point{.kind = Value::Kind::mapping, .origin = origin};
  Value include{.kind = Value::Kind::list, .origin = origin, .items = {*root.entry("config")}};
  include.items.insert(include.items.end(), variation.includes.begin(), variation.includes.end());
  point.entries.emplace_back("include", std::move(include));
  if (const Value* set = root.entry("set")) {
    if (set->kind != Value::Kind::mapping) refuse(*set, str("set: expected fields with values, got ", describe(*set)));
    for (const auto& [path, value] : set->entries) {
      require_field(path, value);
      config::assign(point, config::split_path(path), value, config::to_string(value.origin));
    }
  }
  for (const auto& [path, value] : variation.fields) {
    config::assign(point, config::split_path(path), value, config::to_string(value.origin));
  }
  for (const std::string& assignment : assignments) config::apply_assignment(point, assignment);
  config::assign(point, {"run", "name"}, scalar(at.name), "");
  config::assign(point, {"run", "folder"}, scalar(at.folder.string()), "");
  return point;
}

SweepJob read_job(const Value& root) {
  const std::string text = text_at(root, "job");
  if (text.empty()) return SweepJob::train;
  if (const auto job = config::value_named<SweepJob>(text)) return *job;
  refuse(*root.entry("job"), str("job: must be train or eval, got '", text, "'"));
}

int64_t read_gpus_per_point(const Value& root) {
  const std::string text = text_at(root, "gpus_per_point");
  if (text.empty()) return 1;
  int64_t count = 0;
  const char* end = text.data() + text.size();
  const auto [last, failure] = std::from_chars(text.data(), end, count);
  if (failure == std::errc() && last == end && count >= 1) return count;
  refuse(*root.entry("gpus_per_point"), str("gpus_per_point: must be a whole number, at least 1, got '", text, "'"));
}

void check_training(const LoadedRun& run, SweepPoint& point) {
  if (run.config.eval.every_steps > 0) return;
  point.warnings.emplace_back("eval.every_steps is 0: the table will have the training loss alone");
}

void check_evaluation(const LoadedRun& run, SweepPoint& point) {
  if (run.config.model.path.empty()) {
    fail(ExitCode::config, "model.path: a sweep of evaluations needs a folder with weights");
  }
  if (run.config.eval.sources.empty()) fail(ExitCode::config, "eval.sources: no held-out text to evaluate");
  std::erase_if(point.warnings, [](const std::string& warning) { return !warning.starts_with("eval."); });
}

/// Fills in what follows from the point's config.
void load_point(SweepJob job, const Value& config, const fs::path& file, SweepPoint& point) {
  try {
    const LoadedRun run =
        load_run(config::Document(config, file), job == SweepJob::train ? RunUse::training : RunUse::general);
    point.yaml = run.resolved_yaml;
    point.config_hash = run.hash;
    point.warnings = run.warnings;
    if (job == SweepJob::train) return check_training(run, point);
    check_evaluation(run, point);
    for (const auto& [path, value] : config::flatten(config)) {
      if (path.starts_with("model.") && path != "model.path") point.model_assignments.push_back(path + "=" + value);
    }
  } catch (const Error& error) {
    fail(error.code(), "point ", point.name, ": ", error.what());
  }
}

}  // namespace

SweepPlan read_sweep(const fs::path& file, const std::vector<std::string>& assignments) {
  Value root;
  try {
    root = config::parse_yaml(read_file(file), file.string());
  } catch (const Error& error) {
    fail(ExitCode::config, error.what());
  }
  if (root.kind != Value::Kind::mapping) refuse(root, str("expected a sweep (a mapping), got ", describe(root)));
  check_keys(root);
  if (text_at(root, "config").empty()) refuse(root, "config: name the run's YAML file that is varied");
  if (root.entry("grid") == nullptr && root.entry("list") == nullptr) {
    refuse(root, "nothing is varied; add grid: {attention.group_size: [4, 16]} or list: [{...}, {...}]");
  }

  SweepPlan plan;
  plan.name = plain_name(text_at(root, "name").empty() ? file.stem().string() : text_at(root, "name"));
  plan.job = read_job(root);
  plan.gpus_per_point = read_gpus_per_point(root);
  const std::string folder = text_at(root, "folder");
  plan.folder = folder.empty() ? fs::path("runs") / ("sweep_" + plan.name) : fs::path(folder);
  std::vector<Variation> variations = cross(read_list(root.entry("list")), root.entry("grid"));
  name_points(variations, root);
  for (const Variation& variation : variations) {
    SweepPoint point{.name = variation.name, .folder = plan.folder / variation.name, .yaml = "", .config_hash = ""};
    load_point(plan.job, point_config(root, variation, point, assignments), file, point);
    for (const auto& [path, value] : variation.fields) {
      point.settings.emplace_back(path, text_of(value));
      if (std::ranges::find(plan.fields, path) == plan.fields.end()) plan.fields.push_back(path);
    }
    plan.points.push_back(std::move(point));
  }
  return plan;
}

}  // namespace dga
