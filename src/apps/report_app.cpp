#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>

#include "apps/apps.h"
#include "report/page.h"
#include "report/run_data.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string output = "report.html";
  std::string title = "Runs";
};

/// Makes names that several runs have different by their folders.
void tell_apart(std::vector<RunData>& runs) {
  std::map<std::string, int64_t> count;
  for (const RunData& run : runs) ++count[run.name];
  for (RunData& run : runs) {
    if (count[run.name] > 1) run.name = str(run.name, " (", run.folder.string(), ")");
  }
}

ExitCode run_report(const ReportOptions& options) {
  std::vector<RunData> runs;
  for (const std::string& folder : options.runs) runs.push_back(read_run(folder));
  tell_apart(runs);
  const std::filesystem::path output = options.output;
  if (output.has_parent_path()) std::filesystem::create_directories(output.parent_path());
  write_file_atomic(output, report_page(options.title, runs));
  log::info("written to ", output.string());
  return ExitCode::ok;
}

}  // namespace

void add_report_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("report", "One HTML page with the curves and results of runs.");
  auto options = std::make_shared<ReportOptions>();
  app->add_option("runs", options->runs, "run folders")->required()->type_name("RUN");
  app->add_option("--output", options->output, "where the page goes")->capture_default_str();
  app->add_option("--title", options->title, "its heading")->capture_default_str();
  app->footer("The page holds all it needs: it opens without a network and can be sent as one file.");
  app->callback([options, &context] { context.action = [options] { return run_report(*options); }; });
}

}  // namespace dga
