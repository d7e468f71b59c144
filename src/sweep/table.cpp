#include "sweep/table.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "report/page.h"
#include "report/run_data.h"
#include "sweep/point_state.h"
#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

std::string number(const json& value, const char* format) {
  if (!value.is_number()) return "";
  char text[64];
  std::snprintf(text, sizeof(text), format, value.get<double>());
  return text;
}

std::vector<double> numbers(const json& series, const char* column) {
  std::vector<double> values;
  if (!series.is_object() || !series.contains(column)) return values;
  for (const json& value : series.at(column)) {
    if (value.is_number()) values.push_back(value.get<double>());
  }
  return values;
}

json last_tenth(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  const size_t count = std::max<size_t>(1, values.size() / 10);
  double sum = 0;
  for (size_t i = values.size() - count; i < values.size(); ++i) sum += values[i];
  return sum / static_cast<double>(count);
}

json median(std::vector<double> values) {
  if (values.empty()) return nullptr;
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

/// A point and what its run folder holds so far.
struct PointData {
  PointState state;
  RunData run;
};

std::optional<RunData> read_run_if_begun(const fs::path& folder) {
  if (!fs::exists(folder / "config.yaml")) return std::nullopt;
  return read_run(folder);
}

std::vector<PointData> read_points(const SweepPlan& plan) {
  std::vector<PointData> points;
  for (const SweepPoint& point : plan.points) {
    points.push_back({current_state(point), RunData{}});
    // What a changed point's folder holds is of its earlier config.
    if (points.back().state.status == PointStatus::changed) continue;
    points.back().run = read_run_if_begun(point.folder).value_or(RunData{});
  }
  return points;
}

std::set<int64_t> context_lengths(const std::vector<PointData>& points) {
  std::set<int64_t> lengths;
  for (const PointData& point : points) {
    const json& evaluation = point.run.last_perplexity();
    if (evaluation.is_null()) continue;
    for (const json& result : evaluation.at("results")) lengths.insert(result.at("context_length").get<int64_t>());
  }
  return lengths;
}

void add_results(const json& evaluation, int64_t length, std::vector<std::string>& row) {
  json found = json::object();
  if (!evaluation.is_null()) {
    for (const json& result : evaluation.at("results")) {
      if (result.at("context_length") == length) found = result;
    }
  }
  row.push_back(number(found.value("nll", json()), "%.4f"));
  row.push_back(number(found.value("perplexity", json()), "%.3f"));
  row.push_back(number(found.value("visible_pairs_per_token", json()), "%.1f"));
}

void add_training(const RunData& run, std::vector<std::string>& row) {
  const std::vector<double> steps = numbers(run.series, "step");
  row.push_back(steps.empty() ? "" : number(steps.back(), "%.0f"));
  row.push_back(number(last_tenth(numbers(run.series, "loss")), "%.4f"));
  row.push_back(number(median(numbers(run.series, "tokens_per_s")), "%.0f"));
}

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string markdown_row(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) {
    line += " ";
    for (const char c : cell) line += c == '|' ? std::string("\\|") : std::string(1, c);
    line += " |";
  }
  return line + "\n";
}

SweepTable make_table(const SweepPlan& plan, const std::vector<PointData>& points) {
  const std::set<int64_t> lengths = context_lengths(points);
  SweepTable table;
  table.header = {"point"};
  table.header.insert(table.header.end(), plan.fields.begin(), plan.fields.end());
  table.header.emplace_back("status");
  if (plan.job == SweepJob::train) {
    for (const char* column : {"steps", "train loss", "tokens/s"}) table.header.emplace_back(column);
  }
  for (const int64_t length : lengths) {
    for (const char* column : {"NLL", "perplexity", "pairs/token"}) table.header.push_back(str(column, " @", length));
  }
  table.header.emplace_back("note");
  for (size_t i = 0; i < plan.points.size(); ++i) {
    const auto& [state, run] = points[i];
    std::vector<std::string> row = {plan.points[i].name};
    for (const std::string& field : plan.fields) {
      const auto found = std::ranges::find(plan.points[i].settings, field, &std::pair<std::string, std::string>::first);
      row.push_back(found == plan.points[i].settings.end() ? "" : found->second);
    }
    row.push_back(config::name_of(state.status));
    if (plan.job == SweepJob::train) add_training(run, row);
    const json& evaluation = run.last_perplexity();
    for (const int64_t length : lengths) add_results(evaluation, length, row);
    const bool ahead = !evaluation.is_null() && evaluation.value("looks_ahead", false);
    row.push_back(state.status == PointStatus::failed ? state.error : ahead ? "looks ahead" : "");
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

std::string SweepTable::markdown() const {
  std::string text = markdown_row(header) + markdown_row(std::vector<std::string>(header.size(), "---"));
  for (const std::vector<std::string>& row : rows) text += markdown_row(row);
  return text;
}

std::string SweepTable::csv() const {
  std::string text;
  const auto add = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) text += (i > 0 ? "," : "") + csv_cell(cells[i]);
    text += "\r\n";
  };
  add(header);
  for (const std::vector<std::string>& row : rows) add(row);
  return text;
}

SweepTable sweep_table(const SweepPlan& plan) { return make_table(plan, read_points(plan)); }

void write_sweep_results(const SweepPlan& plan) {
  std::vector<PointData> points = read_points(plan);
  const SweepTable table = make_table(plan, points);
  write_file_atomic(plan.folder / "table.md", table.markdown());
  write_file_atomic(plan.folder / "table.csv", table.csv());
  std::vector<RunData> runs;
  std::vector<SweptPoint> swept;
  for (size_t i = 0; i < points.size(); ++i) {
    if (points[i].run.folder.empty()) continue;
    swept.push_back({plan.points[i].name, plan.points[i].settings});
    runs.push_back(std::move(points[i].run));
  }
  write_file_atomic(plan.folder / "report.html", report_page("Sweep " + plan.name, runs, swept));
}

}  // namespace dga
