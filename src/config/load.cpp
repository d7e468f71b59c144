#include "config/load.h"

#include <algorithm>

#include "config/reader.h"
#include "config/value.h"
#include "util/file.h"

namespace dga::config {
namespace {

std::string read_config_file(const std::filesystem::path& path, const std::string& from) {
  try {
    return read_file(path);
  } catch (const Error& e) {
    fail(ExitCode::config, from.empty() ? "" : from + ": include: ", e.what());
  }
}

/// The paths that `include:` names, relative to the file that includes them.
std::vector<std::filesystem::path> included_paths(const Value& include, const std::filesystem::path& file) {
  std::vector<const Value*> names;
  if (include.kind == Value::Kind::list) {
    for (const Value& item : include.items) names.push_back(&item);
  } else {
    names.push_back(&include);
  }
  std::vector<std::filesystem::path> paths;
  for (const Value* name : names) {
    if (name->kind != Value::Kind::scalar) {
      fail(ExitCode::config, to_string(name->origin), ": include: expected a path or a list of paths, got ",
           describe(*name));
    }
    paths.push_back((file.parent_path() / name->text).lexically_normal());
  }
  return paths;
}

Value load_file(const std::filesystem::path& path, const std::string& from, std::vector<std::filesystem::path>& chain);

/// The content of the file `path` laid over what it includes.
Value over_included(Value own, const std::filesystem::path& path, std::vector<std::filesystem::path>& chain) {
  if (own.kind == Value::Kind::null) own.kind = Value::Kind::mapping;
  if (own.kind != Value::Kind::mapping) {
    fail(ExitCode::config, to_string(own.origin), ": expected sections (a mapping), got ", describe(own));
  }
  own.origin.line = 0;
  Value merged{.kind = Value::Kind::mapping, .origin = own.origin};
  if (const Value* include = own.entry("include")) {
    for (const std::filesystem::path& other : included_paths(*include, path)) {
      merge(merged, load_file(other, to_string(include->origin), chain));
    }
    std::erase_if(own.entries, [](const auto& entry) { return entry.first == "include"; });
  }
  merge(merged, std::move(own));
  return merged;
}

/// Reads a file and what it includes. `chain` holds the files being read, outermost first.
Value load_file(const std::filesystem::path& path, const std::string& from, std::vector<std::filesystem::path>& chain) {
  const std::filesystem::path identity = std::filesystem::weakly_canonical(path);
  if (std::find(chain.begin(), chain.end(), identity) != chain.end()) {
    fail(ExitCode::config, from, ": include: ", path.string(),
         " is being read already; files include each other in a cycle");
  }
  chain.push_back(identity);
  Value merged = over_included(parse_yaml(read_config_file(path, from), path.string()), path, chain);
  chain.pop_back();
  return merged;
}

}  // namespace

struct Document::Impl {
  Value root{.kind = Value::Kind::mapping};
};

Document::Document(const std::filesystem::path& path, const std::vector<std::string>& assignments)
    : impl_(std::make_unique<Impl>()) {
  if (!path.empty()) {
    std::vector<std::filesystem::path> chain;
    impl_->root = load_file(path, "", chain);
  }
  std::string problems;
  for (const std::string& assignment : assignments) {
    try {
      apply_assignment(impl_->root, assignment);
    } catch (const Error& e) {
      problems += (problems.empty() ? "" : "\n") + std::string(e.what());
    }
  }
  if (!problems.empty()) throw Error(problems, ExitCode::config);
}

Document::Document(Value content, const std::filesystem::path& path) : impl_(std::make_unique<Impl>()) {
  std::vector<std::filesystem::path> chain;
  impl_->root = over_included(std::move(content), path, chain);
}

Document::~Document() = default;
Document::Document(Document&&) noexcept = default;

void Document::set_defaults(const std::string& section, const std::string& yaml, const std::string& file) {
  Value content = parse_yaml(yaml, file);
  set_origin(content, {file, 0});
  Value merged{.kind = Value::Kind::mapping, .origin = impl_->root.origin};
  merged.entries.emplace_back(section, std::move(content));
  merge(merged, std::move(impl_->root));
  impl_->root = std::move(merged);
}

std::string Document::text_at(const std::string& path) const {
  const Found found = find_deepest(impl_->root, path);
  return found.exact ? found.value->text : "";
}

std::unique_ptr<Fields> Document::make_reader() { return std::make_unique<Reader>(impl_->root); }

void Document::finish(Fields& reader) { static_cast<Reader&>(reader).finish(); }

std::unique_ptr<Fields> Document::make_printer(std::string& text) const {
  return config::make_printer(text, &impl_->root);
}

}  // namespace dga::config
