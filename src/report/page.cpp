#include "report/page.h"

#include <algorithm>
#include <set>

#include "page_parts.h"

namespace dga {
namespace {

using nlohmann::json;

/// Puts `text` wherever the mark stands in the page.
void fill(std::string& page, const std::string& mark, const std::string& text) {
  for (size_t at = page.find(mark); at != std::string::npos; at = page.find(mark, at + text.size())) {
    page.replace(at, mark.size(), text);
  }
}

std::string escape_html(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '<' || c == '&') {
      escaped += c == '<' ? "&lt;" : "&amp;";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

/// JSON that may stand in a script element: "<" as an escape, so that no text can end the element; bytes that are no
/// UTF-8 replaced.
std::string embedded(const json& data) {
  std::string text;
  for (const char c : data.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace)) {
    if (c == '<') {
      text += "\\u003c";
    } else {
      text += c;
    }
  }
  return text;
}

json run_json(const RunData& run) {
  return {{"name", run.name},
          {"folder", run.folder.string()},
          {"series", run.series.is_null() ? json::object() : run.series},
          {"settings", run.settings},
          {"evaluations", run.evaluations}};
}

}  // namespace

std::vector<std::pair<std::string, std::vector<std::string>>> differing_settings(const std::vector<RunData>& runs) {
  std::set<std::string> paths;
  for (const RunData& run : runs) {
    for (const auto& [path, value] : run.settings) paths.insert(path);
  }
  paths.erase("run.name");
  paths.erase("run.folder");
  std::vector<std::pair<std::string, std::vector<std::string>>> differing;
  for (const std::string& path : paths) {
    std::vector<std::string> values;
    for (const RunData& run : runs) {
      const auto found = run.settings.find(path);
      values.push_back(found == run.settings.end() ? "(absent)" : found->second);
    }
    if (std::ranges::any_of(values, [&](const std::string& value) { return value != values.front(); })) {
      differing.emplace_back(path, std::move(values));
    }
  }
  return differing;
}

std::string report_page(const std::string& title, const std::vector<RunData>& runs,
                        const std::vector<SweptPoint>& sweep) {
  json data = {{"title", title}, {"runs", json::array()}, {"differing", json::array()}, {"sweep", json::array()}};
  for (const RunData& run : runs) data["runs"].push_back(run_json(run));
  for (const auto& [path, values] : differing_settings(runs)) {
    data["differing"].push_back({{"path", path}, {"values", values}});
  }
  for (const SweptPoint& point : sweep) {
    json settings = json::array();
    for (const auto& [path, value] : point.settings) settings.push_back({{"path", path}, {"value", value}});
    data["sweep"].push_back({{"run", point.run}, {"settings", settings}});
  }
  std::string page = page_html;
  fill(page, "@TITLE@", escape_html(title));
  fill(page, "@STYLE@", page_css);
  fill(page, "@SCRIPT@", page_js);
  fill(page, "@DATA@", embedded(data));
  return page;
}

}  // namespace dga
