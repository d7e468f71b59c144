#include "report/run_data.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <sstream>

#include "config/value.h"
#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr std::array kColumns = {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "mfu", "memory_bytes"};
constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

std::vector<json> read_lines(const fs::path& file) {
  std::vector<json> lines;
  std::istringstream in(read_file(file));
  int64_t number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    json line = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_discarded() && in.peek() == std::istringstream::traits_type::eof()) break;
    DGA_CHECK_INPUT(line.is_object(), file.string(), ":", number, ": not a JSON object");
    lines.push_back(std::move(line));
  }
  return lines;
}

/// Means over stretches of `stride` values, those that are missing left out.
json thinned(const std::vector<double>& values, size_t stride) {
  json result = json::array();
  for (size_t first = 0; first < values.size(); first += stride) {
    double sum = 0;
    int64_t count = 0;
    for (size_t i = first; i < std::min(first + stride, values.size()); ++i) {
      if (!std::isfinite(values[i])) continue;
      sum += values[i];
      ++count;
    }
    result.push_back(count > 0 ? json(sum / static_cast<double>(count)) : json(nullptr));
  }
  return result;
}

json read_series(const fs::path& file) {
  json series = json::object();
  const std::vector<json> lines = read_lines(file);
  const size_t stride = std::max<size_t>(1, (lines.size() + kSeriesPoints - 1) / kSeriesPoints);
  for (const char* column : kColumns) {
    std::vector<double> values;
    for (const json& line : lines) {
      const auto found = line.find(column);
      values.push_back(found != line.end() && found->is_number() ? found->get<double>() : kMissing);
    }
    if (std::ranges::any_of(values, [](double value) { return std::isfinite(value); })) {
      series[column] = thinned(values, stride);
    }
  }
  return series;
}

std::vector<json> read_evaluations(const fs::path& folder) {
  std::vector<json> evaluations;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    json document = json::parse(read_file(entry.path()), nullptr, /*allow_exceptions=*/false);
    DGA_CHECK_INPUT(document.is_object(), entry.path().string(), ": not a JSON object");
    document["file"] = entry.path().stem().string();
    evaluations.push_back(std::move(document));
  }
  std::ranges::sort(evaluations, {}, [](const json& document) {
    return std::pair(document.value("step", int64_t{-1}), document.at("file").get<std::string>());
  });
  return evaluations;
}

}  // namespace

const json& RunData::last_perplexity() const {
  static const json kNone;
  for (auto it = evaluations.rbegin(); it != evaluations.rend(); ++it) {
    if (!it->contains("task") && it->contains("results")) return *it;
  }
  return kNone;
}

RunData read_run(const fs::path& folder) {
  const fs::path config = folder / "config.yaml", metrics = folder / "metrics.jsonl", eval = folder / "eval";
  DGA_CHECK_INPUT(fs::exists(config) || fs::exists(metrics) || fs::is_directory(eval), folder.string(),
                  ": not a run folder (none of config.yaml, metrics.jsonl, eval/)");
  RunData run;
  run.folder = folder;
  if (fs::exists(config)) run.settings = config::flatten(config::parse_yaml(read_file(config), config.string()));
  if (fs::exists(metrics)) run.series = read_series(metrics);
  if (fs::is_directory(eval)) run.evaluations = read_evaluations(eval);
  const auto name = run.settings.find("run.name");
  const fs::path plain = folder.has_filename() ? folder : folder.parent_path();
  run.name = name != run.settings.end() ? name->second : plain.filename().string();
  return run;
}

}  // namespace dga
