#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>

#include "apps/apps.h"
#include "run/build_info.h"
#include "util/first_line.h"
#include "util/log.h"

namespace dga {

void add_set_option(CLI::App& app, std::vector<std::string>& assignments) {
  app.add_option("--set", assignments, "set a field of the config: section.field=value, the value is YAML (repeatable)")
      ->type_name("FIELD=VALUE")
      ->allow_extra_args(false);
}

namespace {

void print_error(const std::string& message) {
  // A config error has one line for each problem of the file.
  size_t begin = 0;
  while (begin < message.size()) {
    const size_t end = std::min(message.find('\n', begin), message.size());
    std::fprintf(stderr, "%serror: %s\n", log::line_prefix().c_str(), message.substr(begin, end - begin).c_str());
    begin = end + 1;
  }
}

ExitCode parse_and_run(int argc, char** argv) {
  CLI::App root{"Trains and evaluates LLaMA models at long context with full or Dynamic Group Attention."};
  AppContext context{{argv, argv + argc}, {}};
  root.name("dga");
  root.require_subcommand(1);
  root.set_version_flag("--version", build_info().version);
  add_train_app(root, context);
  add_eval_app(root, context);
  add_score_app(root, context);
  add_generate_app(root, context);
  add_tokenize_app(root, context);
  add_export_app(root, context);
  add_import_app(root, context);
  add_config_app(root, context);
  add_bench_app(root, context);
  add_sweep_app(root, context);
  add_report_app(root, context);
  add_info_app(root, context);
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() != 0) {
      print_error(std::string(e.what()) + "; see dga --help");
      return ExitCode::usage;
    }
    root.exit(e);  // prints the help or the version
    return ExitCode::ok;
  }
  return context.action();
}

}  // namespace
}  // namespace dga

int main(int argc, char** argv) {
  using dga::ExitCode;
  ExitCode code = ExitCode::failure;
  try {
    code = dga::parse_and_run(argc, argv);
  } catch (const dga::Error& e) {
    dga::print_error(e.what());
    code = e.code();
  } catch (const std::bad_alloc&) {
    dga::print_error("out of memory");
  } catch (const std::exception& e) {
    dga::print_error("internal: " + dga::first_line(e.what()));
  }
  if (code == ExitCode::ok) return 0;
  // Threads that hang in a collective of a failed run must not keep the process.
  std::fflush(nullptr);
  std::_Exit(static_cast<int>(code));
}
